"""Meters: they take an answer's bytes, give the documents in them to a reader, and pass bytes on.

- `DocumentMeter`: one JSON document. Up to 1 MiB it is parsed at its end, a longer one as it comes.
- `EventMeter`: server-sent events. An event passes on when it is complete and what is held covers
  it; so whatever the gate adds to a stream begins on an event of its own. An event beyond 1 MiB
  (media) passes as it comes.
- `ArrayMeter`: a JSON array whose elements arrive in turn, as Gemini streams.

None of them raises on what an upstream sends.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson

from gateway.dialects.base import AnswerFacts, Limit, Meter
from gateway.dialects.reading.array import ArraySplitter
from gateway.dialects.reading.document import MAX_KEPT_BYTES, AnswerDocument
from gateway.dialects.reading.reader import AnswerReader
from gateway.dialects.reading.repeated import BACKSLASH, NOT_PLAIN, QUOTE
from gateway.dialects.reading.skim import BOM, Skimmer
from gateway.dialects.reading.sse import CR, LF, FrameSplitter, LongFrame, data_of, event_of
from gateway.dialects.reading.units import UnitMeter, parse

_FEW_FRAMES: Final = 3
"""So many frames are read one by one: recognising them together costs as much."""
_DONE: Final = b"data: [DONE]"
MAX_HELD_BYTES: Final = 16 * 1024 * 1024
"""A document that calls itself a stream is held back up to this."""


ReadOrdinary = Callable[[Any, AnswerFacts], bool]


def read_document(document: Any, reader: AnswerReader) -> None:
    """Give a complete answer to the reader. Some servers wrap an error into a list."""
    for each in document if type(document) is list else (document,):
        if type(each) is dict:
            reader.note_error(each)
            reader.read_document(each)
    reader.update_count()


class DocumentMeter(Meter):
    """Reads a complete answer at its end; bytes pass at once.

    new_reader:     makes the reader of any answer
    read_ordinary:  fills in the facts of an ordinary answer, exactly as the reader would; False,
                    with the facts untouched, for any other
    """

    def __init__(
        self, new_reader: Callable[[], AnswerReader], read_ordinary: ReadOrdinary | None = None
    ) -> None:
        self.facts = AnswerFacts()
        self._new_reader = new_reader
        self._read_ordinary = read_ordinary
        # Most answers arrive in one piece and need nothing that joins pieces.
        self._only: bytes | None = None
        self._document: AnswerDocument | None = None

    def feed(self, data: bytes, limit: Limit | None = None) -> bytes:  # noqa: ARG002 - all is held
        """Take the bytes and pass them on."""
        if self._only is None:
            self._only = data
        else:
            self._joined().feed(data)
        return data

    def finish(self, *, broken: bool = False) -> bytes:  # noqa: ARG002 - read as far as it goes
        """Read the document. Nothing was held back."""
        data = self._only if self._document is None else self._document.kept_bytes()
        document = None
        if data and len(data) <= MAX_KEPT_BYTES:
            try:
                document = orjson.loads(data)
            except orjson.JSONDecodeError:
                pass
            else:
                if self._read_ordinary is not None and self._read_ordinary(document, self.facts):
                    return b""
        reader = self._new_reader()
        reader.facts = self.facts
        read_document(self._joined().value() if document is None else document, reader)
        return b""

    def _joined(self) -> AnswerDocument:
        """The pieces so far as one document."""
        if self._document is None:
            reader = self._new_reader()
            self._document = AnswerDocument(reader.kept, reader.complete)
            self._document.feed(self._only or b"")
        return self._document


class EventMeter(UnitMeter):
    """Reads server-sent events. hides: usage chunks are removed."""

    def __init__(self, reader: AnswerReader, *, hides: bool = False) -> None:
        super().__init__(reader, FrameSplitter())
        self._hides = hides
        self._begun = False
        self._between_frames = False  # complete frames have passed and nothing waits
        self._bom = b""  # what has come before the first event: blanks, a byte order mark
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._document: AnswerDocument | None = None  # a bare document that calls itself a stream

    def feed(self, data: bytes, limit: Limit | None = None) -> bytes:
        """Read the events that `data` completes; return those that what is held covers."""
        if self._between_frames:
            reader = self._reader
            repeated = reader.repeated
            if data.startswith(repeated.before) and data.endswith(repeated.end):
                text = data[repeated.begin : repeated.stop]
                # One text that needs no escape is what a paced stream has in each piece.
                if text and text.translate(None, NOT_PLAIN) == text:
                    if reader.count_covered(len(text), 1, limit):
                        return data
                else:
                    frames, text_bytes = repeated.texts_of(data)
                    if frames and reader.count_covered(text_bytes, frames, limit):
                        return data
        if not self._begun:
            return self._begin(data, limit)
        if self._document is not None:
            return self._hold(data)
        passing = super().feed(data, limit)
        splitter = self._splitter
        self._between_frames = not (
            self._queue or self._long or splitter.tail or not splitter.separator
        )
        return passing

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

    def _begin(self, data: bytes, limit: Limit | None) -> bytes:
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
        return mark + super().feed(data[len(mark) :], limit)

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
        if unit.startswith(b"data: {") and LF not in unit and CR not in unit:
            data = unit[6:]  # nearly all events are one line with an object
        elif unit == _DONE:
            self._reader.done()
            return False
        else:
            data = data_of(unit)
            if event_of(unit) == b"error":
                self.facts.error = True
            if not data:
                return False
            if data.strip() == b"[DONE]":
                self._reader.done()
                return False
        reader = self._reader
        document = parse(data, reader)
        if type(document) is not dict:
            return False
        reader.note_error(document)
        return reader.read_event(document, unit) and self._hides

    def _read_all(self, units: list[bytes], limit: Limit | None) -> tuple[int, list[int] | None]:
        reader = self._reader
        hidden: list[int] | None = None
        repeated = reader.repeated
        before, after = repeated.before, repeated.after
        begin, end = len(before), -len(after)
        texts = text_bytes = 0
        # How many texts and bytes the limit allows; nothing is compared where there is room.
        most_texts, most_bytes = reader.room(limit)
        at, count = 0, len(units)
        starts = count > _FEW_FRAMES and units[0].startswith(before)
        if starts and self._splitter.separator and not repeated.between:
            frames, size = repeated.leading_texts(units)
            if frames <= most_texts and size <= most_bytes:
                at, texts, text_bytes = frames, frames, size
        while at < count:
            unit = units[at]
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
                most_texts, most_bytes = reader.room(limit)
                if repeated.before is not before:
                    before, after = repeated.before, repeated.after
                    begin, end = len(before), -len(after)
                    if count - at > _FEW_FRAMES and self._splitter.separator:
                        frames, size = repeated.leading_texts(units[at + 1 :])
                        if frames <= most_texts and size <= most_bytes:
                            reader.count_text(size, frames)
                            most_texts, most_bytes = reader.room(limit)
                            at += frames
            if texts > most_texts or text_bytes > most_bytes:
                reader.count_text(text_bytes, texts)
                return at, hidden
            at += 1
        reader.count_text(text_bytes, texts)
        return count, hidden


class ArrayMeter(UnitMeter):
    """Reads the elements of a streamed array."""

    def __init__(self, reader: AnswerReader) -> None:
        super().__init__(reader, ArraySplitter())

    def feed(self, data: bytes, limit: Limit | None = None) -> bytes:
        """Read the elements that `data` completes; return those that what is held covers."""
        passing = super().feed(data, limit)
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
