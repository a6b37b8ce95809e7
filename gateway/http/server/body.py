"""Request bodies that have not arrived completely: collected up to their end. Pure, no I/O.

Both kinds keep their bytes in one `bytearray`, so that tiny pieces cost no object each.
"""

from typing import Final

import httptools

_SILENT_MAX_BYTES: Final = 64 * 1024
"""So much may arrive in a row without a byte of the body: chunk extensions and trailers."""
_CHUNKED_HEAD: Final = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"


class SizedBody:
    """A body whose Content-Length is known."""

    __slots__ = ("_data", "_missing_bytes", "length")

    closes = False
    """Nothing in such a body ends the connection."""
    broken = False

    def __init__(self, length: int) -> None:
        self.length: int | None = length
        self._missing_bytes = length
        self._data = bytearray()

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return len(self._data)

    @property
    def whole(self) -> bool:
        """Whether the last byte has arrived."""
        return self._missing_bytes == 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; returns those that are behind the body."""
        missing = self._missing_bytes
        if len(data) <= missing:
            self._data += data
            self._missing_bytes = missing - len(data)
            return b""
        self._data += data[:missing]
        self._missing_bytes = 0
        return data[missing:]

    def take(self) -> bytes:
        """Return what has arrived, and keep nothing."""
        data, self._data = bytes(self._data), bytearray()
        return data


class ChunkedBody:
    """A body in chunks (RFC 9112, 7.1), read by llhttp.

    Trailers are dropped. llhttp does not say where a body ends, so a body with trailers, or one with
    bytes behind it, is the last on its connection.
    """

    __slots__ = ("_data", "_in_head", "_parser", "_silent_bytes", "broken", "closes", "whole")

    length = None

    def __init__(self) -> None:
        self._data = bytearray()
        self._in_head = True
        self._silent_bytes = 0
        self.whole = False
        """Whether the end has arrived."""
        self.broken = False
        """Whether the framing is invalid."""
        self.closes = False
        """Whether no request is served behind this one."""
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)

    @property
    def size(self) -> int:
        """Bytes of the body, without framing, that have arrived."""
        return len(self._data)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes. Returns b"": what is behind the body is dropped."""
        if self.whole:
            self.closes = True
            return b""
        before = len(self._data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.broken = not self.whole
            self.closes = True
        self._silent_bytes += len(data)
        if len(self._data) > before:
            self._silent_bytes = 0
        elif self._silent_bytes > _SILENT_MAX_BYTES and not self.whole:
            self.broken = self.closes = True
        return b""

    def take(self) -> bytes:
        """Return what has arrived, and keep nothing."""
        data, self._data = bytes(self._data), bytearray()
        return data

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        if self.whole:
            self.closes = True

    def on_header(self, _name: bytes, _value: bytes) -> None:
        if not self._in_head:
            self.closes = True  # a trailer

    def on_headers_complete(self) -> None:
        self._in_head = False

    def on_body(self, data: bytes) -> None:
        if not self.whole:
            self._data += data

    def on_message_complete(self) -> None:
        self.whole = True


IncomingBody = SizedBody | ChunkedBody
