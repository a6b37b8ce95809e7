"""Server-sent events as frames of bytes, exactly as the upstream sent them.

Law (WHATWG HTML, 9.2.5–9.2.6): lines end in CRLF, LF or CR; an event ends at an empty line;
a line that starts with a colon is a comment; several `data` lines join with LF. Frames come out
equal however the stream is cut into pieces. A frame that does not end is held only up to
`MAX_FRAME_BYTES`; the rest of it is skipped.
"""

import re
from typing import Final

MAX_FRAME_BYTES: Final = 4 * 1024 * 1024
"""The last event of a Responses stream repeats the whole answer, so frames may be large."""

_LF_END: Final = b"\n\n"
_ANY_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")
"""Two line ends in a row. A CR at the very end of what is known may be half of a CRLF, so it
only counts once the next byte is there."""
_CR: Final = ord("\r")
_LF: Final = ord("\n")
_OVERLAP: Final = 4
"""The longest end of a frame, CRLF CRLF: how far back the search starts when bytes are added."""


class FrameSplitter:
    """Cuts a stream of bytes into frames.

    tail:       the begun frame, not yet complete
    separator:  what stood after each frame that `push` returned, and is not part of it: LF LF,
                or nothing once the stream has shown a CR (frames then carry their own end)
    readable:   index of the first returned frame that is whole: 1 when the first one is the end
                of a frame that was too long, else 0
    overlong:   how many frames were too long to be read
    """

    __slots__ = ("_limit", "_skipping", "overlong", "readable", "separator", "tail")

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self.tail = bytearray()
        self.separator = _LF_END
        self.readable = 0
        self.overlong = 0
        self._limit = limit_bytes
        self._skipping = False

    def push(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the frames that they complete."""
        if not self.separator or _CR in data:
            return self._push_any(data)
        tail = self.tail
        if tail:
            start = len(tail) - 1
            tail += data
            if tail.find(_LF_END, start) < 0:
                self._bound()
                return []
            data = bytes(tail)
            tail.clear()
        frames = data.split(_LF_END)
        rest = frames.pop()
        self._note_skipped(frames)
        if rest:
            tail += rest
            self._bound()
        return frames

    def _push_any(self, data: bytes) -> list[bytes]:
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
        self._note_skipped(frames)
        self._bound()
        return frames

    def _note_skipped(self, frames: list[bytes]) -> None:
        """The first frame after too long a begun one is its end."""
        self.readable = 1 if self._skipping and frames else 0
        if frames:
            self._skipping = False

    def _bound(self) -> None:
        tail = self.tail
        if len(tail) > self._limit:
            if not self._skipping:
                self._skipping = True
                self.overlong += 1
            del tail[:-_OVERLAP]

    def rest(self) -> bytes:
        """At the end of the stream: the frame that was begun and never ended."""
        rest = b"" if self._skipping else bytes(self.tail)
        self.tail.clear()
        return rest


def data_of(frame: bytes) -> bytes:
    """The event's data, its lines joined by LF; empty for comments and blank frames."""
    # The two usual forms first: a data line alone, or after an event line.
    begin = frame.find(_LF) + 1 if frame.startswith(b"event:") else 0
    if frame.startswith(b"data: ", begin) and _LF not in frame[begin:] and _CR not in frame:
        return frame[begin + 6 :]
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in frame.splitlines()
        if line.startswith(b"data:")
    ]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)
