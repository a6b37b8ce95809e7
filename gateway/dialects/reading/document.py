"""One JSON document of an answer, however long it is and however it arrives."""

from typing import Any, Final

import orjson

from gateway.dialects.reading.skim import Skimmer

MAX_KEPT_BYTES: Final = 1024 * 1024
"""A document or event up to this is kept until it is complete. More than the longest text that a
model writes in one piece; what is longer carries media or vectors."""


SKIMMED_AT_ONCE: Final = 128 * 1024
"""How much of the kept beginning is skimmed with each further piece, so that the event loop is never
blocked by all of it."""


class AnswerDocument:
    """Bytes that become one document: kept while they are few, else skimmed as they come.

    kept, complete: see `Skimmer`
    """

    __slots__ = ("_complete", "_kept", "_most_bytes", "_pieces", "_size", "_skimmer")

    def __init__(
        self, kept: frozenset[str], complete: frozenset[str], most_bytes: int | None = None
    ) -> None:
        self._kept = kept
        self._complete = complete
        self._most_bytes = MAX_KEPT_BYTES if most_bytes is None else most_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._skimmer: Skimmer | None = None

    @property
    def skimmed(self) -> bool:
        """Whether it is too long to be kept, so that lists and texts may have been shortened."""
        return self._size > self._most_bytes

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > self._most_bytes:
            self._skim(len(data) + SKIMMED_AT_ONCE)

    def value(self) -> Any:
        """The document; one that has no end as far as it goes; None when it is neither object nor
        list."""
        if not self.skimmed:
            try:
                return orjson.loads(b"".join(self._pieces))
            except orjson.JSONDecodeError:
                pass
        return self._skim(self._size).document

    def kept_bytes(self) -> bytes | None:
        """All bytes so far; None when it is too long to be kept."""
        return None if self.skimmed else b"".join(self._pieces)

    def _skim(self, most_bytes: int) -> Skimmer:
        """Skim pieces that wait, at least so many bytes or all."""
        skimmer = self._skimmer
        if skimmer is None:
            skimmer = self._skimmer = Skimmer(self._kept, self._complete)
            self._pieces = [
                piece[at : at + SKIMMED_AT_ONCE]
                for piece in self._pieces
                for at in range(0, len(piece), SKIMMED_AT_ONCE)
            ]
        done = 0
        for piece in self._pieces:
            if most_bytes <= 0:
                break
            skimmer.feed(piece)
            most_bytes -= len(piece)
            done += 1
        del self._pieces[:done]
        return skimmer
