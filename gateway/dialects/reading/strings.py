"""Strings of JSON as they stand on the wire: read piece by piece, and tolerantly."""

import json
import re
from typing import Final

import orjson

from gateway.dialects.reading.text import LongText

MAX_STRING_BYTES: Final = 4096
"""A string up to this is kept completely."""
HEAD_BYTES: Final = 256

_ESCAPE: Final = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


class EscapedString:
    """A string while it is read, still escaped. Pieces never end inside an escape."""

    __slots__ = ("_head", "_size", "_whole")

    def __init__(self) -> None:
        self._head = b""
        self._whole = True
        self._size = 0

    def add(self, piece: bytes) -> None:
        """The next bytes."""
        if self._whole:
            if len(self._head) + len(piece) <= MAX_STRING_BYTES:
                self._head += piece
                return
            self._whole = False
            self._size = _unescaped_bytes(self._head)
            self._head = (self._head + piece[:HEAD_BYTES])[:HEAD_BYTES]
        self._size += _unescaped_bytes(piece)

    def value(self) -> str:
        """The string, or its beginning and size."""
        if self._whole:
            return _unescape(self._head)
        # The head may end inside an escape; what is after its last backslash is not needed.
        head, backslash, tail = self._head.rpartition(b"\\")
        return LongText.of(_unescape(head if backslash else tail), self._size)


def _unescape(raw: bytes) -> str:
    """A string as its bytes mean it, or as near as they come to a meaning."""
    try:
        text: str = orjson.loads(b'"' + raw + b'"')
        return text
    except orjson.JSONDecodeError:
        pass
    shown = raw.decode("utf-8", "replace")
    try:
        text = json.loads('"' + shown + '"', strict=False)  # control characters, lone surrogates
    except ValueError:
        return shown
    return text


def _unescaped_bytes(raw: bytes) -> int:
    """Bytes of UTF-8 that a piece of an escaped string stands for."""
    size = len(raw)
    if raw.find(b"\\") < 0:
        return size
    for match in _ESCAPE.finditer(raw):
        code = match[1]
        if code is None:
            size -= 1
            continue
        point = int(code, 16)
        # Two halves of a surrogate pair are four bytes together.
        means = 1 if point < 0x80 else 2 if point < 0x800 or 0xD800 <= point < 0xE000 else 3
        size -= 6 - means
    return size
