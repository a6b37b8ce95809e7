"""Server-sent events as frames of bytes, exactly as the upstream sent them.

Rules (WHATWG HTML, 9.2.5–9.2.6): lines end in CRLF, LF or CR; an event ends at an empty line;
a line that starts with a colon is a comment; several `data` lines join with LF. Frames come out
equal however the stream is cut into pieces.
"""

import re
from typing import Any, Final

from gateway.dialects.reading.skim import Skimmer

_LF_END: Final = b"\n\n"
_ANY_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")
"""Two line ends in a row. A CR at the very end of what is known may be half of a CRLF, so it
only counts once the next byte is there."""
CR: Final = ord("\r")
LF: Final = ord("\n")
_DATA: Final = b"data:"
_FIELD_BYTES: Final = 32
"""So many bytes of a line say which field it is, and of an event's name enough."""
_OVERLAP: Final = 4
"""The longest end of a frame, CRLF CRLF: how far back the search starts when bytes are added."""


class FrameSplitter:
    """Cuts a stream of bytes into frames.

    tail:       the frame that has begun and is not complete
    separator:  what stood after each frame that `push` returned, and is not part of it: LF LF,
                or nothing once the stream has shown a CR (frames then carry their own end)
    continues:  the first frame that `push` returned is the end of one whose beginning was spilled
    """

    __slots__ = ("_spilled", "continues", "separator", "tail")
    inside = True
    """Blanks between frames are frames, too."""

    def __init__(self) -> None:
        self.tail = bytearray()
        self.separator = _LF_END
        self.continues = False
        self._spilled = False

    def push(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the frames that they complete."""
        frames = self._cut(data) if self.separator and CR not in data else self._cut_any(data)
        self.continues = self._spilled and bool(frames)
        if frames:
            self._spilled = False
        return frames

    def _cut(self, data: bytes) -> list[bytes]:
        tail = self.tail
        if tail:
            start = len(tail) - 1
            tail += data
            if tail.find(_LF_END, start) < 0:
                return []
            data = bytes(tail)
            tail.clear()
        frames = data.split(_LF_END)
        rest = frames.pop()
        if rest:
            tail += rest
        return frames

    def _cut_any(self, data: bytes) -> list[bytes]:
        self.separator = b""
        tail = self.tail
        start = max(0, len(tail) - _OVERLAP)
        tail += data
        frames = []
        begin = 0
        for match in _ANY_END.finditer(tail, start):
            frames.append(bytes(tail[begin : match.end()]))
            begin = match.end()
        del tail[:begin]
        return frames

    def spill(self) -> bytes:
        """Give away the beginning of a frame that is too long to be kept, all but its last bytes,
        which may be the first of its end."""
        tail = self.tail
        piece = bytes(tail[:-_OVERLAP])
        del tail[:-_OVERLAP]
        self._spilled = True
        return piece

    def rest(self) -> bytes:
        """At the end of the stream: the frame that has begun and was never ended."""
        rest = bytes(self.tail)
        self.tail.clear()
        return rest


class LongFrame:
    """An event that is too long to be kept: its data is skimmed line by line as it comes."""

    __slots__ = ("_line", "_passes", "_skimmer", "event")

    def __init__(self, skimmer: Skimmer) -> None:
        self.event = b""
        self._skimmer = skimmer
        self._line = b""  # the beginning of a line, until its field is known
        self._passes: bool | None = None  # whether the line is data; None while that is not known

    def feed(self, piece: bytes) -> None:
        """The next bytes of the frame."""
        for part in piece.splitlines(keepends=True):
            ends = part.endswith((b"\n", b"\r"))
            if self._passes is None:
                self._line += part
                if not ends and len(self._line) <= _FIELD_BYTES:
                    continue
                self._passes = self._line.startswith(_DATA)
                if not self._passes and not self.event:
                    self.event = event_of(self._line)
                part = self._line[len(_DATA) :]
                self._line = b""
            if self._passes:
                self._skimmer.feed(part)
            if ends:
                self._passes = None

    @property
    def document(self) -> Any:
        """What was kept of its data."""
        return self._skimmer.document

    @property
    def ended(self) -> bool:
        """Whether the document has come to its end."""
        return self._skimmer.ended


def data_of(frame: bytes) -> bytes:
    """The event's data, its lines joined by LF; empty for comments and blank frames."""
    # The two usual forms first: a data line alone, or after an event line.
    begin = frame.find(LF) + 1 if frame.startswith(b"event:") else 0
    if frame.startswith(b"data: ", begin) and LF not in frame[begin:] and CR not in frame:
        return frame[begin + 6 :]
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in frame.splitlines()
        if line.startswith(b"data:")
    ]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def event_of(frame: bytes) -> bytes:
    """The event's name, empty when it has none."""
    if frame.find(b"event:") < 0:
        return b""
    for line in frame.splitlines():
        if line.startswith(b"event:"):
            return line[6:].strip()
    return b""
