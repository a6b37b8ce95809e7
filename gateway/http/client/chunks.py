"""Decodes bodies in chunked framing (RFC 9112, 7.1) with llhttp, one after another.

llhttp decodes chunks only behind a head, so each body gets the same short one here: the real head
has been read by `head.py`. Trailers are counted and dropped.
"""

from typing import Final

import httptools

from gateway.http.client.head import HEAD_MOST_BYTES, HEAD_MOST_FIELDS, Malformed

_HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class ChunkDecoder:
    """The decoder of one connection.

    The callback for a piece of a body is a list's own `append`: of a body that comes in many chunks at
    once, none costs a call of ours.
    """

    __slots__ = ("_parser", "_trailer_bytes", "_trailers", "done", "on_body", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        """What was decoded and not yet taken."""
        self.on_body = self.pieces.append
        self.done = False
        """The last chunk and the trailers were read."""
        self._trailers = 0
        self._trailer_bytes = 0
        self._parser = httptools.HttpResponseParser(self)

    def begin(self) -> None:
        """Start with the next body."""
        self.done = False
        self._parser.feed_data(_HEAD)
        self._trailers = self._trailer_bytes = 0

    def feed(self, data: bytes) -> None:
        """Decode the next bytes into `pieces`. Raises Malformed, also for bytes behind the end."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise Malformed("chunks that cannot be read") from None

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        if self.done:
            raise Malformed("bytes behind the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._trailers += 1
        self._trailer_bytes += len(name) + len(value)
        if self._trailers > HEAD_MOST_FIELDS or self._trailer_bytes > HEAD_MOST_BYTES:
            raise Malformed("too many trailers")

    def on_message_complete(self) -> None:
        self.done = True
