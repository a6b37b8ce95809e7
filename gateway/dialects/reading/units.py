"""The part of a meter that streams of events and of array elements share: what passes on, and when."""

from abc import abstractmethod
from typing import Any

import orjson

from gateway.dialects.base import Limit, Meter
from gateway.dialects.reading.array import ArraySplitter
from gateway.dialects.reading.document import MAX_KEPT_BYTES
from gateway.dialects.reading.reader import AnswerReader
from gateway.dialects.reading.skim import Skimmer
from gateway.dialects.reading.sse import FrameSplitter, LongFrame


def parse(data: bytes, reader: AnswerReader) -> Any:
    """The document in these bytes, as a parser or else the tolerant skimmer reads it; None when it
    is neither object nor list, or has no end."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        skimmer = Skimmer(reader.kept, reader.complete)
        skimmer.feed(data)
        return skimmer.document if skimmer.ended else None


class UnitMeter(Meter):
    """Reads a stream unit by unit.

    A unit passes on when it is complete and what is held covers it. One that is too long to be kept
    passes as it comes, and is read when it has ended.
    """

    def __init__(self, reader: AnswerReader, splitter: FrameSplitter | ArraySplitter) -> None:
        self.facts = reader.facts
        self._reader = reader
        self._splitter = splitter
        self._queue: list[bytes] = []  # complete, and not passed on yet
        self._ahead = False  # the first of them, which has been read, is hidden
        self._long: Skimmer | LongFrame | None = None

    @property
    def waiting(self) -> bool:
        """Whether complete units wait until more is held."""
        return bool(self._queue)

    @property
    def inside(self) -> bool:
        """Whether the client has the beginning of a unit that has not ended."""
        return self._long is not None

    def feed(self, data: bytes, limit: Limit | None = None) -> bytes:
        """Read the units that `data` completes; return those that what is held covers."""
        splitter = self._splitter
        kept = len(splitter.tail)
        separator = splitter.separator
        units = splitter.push(data)
        if separator != splitter.separator:  # from now on frames carry their own ends
            self._queue = [unit + separator for unit in self._queue]
        passing = self._end_long(units.pop(0)) if splitter.continues else b""
        if self._queue:
            self._queue += units
            passing += self._pass_covered(limit)
        elif units:
            read, hidden = self._read_all(units, limit)
            self._reader.update_count()
            if hidden is None and not kept and not splitter.tail and read == len(units):
                return data
            passing += self._join(
                [unit for at, unit in enumerate(units[:read]) if not hidden or at not in hidden]
            )
            if read < len(units):
                # The unit after those that pass has been read: it is beyond what is held.
                self._queue = units[read:]
                self._ahead = hidden is not None and read in hidden
        if not self._queue and (self._long or len(splitter.tail) > MAX_KEPT_BYTES):
            passing += self._spill()
        return passing

    def finish(self, *, broken: bool = False) -> bytes:
        """Read a last unit that was never ended; return what was held back."""
        waited = b""
        if self._queue and not broken:
            waited = self._pass_covered(None)
        rest = self._splitter.rest()
        if not (rest or waited or self._long):
            return b""
        if self._long is not None:
            self._end_long(rest)
        elif rest and not broken and self._read(rest):
            rest = b""
        self._reader.update_count()
        return waited + rest

    def _pass_covered(self, limit: Limit | None) -> bytes:
        """Pass on what of the queue is covered now. Its first unit has been read."""
        if limit is not None and limit.passed(self.facts):
            return b""
        queue = self._queue
        first = [] if self._ahead else [queue[0]]
        read, hidden = self._read_all(queue[1:], limit)
        self._reader.update_count()
        visible = [
            unit for at, unit in enumerate(queue[1 : read + 1]) if not hidden or at not in hidden
        ]
        self._queue = queue[read + 1 :]
        self._ahead = hidden is not None and read in hidden
        return self._join(first + visible)

    def _join(self, units: list[bytes]) -> bytes:
        separator = self._splitter.separator
        return separator.join(units) + separator if units else b""

    def _spill(self) -> bytes:
        if self._long is None:
            self._long = self._begin_long()
            piece = self._splitter.spill()
            self._long.feed(self._without_prefix(piece))
        else:
            piece = self._splitter.spill()
            self._long.feed(piece)
        return piece

    def _without_prefix(self, beginning: bytes) -> bytes:
        """The beginning of a long unit without what stands before it."""
        return beginning

    def _end_long(self, end: bytes) -> bytes:
        """Read the long unit that ends with these bytes; return them as they pass on."""
        long = self._long
        assert long is not None, "a long unit has begun"
        long.feed(end)
        self._long = None
        if type(long) is LongFrame and long.event == b"error":
            self.facts.error = True
        if type(long.document) is dict and long.ended:
            self._take(long.document, b"")
        self._reader.update_count()
        return end + self._splitter.separator

    @abstractmethod
    def _begin_long(self) -> Skimmer | LongFrame:
        """What reads a unit that is too long to be kept."""

    @abstractmethod
    def _read(self, unit: bytes) -> bool:
        """Read one unit; True when it is hidden from the client."""

    def _read_all(self, units: list[bytes], limit: Limit | None) -> tuple[int, list[int] | None]:
        """Read units up to the first that passes the limit, that one included. Returns how many are
        within the limit, and which of all that were read are hidden."""
        for at, unit in enumerate(units):
            self._read(unit)
            if limit is not None:
                self._reader.update_count()
                if limit.passed(self.facts):
                    return at, None
        return len(units), None

    def _take(self, document: dict[str, Any], unit: bytes) -> bool:
        self._reader.note_error(document)
        return self._reader.read_event(document, unit)
