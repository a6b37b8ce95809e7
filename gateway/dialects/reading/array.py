"""A JSON array whose elements are objects, cut into its elements however the bytes arrive."""

import re
from typing import Final

_OUTSIDE: Final = re.compile(rb'["{}]')
_INSIDE: Final = re.compile(rb'["\\]')


class ArraySplitter:
    """Only braces outside of strings count.

    `push` returns pieces: what stands before an element (bracket, comma, blanks) and the element.
    tail:       the element that has begun and is not complete, and what stands before it
    continues:  the first piece that `push` returned is the end of an element whose beginning was spilled
    """

    separator = b""
    __slots__ = ("_at", "_depth", "_in_string", "_spilled", "continues", "tail")

    def __init__(self) -> None:
        self.tail = bytearray()
        self.continues = False
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._spilled = False

    def push(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the pieces that they complete."""
        tail = self.tail
        tail += data
        pieces = []
        begin = 0
        while True:
            match = (_INSIDE if self._in_string else _OUTSIDE).search(tail, self._at)
            if match is None:
                self._at = len(tail)
                break
            self._at = match.end()
            mark = match[0]
            if mark == b"\\":
                if self._at == len(tail):  # what is escaped has not come yet
                    self._at -= 1
                    break
                self._at += 1
            elif mark == b'"':
                self._in_string = not self._in_string
            elif mark == b"{":
                self._depth += 1
            elif self._depth:
                self._depth -= 1
                if self._depth == 0:
                    pieces.append(bytes(tail[begin : self._at]))
                    begin = self._at
        del tail[:begin]
        self._at -= begin
        self.continues = self._spilled and bool(pieces)
        if pieces:
            self._spilled = False
        return pieces

    def spill(self) -> bytes:
        """Give away what was read of an element that is too long to be kept."""
        piece = bytes(self.tail[: self._at])
        del self.tail[: self._at]
        self._at = 0
        self._spilled = True
        return piece

    @property
    def inside(self) -> bool:
        """Whether an element has begun and not ended."""
        return self._depth > 0

    def rest(self) -> bytes:
        """What belongs to no complete element."""
        rest = bytes(self.tail)
        self.tail.clear()
        self._at = 0
        return rest
