"""Meters: they take an answer's bytes, give the documents in them to a reader, and pass bytes on.

- `DocumentMeter`: one JSON document. Up to 1 MiB it is parsed at its end, a longer one as it comes.
- `EventMeter`: server-sent events. An event passes on when it is complete and what is held covers
  it; so whatever the gate adds to a stream begins on an event of its own. An event beyond 1 MiB
  (media) passes as it comes.
- `ArrayMeter`: a JSON array whose elements arrive in turn, as Gemini streams.

None of them raises on what an upstream sends.
"""

from abc import abstractmethod
from typing import Any, Final

import orjson

from gateway.dialects.base import NO_LIMIT, Meter
from gateway.dialects.reading.array import ArraySplitter
from gateway.dialects.reading.document import MAX_KEPT_BYTES, AnswerDocument
from gateway.dialects.reading.reader import AnswerReader, Limit
from gateway.dialects.reading.repeated import BACKSLASH, QUOTE
from gateway.dialects.reading.skim import BOM, Skimmer
from gateway.dialects.reading.sse import FrameSplitter, LongFrame, data_of, event_of

MAX_HELD_BYTES: Final = 16 * 1024 * 1024
"""A document that calls itself a stream is held back up to this."""


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

    def feed(self, data: bytes, most_output: float = NO_LIMIT, *, by_fewest: bool = False) -> bytes:
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
            passing += self._pass_covered(most_output, by_fewest=by_fewest)
        elif units:
            limited = not self._reader.has_room(len(units), kept + len(data), most_output)
            limit = Limit(most_output, by_fewest=by_fewest) if limited else None
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
            waited = self._pass_covered(NO_LIMIT, by_fewest=False)
        rest = self._splitter.rest()
        if self._long is not None:
            self._end_long(rest)
        elif rest and not broken and self._read(rest):
            rest = b""
        self._reader.update_count()
        return waited + rest

    def _pass_covered(self, most_output: float, *, by_fewest: bool) -> bytes:
        """Pass on what of the queue is covered now. Its first unit has been read."""
        limit = Limit(most_output, by_fewest=by_fewest)
        if limit.passed(self.facts):
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


class EventMeter(_UnitMeter):
    """Reads server-sent events. hides: usage chunks are removed."""

    def __init__(self, reader: AnswerReader, *, hides: bool = False) -> None:
        super().__init__(reader, FrameSplitter())
        self._hides = hides
        self._begun = False
        self._bom = b""  # what has come before the first event: blanks, a byte order mark
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._document: AnswerDocument | None = None  # a bare document that calls itself a stream

    def feed(self, data: bytes, most_output: float = NO_LIMIT, *, by_fewest: bool = False) -> bytes:
        """Read the events that `data` completes; return those that what is held covers."""
        if not self._begun:
            return self._begin(data, most_output, by_fewest=by_fewest)
        if self._document is not None:
            return self._hold(data)
        return super().feed(data, most_output, by_fewest=by_fewest)

    def finish(self, *, broken: bool = False) -> bytes:
        """Read a last event that was never ended; return what was held back."""
        if self._document is not None:
            read_document(self._document.value(), self._reader)
            held, self._held = b"".join(self._held), []
            return held
        before, self._bom = self._bom, b""
        return before + super().finish(broken=broken)

    @property
    def inside(self) -> bool:
        """Whether the client has the beginning of an event, or of a document, that has not ended."""
        return super().inside or self._document is not None

    def _begin(self, data: bytes, most_output: float, *, by_fewest: bool) -> bytes:
        """The first bytes: a byte order mark is no part of the first event, and a bare document is
        no event at all."""
        data = self._bom + data
        self._bom = b""
        start = data.removeprefix(BOM).lstrip()
        if not start or BOM.startswith(data):
            self._bom = data
            return b""
        self._begun = True
        if start[:1] in (b"{", b"["):
            self._document = AnswerDocument(self._reader.kept, self._reader.complete)
            return self._hold(data)
        mark = BOM if data.startswith(BOM) else b""
        return mark + super().feed(data[len(mark) :], most_output, by_fewest=by_fewest)

    def _hold(self, data: bytes) -> bytes:
        """A document waits until it is complete, like an event; one that is too long passes."""
        assert self._document is not None, "this is a document"
        self._document.feed(data)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes <= MAX_HELD_BYTES:
            return b""
        passing, self._held = b"".join(self._held), []
        return passing

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

    def _read_all(self, units: list[bytes], limit: Limit | None) -> tuple[int, list[int] | None]:
        reader = self._reader
        hidden: list[int] | None = None
        repeated = reader.repeated
        before, after = repeated.before, repeated.after
        begin, end = len(before), -len(after)
        texts = text_bytes = 0
        # How many texts and bytes the limit allows; nothing is compared where there is room.
        most_texts, most_bytes = reader.room(limit)
        for at, unit in enumerate(units):
            # The usual case of `RepeatedFrame.text_bytes`, without a call: half of the cost.
            size = -1
            if unit[:begin] == before and unit.endswith(after):
                text = unit[begin:end]
                if text and QUOTE not in text and BACKSLASH not in text:
                    size = len(text)
            if size < 0 and repeated.between:
                size = repeated.text_bytes(unit)
            if size > 0:
                texts += 1
                text_bytes += size
            elif size < 0:
                if texts:  # a report covers the output before it
                    reader.count_text(text_bytes, texts)
                    texts = text_bytes = 0
                if self._read(unit):
                    hidden = [at] if hidden is None else [*hidden, at]
                before, after = repeated.before, repeated.after
                begin, end = len(before), -len(after)
                most_texts, most_bytes = reader.room(limit)
            if texts > most_texts or text_bytes > most_bytes:
                reader.count_text(text_bytes, texts)
                return at, hidden
        reader.count_text(text_bytes, texts)
        return len(units), hidden


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
