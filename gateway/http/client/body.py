"""Bodies of responses that arrive in several pieces: finds where they end (RFC 9112, 6.3).

Chunks are decoded with llhttp. It decodes them only behind a head, so each body gets the same short one
here: the real head has been read by `head.py`. Trailers are counted and dropped.
"""

from collections.abc import Callable
from typing import Final, Literal

import httptools

from gateway.http.client.head import HEAD_MOST_BYTES, HEAD_MOST_FIELDS, Malformed
from gateway.http.client.response import PooledResponse

BodyState = Literal["more", "end", "behind"]
"""After a piece: more is to come, its last byte was the body's, or bytes followed behind that."""

_HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


UNREADABLE: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class ChunkDecoder:
    """Decodes the chunked bodies of one connection, one after another.

    The callback for a piece of a body is a list's own `append`: of a body that comes in many chunks at
    once, none costs a call of ours.
    """

    __slots__ = ("_parser", "_trailer_bytes", "_trailers", "done", "feed", "on_body", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        """What was decoded and not yet taken."""
        self.on_body = self.pieces.append
        self.done = False
        """The last chunk and the trailers were read."""
        self._trailers = 0
        self._trailer_bytes = 0
        self._parser = httptools.HttpResponseParser(self)
        self.feed: Callable[[bytes], None] = self._parser.feed_data
        """Decode the next bytes into `pieces`. Raises `UNREADABLE`, also for bytes behind the end."""

    def begin(self) -> None:
        """Start with the next body."""
        self.done = False
        self.feed(_HEAD)
        self._trailers = self._trailer_bytes = 0

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


class PlainBody:
    """A body that is not chunked, whose end had not arrived with its head.

    left: bytes to come; None: it ends when the upstream closes the connection
    """

    __slots__ = ("left", "response")

    def __init__(self, response: PooledResponse, left: int | None) -> None:
        self.response = response
        self.left = left

    def feed(self, data: bytes) -> BodyState:
        """Pass the next bytes on to the response."""
        left = self.left
        if left is None:
            self.response.feed(data)
            return "more"
        self.left = left = left - len(data)
        if left > 0:
            self.response.feed(data)
            return "more"
        self.response.feed(data[:left] if left else data)
        return "behind" if left else "end"


class ChunkedBody:
    """A chunked body."""

    __slots__ = ("_chunks", "response")

    def __init__(self, response: PooledResponse, chunks: ChunkDecoder) -> None:
        self.response = response
        self._chunks = chunks
        chunks.begin()

    def feed(self, data: bytes) -> BodyState:
        """Pass the next bytes on to the response. Raises Malformed; what came before has passed."""
        chunks = self._chunks
        failed = False
        try:
            chunks.feed(data)
        except UNREADABLE:
            failed = True
        pieces = chunks.pieces
        if pieces:
            self.response.feed(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            pieces.clear()
        if chunks.done:
            return "behind" if failed else "end"
        if failed:
            raise Malformed("chunks that cannot be read")
        return "more"
