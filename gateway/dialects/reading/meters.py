"""Meters: they take an answer's bytes, give the documents in them to a reader, and pass bytes on.

- `DocumentMeter`: one JSON document. Up to 1 MiB it is parsed at its end, a longer one as it comes.
- `EventMeter`: server-sent events. An event passes on when it is complete and what is held covers
  it; so whatever the gate adds to a stream begins on an event of its own. An event beyond 1 MiB
  (media) passes as it comes.
- `ArrayMeter`: a JSON array whose elements arrive in turn, as Gemini streams.

None of them raises on what an upstream sends.
"""

from abc import abstractmethod
from typing import Any

import orjson

from gateway.dialects.base import NO_LIMIT, Meter
from gateway.dialects.reading.array import ArraySplitter
from gateway.dialects.reading.document import MAX_KEPT_BYTES, AnswerDocument
from gateway.dialects.reading.reader import AnswerReader
from gateway.dialects.reading.repeated import BACKSLASH, QUOTE
from gateway.dialects.reading.skim import Skimmer
from gateway.dialects.reading.sse import FrameSplitter, LongFrame, data_of, event_of


def parse(data: bytes, reader: AnswerReader) -> Any:
    """The document in these bytes, as a parser or else the tolerant skimmer reads it; None when it
    is neither object nor list, or has no end."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        skimmer = Skimmer(reader.kept, reader.complete)
        skimmer.feed(data)
        return skimmer.document if skimmer.ended else None


def read_document(document: Any, reader: AnswerReader) -> None:
    """Give a complete answer to the reader. Some servers wrap an error into a list."""
    for each in document if type(document) is list else (document,):
        if type(each) is dict:
            reader.note_error(each)
            reader.read_document(each)
    reader.update_count()


class DocumentMeter(Meter):
    """Reads a whole answer at its end; bytes pass at once."""

    def __init__(self, reader: AnswerReader) -> None:
        self.facts = reader.facts
        self._reader = reader
        self._document = AnswerDocument(reader.kept, reader.complete)

    def feed(
        self,
        data: bytes,
        most_output: float = NO_LIMIT,  # noqa: ARG002 - the hold covers all of it
        *,
        by_fewest: bool = False,  # noqa: ARG002
    ) -> bytes:
        """Take the bytes and pass them on."""
        self._document.feed(data)
        return data

    def finish(self, *, broken: bool = False) -> bytes:  # noqa: ARG002 - read as far as it goes
        """Read the document. Nothing was held back."""
        read_document(self._document.value(), self._reader)
        return b""


class _UnitMeter(Meter):
    """Reads a stream unit by unit.

    A unit passes on when it is complete and what is held covers it. One that is too long to be kept
    passes as it comes, and is read when it has ended.
    """

    def __init__(self, reader: AnswerReader, splitter: FrameSplitter | ArraySplitter) -> None:
        self.facts = reader.facts
        self._reader = reader
        self._splitter = splitter
        self._queue: list[bytes] = []  # complete, and not passed on yet
        self._ahead: bool | None = None  # whether the first of them, read already, is hidden
        self._long: Skimmer | LongFrame | None = None

    @property
    def waiting(self) -> bool:
        """Whether complete units wait until more is held."""
        return bool(self._queue)

    @property
    def inside(self) -> bool:
        """Whether the client has the beginning of a unit that has not ended."""
        return self._long is not None

    def feed(self, data: bytes, most_output: float = NO_LIMIT, *, by_fewest: bool = False) -> bytes:
        """Read the units that `data` completes; return those that what is held covers."""
        splitter = self._splitter
        kept = len(splitter.tail)
        units = splitter.push(data)
        passing = self._end_long(units.pop(0)) if splitter.continues else b""
        if self._queue or not self._reader.has_room(len(units), kept + len(data), most_output):
            self._queue += units
            passing += self._pass_covered(most_output, by_fewest=by_fewest)
        elif units:
            hidden = self._read_all(units)
            self._reader.update_count()
            if hidden is None and not kept and not splitter.tail:
                return data
            passing += self._join(
                [unit for at, unit in enumerate(units) if not hidden or at not in hidden]
            )
        if not self._queue and (self._long or len(splitter.tail) > MAX_KEPT_BYTES):
            passing += self._spill()
        return passing

    def finish(self, *, broken: bool = False) -> bytes:
        """Read a last unit that was never ended; return what was held back."""
        rest = self._splitter.rest()
        if self._long is not None:
            self._end_long(rest)
        elif rest and not broken and self._read(rest):
            rest = b""
        self._reader.update_count()
        return rest

    def _pass_covered(self, most_output: float, *, by_fewest: bool) -> bytes:
        reader, queue, facts = self._reader, self._queue, self.facts
        visible = []
        passed = 0
        for unit in queue:
            hidden = self._read(unit) if self._ahead is None else self._ahead
            self._ahead = None
            reader.update_count()
            if (facts.fewest_output if by_fewest else facts.counted_output) > most_output:
                self._ahead = hidden
                break
            passed += 1
            if not hidden:
                visible.append(unit)
        del queue[:passed]
        return self._join(visible)

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

    def _read_all(self, units: list[bytes]) -> list[int] | None:
        """Read units; return which are hidden."""
        for unit in units:
            self._read(unit)
        return None

    def _take(self, document: dict[str, Any], unit: bytes) -> bool:
        self._reader.note_error(document)
        return self._reader.read_event(document, unit)


class EventMeter(_UnitMeter):
    """Reads server-sent events. hides: usage chunks are removed."""

    def __init__(self, reader: AnswerReader, *, hides: bool = False) -> None:
        super().__init__(reader, FrameSplitter())
        self._hides = hides
        self._begun = False
        self._document: AnswerDocument | None = None  # a bare document that calls itself a stream

    def feed(self, data: bytes, most_output: float = NO_LIMIT, *, by_fewest: bool = False) -> bytes:
        """Read the events that `data` completes; return those that what is held covers."""
        if not self._begun and (start := data.lstrip()):
            self._begun = True
            if start[:1] in (b"{", b"["):
                self._document = AnswerDocument(self._reader.kept, self._reader.complete)
        if self._document is not None:
            self._document.feed(data)
            return data
        return super().feed(data, most_output, by_fewest=by_fewest)

    def finish(self, *, broken: bool = False) -> bytes:
        """Read a last event that was never ended; return what was held back."""
        if self._document is not None:
            read_document(self._document.value(), self._reader)
        return super().finish(broken=broken)

    def _begin_long(self) -> LongFrame:
        return LongFrame(Skimmer(self._reader.kept, self._reader.complete))

    def _read(self, unit: bytes) -> bool:
        data = data_of(unit)
        if event_of(unit) == b"error":
            self.facts.error = True
        if not data:
            return False
        if data.strip() == b"[DONE]":
            self._reader.done()
            return False
        document = parse(data, self._reader)
        return type(document) is dict and self._take(document, unit) and self._hides

    def _read_all(self, units: list[bytes]) -> list[int] | None:
        hidden: list[int] | None = None
        repeated = self._reader.repeated
        before, after = repeated.before, repeated.after
        begin, end = len(before), -len(after)
        texts = text_bytes = 0
        for at, unit in enumerate(units):
            # The usual case of `RepeatedFrame.text_bytes`, without a call: half of the cost.
            if unit[:begin] == before and unit.endswith(after):
                text = unit[begin:end]
                if text and QUOTE not in text and BACKSLASH not in text:
                    texts += 1
                    text_bytes += len(text)
                    continue
            size = repeated.text_bytes(unit) if repeated.between else -1
            if size > 0:
                texts += 1
                text_bytes += size
            elif size < 0:
                if texts:  # a report covers the output before it
                    self._reader.count_text(text_bytes, texts)
                    texts = text_bytes = 0
                if self._read(unit):
                    hidden = [at] if hidden is None else [*hidden, at]
                before, after = repeated.before, repeated.after
                begin, end = len(before), -len(after)
        self._reader.count_text(text_bytes, texts)
        return hidden


class ArrayMeter(_UnitMeter):
    """Reads the elements of a streamed array."""

    def __init__(self, reader: AnswerReader) -> None:
        super().__init__(reader, ArraySplitter())

    def feed(self, data: bytes, most_output: float = NO_LIMIT, *, by_fewest: bool = False) -> bytes:
        """Read the elements that `data` completes; return those that what is held covers."""
        passing = super().feed(data, most_output, by_fewest=by_fewest)
        splitter = self._splitter
        if not self._queue and not splitter.inside and splitter.tail:
            passing += splitter.rest()  # brackets and blanks between elements
        return passing

    def _begin_long(self) -> Skimmer:
        return Skimmer(self._reader.kept, self._reader.complete)

    def _without_prefix(self, beginning: bytes) -> bytes:
        return beginning[max(0, beginning.find(b"{")) :]

    def _read(self, unit: bytes) -> bool:
        begin = unit.find(b"{")
        document = parse(unit[begin:], self._reader) if begin >= 0 else None
        if type(document) is dict:
            self._take(document, unit)
        return False
