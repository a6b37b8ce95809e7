"""One request on a client's connection and the response to it: the `Exchange` of the real server.

Invariants:

- A complete response is one write to the transport: status line, fields, body. So is a stream that
  its handler has at hand completely (`more`). Nothing else waits: a byte is kept only for as long
  as the handler runs on.
- Framing is written by this file alone (RFC 9112, 6).
- The handler is never interrupted. A client that leaves shows as `ClientGone` at the next write
  or read, through `client_gone()`, and through `on_gone`.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.http.interface import BodyError, ClientGone, Exchange
from gateway.http.server.host import Wire
from gateway.http.server.request_head import ParsedHead

_SLICE_BYTES: Final = 256 * 1024
"""More is handed to the transport in slices, each when the one before has left."""
_KEPT_PARTS_MOST: Final = 4
"""A head and a piece: behind those one more is kept, and no further one."""
_LAST_CHUNK: Final = b"0\r\n\r\n"


class ServedExchange(Exchange):
    """See `Exchange`. The connection makes one per request; it is useless after the handler."""

    __slots__ = (
        "_body",
        "_kept",
        "_left_bytes",
        "_open_chunked",
        "_parsed",
        "_silent",
        "_wire",
        "complete",
        "gone_callback",
        "keep_alive",
        "straight",
    )

    # These four begin with the response, in `_head`.
    keep_alive: bool
    """Whether the connection goes on behind the response."""
    _left_bytes: int | None
    _open_chunked: bool
    _silent: bool

    def __init__(
        self, wire: Wire, parsed: ParsedHead, length: int | None, body: bytes | None
    ) -> None:
        """length: bytes of the body, None when it is chunked. body: None while it is incomplete."""
        self.head = head = parsed.head
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.content_length = length
        self.remote = wire.remote
        self.owner = ""
        self.status = 0
        self.also = b""
        self.complete = False
        """Whether the response was sent completely."""
        self.straight = False
        """Whether, besides, request and response leave nothing to do before the next request."""
        self._wire = wire
        self._parsed = parsed
        self._body = body
        self._kept: tuple[bytes, ...] = ()
        """Parts of the response that leave together with what follows."""
        self.gone_callback: Callable[[], None] | None = None
        """What is called if the client leaves; the connection drops it behind the handler."""

    def __repr__(self) -> str:
        return f"<ServedExchange {self.method} {self.path} from {self.remote}: {self.status}>"

    # The request

    async def read_body(self, limit_bytes: int) -> bytes:
        body = self._body
        if body is not None and len(body) <= limit_bytes:
            return body
        length = self.content_length
        if length is not None and length > limit_bytes:
            raise too_large(limit_bytes)
        return await self._wire.receive_body(limit_bytes)

    @property
    def expects(self) -> bool:
        """Whether the client waits for 100 (Continue)."""
        return self._parsed.expects

    # The response

    def client_gone(self) -> bool:
        transport = self._wire.transport
        return transport is None or transport.is_closing()

    def on_gone(self, callback: Callable[[], None]) -> None:
        transport = self._wire.transport
        if transport is None or transport.is_closing():
            callback()
        else:
            self.gone_callback = callback

    async def answer(self, status: int, fields: bytes, body: bytes) -> None:
        wire = self._wire
        size = len(body)
        opening = wire.sized_openings.get(status)
        if (
            opening is not None
            and self._parsed.usual
            and self._body is not None
            and size <= _SLICE_BYTES
            and not wire.last
            and not self.status
        ):
            # The usual response, whose head needs no decision: `_head` makes it in all other cases.
            assert not fields or fields.endswith(b"\r\n"), "fields are complete lines"
            self.status = status
            transport = wire.transport
            if transport is None or transport.is_closing():
                raise ClientGone("the client closed the connection")
            transport.write(b"%b%d\r\n%b%b\r\n%b" % (opening, size, fields, self.also, body))
            self.complete = self.keep_alive = True
            if wire.writing_paused:
                await wire.drained()
            self.straight = True
            return
        head = self._head(status, fields, size)
        self._left_bytes = 0
        self.complete = True
        if self._silent:
            wire.send(head)
        elif len(body) <= _SLICE_BYTES:
            wire.send(head + body)
        else:
            wire.send(head)
            await self._send_slices(body)
        if wire.writing_paused:
            await wire.drained()

    async def start(
        self, status: int, fields: bytes, length: int | None, *, more: bool = False
    ) -> None:
        head = self._head(status, fields, length)
        if more:
            self._kept = (head,)
        else:
            self._wire.send(head)

    async def write(self, data: bytes, *, more: bool = False) -> None:
        wire = self._wire
        size = len(data)
        if self._open_chunked and 0 < size <= _SLICE_BYTES:
            transport = wire.transport
            if transport is None or transport.is_closing():
                raise ClientGone("the client closed the connection")
            kept = self._kept
            if more and len(kept) <= _KEPT_PARTS_MOST:
                self._kept = (*kept, b"%x\r\n" % size, data, b"\r\n")
                return
            if kept:
                self._kept = ()
                transport.write(b"%b%x\r\n%b\r\n" % (b"".join(kept), size, data))
            else:
                transport.write(b"%x\r\n%b\r\n" % (size, data))
        else:
            await self._write_rarer(data)
        if wire.writing_paused:
            await wire.drained()

    async def _write_rarer(self, data: bytes) -> None:
        assert self.status, "a response begins with its head"
        assert not self.complete, "nothing is written behind a response's end"
        wire = self._wire
        self._send_kept()
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
        if self.complete:
            return
        wire = self._wire
        if self._open_chunked:
            self._open_chunked = False
            self._kept = (*self._kept, _LAST_CHUNK)
        self._send_kept()
        self.complete = self._silent or not self._left_bytes
        self.straight = (
            self.complete and self.keep_alive and self._body is not None and not wire.writing_paused
        )

    def abort(self) -> None:
        with suppress(ClientGone):
            self._send_kept()
        self._wire.abort()

    def _send_kept(self) -> None:
        kept, self._kept = self._kept, ()
        if kept:
            self._wire.send(b"".join(kept))

    def _head(self, status: int, fields: bytes, length: int | None) -> bytes:
        assert not self.status, "a request has one response"
        assert not fields or fields.endswith(b"\r\n"), "fields are complete lines"
        wire = self._wire
        self.status = status
        self.keep_alive = self._parsed.keep_alive
        self._open_chunked = False
        self._left_bytes = length
        self._silent = self.head.method == "HEAD"
        is_http10 = self._parsed.is_http10
        if is_bodyless(status):
            self._silent = True
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

    def note_gone(self) -> None:
        """The connection is lost."""
        callback, self.gone_callback = self.gone_callback, None
        if callback is not None:
            callback()


def is_bodyless(status: int) -> bool:
    """Return whether no response of this status has a body (RFC 9110, 6.4.1)."""
    return status < 200 or status == 204 or status == 304


def too_large(limit_bytes: int) -> BodyError:
    """Return the error for a body over the limit."""
    return BodyError("too_large", f"The body is larger than the limit of {limit_bytes} bytes.")
