"""One request on a client's connection and the answer to it: the `Exchange` of the real server.

Invariants:

- An answer given whole is one write to the transport: status line, fields, body.
- Framing is this file's alone (RFC 9112, 6): fields of the flow that would frame are dropped.
- The handler is never interrupted. A client that leaves shows as `ClientGone` at the next write
  or read, through `client_gone()`, and through `on_gone`.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp.http import HttpVersion10
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from gateway.http.interface import BodyError, ClientGone, Exchange, RequestHead

if TYPE_CHECKING:
    from gateway.http.server.connection import Connection

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}
_OWN_FIELDS: Final = frozenset(
    {"connection", "content-length", "date", "keep-alive", "transfer-encoding", "upgrade"}
)
_JOINED_MOST_BYTES: Final = 64 * 1024
"""A body beyond this is not copied behind its head: two writes cost less."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def status_line(status: int) -> str:
    """The first line of an answer."""
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"


class ServedExchange(Exchange):
    """See `Exchange`. The connection makes one per request; it is useless after the handler."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_date",
        "_ended",
        "_gone_callback",
        "_left_bytes",
        "_message",
        "_payload",
        "_silent",
        "_sized",
        "keep_alive",
    )

    def __init__(
        self,
        connection: "Connection",
        message: RawRequestMessage,
        payload: StreamReader,
        path: str,
        query: str,
        date: str,
    ) -> None:
        fields = [each for each in message.headers.items() if each[0].lower() != "content-length"]
        self.head = RequestHead(message.method, path, query, fields)
        length = message.headers.get("content-length")
        self.content_length = None if message.chunked else int(length or 0)
        self.owner = ""
        self.remote = connection.remote
        self.status = 0
        self.also = b""
        self.keep_alive = not message.should_close
        self._connection = connection
        self._message = message
        self._payload = payload
        self._date = date
        self._chunked = False
        self._silent = False
        self._sized = False
        self._left_bytes = 0
        self._ended = False
        self._gone_callback: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<ServedExchange {self.method} {self.path} from {self.remote}: {self.status}>"

    # The request

    async def read_body(self, limit_bytes: int) -> bytes:
        payload = self._payload
        if payload.is_eof() and payload.exception() is None:
            if payload.total_bytes > limit_bytes:
                raise _too_large(limit_bytes)
            return payload.read_nowait()
        length = self._message.headers.get("content-length")
        if length is not None and int(length) > limit_bytes:
            raise _too_large(limit_bytes)
        connection = self._connection
        if self._message.headers.get("expect") is not None and not payload.total_bytes:
            # Only now: a flow that refuses before reading never invites the body.
            connection.send(_CONTINUE)
        pieces = []
        size = 0
        connection.await_body()
        try:
            while piece := await payload.readany():
                size += len(piece)
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                pieces.append(piece)
        finally:
            connection.body_done()
        return b"".join(pieces)

    # The answer

    def client_gone(self) -> bool:
        return self._connection.is_lost()

    def on_gone(self, callback: Callable[[], None]) -> None:
        if self._connection.is_lost():
            callback()
        else:
            self._gone_callback = callback

    async def answer(self, status: int, fields: bytes, body: bytes) -> None:
        head = self._head(status, fields, len(body))
        self._left_bytes = 0
        self._ended = True
        connection = self._connection
        if self._silent:
            connection.send(head)
        elif len(body) <= _JOINED_MOST_BYTES:
            connection.send(head + body)
        else:
            connection.send(head)
            connection.send(body)
        if connection.writing_paused:
            await connection.drained()

    async def start(self, status: int, fields: bytes, length: int | None) -> None:
        self._connection.send(self._head(status, fields, length))

    async def write(self, data: bytes) -> None:
        assert self.status, "an answer begins with its head"
        assert not self._ended, "nothing is written behind an answer's end"
        connection = self._connection
        if self._silent or not data:
            if connection.is_lost():
                raise ClientGone
            return
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._sized:
            self._left_bytes -= len(data)
            assert self._left_bytes >= 0, "more body than announced"
        connection.send(data)
        if connection.writing_paused:
            await connection.drained()

    async def end(self) -> None:
        assert self.status, "an answer begins with its head"
        if self._ended:
            return
        self._ended = True
        if self._chunked and not self._silent:
            self._connection.send(b"0\r\n\r\n")

    def abort(self) -> None:
        self._connection.abort()

    def _head(self, status: int, fields: bytes, length: int | None) -> bytes:
        assert not self.status, "a request has one answer"
        connection = self._connection
        if not self._payload.is_eof() or connection.is_last():
            # The rest of the body would be taken for the next request.
            self.keep_alive = False
        is_http10 = self._message.version is HttpVersion10
        if status < 200 or status == 204 or status == 304:
            self._silent = True  # RFC 9110, 6.4.1: no body, so no framing
            framing = ""
        elif length is not None:
            framing = f"content-length: {length}\r\n"
            self._sized = True
            self._left_bytes = length
            self._silent = self.method == "HEAD"
        elif is_http10:
            self.keep_alive = False  # RFC 9112, 6.1: HTTP/1.0 knows no chunks
            framing = ""
            self._silent = self.method == "HEAD"
        else:
            framing = "transfer-encoding: chunked\r\n"
            self._chunked = True
            self._silent = self.method == "HEAD"
        if not self.keep_alive:
            framing += "connection: close\r\n"
        elif is_http10:
            framing += "connection: keep-alive\r\n"
        line = status_line(status)
        self.status = status
        return b"%b%b%b\r\n" % (f"{line}{self._date}{framing}".encode(), fields, self.also)

    # The connection's side

    @property
    def complete(self) -> bool:
        """Whether the answer was sent whole."""
        return self._ended and (self._silent or not self._sized or self._left_bytes == 0)

    def note_gone(self) -> None:
        """The connection is lost."""
        callback, self._gone_callback = self._gone_callback, None
        if callback is not None:
            callback()


def _too_large(limit_bytes: int) -> BodyError:
    return BodyError("too_large", f"The body is larger than the limit of {limit_bytes} bytes.")
