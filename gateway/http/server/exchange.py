"""One request on a client's connection and the response to it: the `Exchange` of the real server.

Invariants:

- A complete response is one write to the transport: status line, fields, body.
- Framing is written by this file alone (RFC 9112, 6).
- The handler is never interrupted. A client that leaves shows as `ClientGone` at the next write
  or read, through `client_gone()`, and through `on_gone`.
"""

from collections.abc import Callable
from typing import Final, Protocol

from gateway.http.interface import BodyError, ClientGone, Exchange
from gateway.http.server.request_head import ParsedHead

_SLICE_BYTES: Final = 256 * 1024
"""More is handed to the transport in slices, each when the one before has left."""


class Wire(Protocol):
    """What an exchange needs of its connection."""

    __slots__ = ()

    writing_paused: bool

    def send(self, data: bytes | memoryview) -> None:
        """Hand bytes to the transport. Raises ClientGone."""
        ...

    async def drained(self, waiting_bytes: int = 0) -> None:
        """Wait until the client has read most of what was sent. Raises ClientGone.

        waiting_bytes: what the caller keeps meanwhile, to be sent next
        """
        ...

    async def receive_body(self, limit_bytes: int) -> bytes:
        """Wait for a body that was not complete with its head. Raises BodyError, ClientGone."""
        ...

    def opening(self, status: int) -> bytes:
        """Return the status line and the date field."""
        ...

    def goes_on(self) -> bool:
        """Return whether another request may follow this one."""
        ...

    def is_lost(self) -> bool:
        """Return whether the client is known to be gone."""
        ...

    def abort(self) -> None:
        """Cut the connection."""
        ...


class ServedExchange(Exchange):
    """See `Exchange`. The connection makes one per request; it is useless after the handler."""

    __slots__ = (
        "_body",
        "_ended",
        "_gone_callback",
        "_left_bytes",
        "_open_chunked",
        "_parsed",
        "_silent",
        "_wire",
        "keep_alive",
    )

    def __init__(
        self, wire: Wire, parsed: ParsedHead, length: int | None, body: bytes | None, remote: str
    ) -> None:
        """length: bytes of the body, None when it is chunked. body: None while it is incomplete."""
        self.head = parsed.head
        self.content_length = length
        self.remote = remote
        self.owner = ""
        self.status = 0
        self.also = b""
        self.keep_alive = parsed.keep_alive
        """Whether the connection goes on behind the response."""
        self._wire = wire
        self._parsed = parsed
        self._body = body
        self._left_bytes: int | None = None
        self._open_chunked = False
        self._ended = False
        self._gone_callback: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<ServedExchange {self.method} {self.path} from {self.remote}: {self.status}>"

    # The request

    async def read_body(self, limit_bytes: int) -> bytes:
        length = self.content_length
        if length is not None and length > limit_bytes:
            raise too_large(limit_bytes)
        body = self._body
        return body if body is not None else await self._wire.receive_body(limit_bytes)

    @property
    def expects(self) -> bool:
        """Whether the client waits for 100 (Continue)."""
        return self._parsed.expects

    # The response

    def client_gone(self) -> bool:
        return self._wire.is_lost()

    def on_gone(self, callback: Callable[[], None]) -> None:
        if self._wire.is_lost():
            callback()
        else:
            self._gone_callback = callback

    async def answer(self, status: int, fields: bytes, body: bytes) -> None:
        head = self._head(status, fields, len(body))
        self._left_bytes = 0
        self._ended = True
        wire = self._wire
        if self._silent:
            wire.send(head)
        elif len(body) <= _SLICE_BYTES:
            wire.send(head + body)
        else:
            wire.send(head)
            await self._send_slices(body)
        if wire.writing_paused:
            await wire.drained()

    async def start(self, status: int, fields: bytes, length: int | None) -> None:
        self._wire.send(self._head(status, fields, length))

    async def write(self, data: bytes) -> None:
        wire = self._wire
        if self._open_chunked and 0 < len(data) <= _SLICE_BYTES:
            wire.send(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            await self._write_rarer(data)
        if wire.writing_paused:
            await wire.drained()

    async def _write_rarer(self, data: bytes) -> None:
        assert self.status, "a response begins with its head"
        assert not self._ended, "nothing is written behind a response's end"
        wire = self._wire
        if self._silent or not data:
            if wire.is_lost():
                raise ClientGone
        elif self._open_chunked:
            wire.send(b"%x\r\n" % len(data))
            await self._send_slices(data)
            wire.send(b"\r\n")
        else:
            if self._left_bytes is not None:
                self._left_bytes -= len(data)
                assert self._left_bytes >= 0, "more body than announced"
            await self._send_slices(data)

    async def _send_slices(self, data: bytes) -> None:
        wire = self._wire
        view = memoryview(data)
        for offset in range(0, len(data), _SLICE_BYTES):
            if wire.writing_paused:
                await wire.drained(len(data) - offset)
            wire.send(view[offset : offset + _SLICE_BYTES])

    async def end(self) -> None:
        assert self.status, "a response begins with its head"
        if self._ended:
            return
        self._ended = True
        if self._open_chunked:
            self._open_chunked = False
            self._wire.send(b"0\r\n\r\n")

    def abort(self) -> None:
        self._wire.abort()

    def _head(self, status: int, fields: bytes, length: int | None) -> bytes:
        assert not self.status, "a request has one response"
        assert not fields or fields.endswith(b"\r\n"), "fields are complete lines"
        wire = self._wire
        self.status = status
        self._left_bytes = length
        self._silent = self.head.method == "HEAD"
        is_http10 = self._parsed.is_http10
        if status < 200 or status == 204 or status == 304:
            self._silent = True  # RFC 9110, 6.4.1: no body, so no framing
            framing = b""
        elif length is not None:
            framing = b"content-length: %d\r\n" % length
        elif is_http10:
            self.keep_alive = False  # RFC 9112, 6.1: HTTP/1.0 has no chunks
            framing = b""
        else:
            framing = b"transfer-encoding: chunked\r\n"
            self._open_chunked = not self._silent
        if not self.keep_alive or not wire.goes_on():
            self.keep_alive = False
            framing += b"connection: close\r\n"
        elif is_http10:
            framing += b"connection: keep-alive\r\n"
        return b"%b%b%b%b\r\n" % (wire.opening(status), framing, fields, self.also)

    # The connection's side

    @property
    def complete(self) -> bool:
        """Whether the response was sent completely."""
        return self._ended and (self._silent or not self._left_bytes)

    def note_gone(self) -> None:
        """The connection is lost."""
        callback, self._gone_callback = self._gone_callback, None
        if callback is not None:
            callback()


def too_large(limit_bytes: int) -> BodyError:
    """Return the error for a body over the limit."""
    return BodyError("too_large", f"The body is larger than the limit of {limit_bytes} bytes.")
