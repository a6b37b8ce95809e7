"""One JSON document of an answer, however long it is and however it arrives."""

from typing import Any, Final

import orjson

from gateway.dialects.reading.skim import Skimmer

MAX_KEPT_BYTES: Final = 1024 * 1024
"""A document or event up to this is kept until it is complete. More than the longest text that a
model writes in one piece; what is longer carries media or vectors."""


class AnswerDocument:
    """Bytes that become one document: kept while they are few, else skimmed as they come.

    kept, complete: see `Skimmer`
    """

    __slots__ = ("_complete", "_kept", "_pieces", "_size", "_skimmer")

    def __init__(self, kept: frozenset[str], complete: frozenset[str]) -> None:
        self._kept = kept
        self._complete = complete
        self._pieces: list[bytes] = []
        self._size = 0
        self._skimmer: Skimmer | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._skimmer is not None:
            self._skimmer.feed(data)
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MAX_KEPT_BYTES:
            self._skim()

    def value(self) -> Any:
        """The document; one that has no end as far as it goes; None when it is neither object nor
        list."""
        if self._skimmer is None:
            try:
                return orjson.loads(b"".join(self._pieces))
            except orjson.JSONDecodeError:
                self._skim()
        return self._skimmer.document if self._skimmer is not None else None

    def _skim(self) -> None:
        self._skimmer = Skimmer(self._kept, self._complete)
        for piece in self._pieces:
            self._skimmer.feed(piece)
        self._pieces.clear()
