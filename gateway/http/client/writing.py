"""The writing half of a connection to an upstream: a request on its way out, and its failure.

Invariants:

- Once the first byte of a request was handed to the transport, every failure says `sent=True`:
  whether the upstream has it is unknown, so nobody may send it a second time.
- A big body is handed to the transport in slices, each when the previous one has left.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Final, cast

from gateway.http.client.body import ChunkedBody, PlainBody
from gateway.http.client.response import Response
from gateway.http.upstream_interface import UpstreamCause, UpstreamError

WHOLE_WRITE_BYTES: Final = 64 * 1024


class RequestWriter(asyncio.Protocol):
    """A connection as its pool uses it; `UpstreamConnection` reads the responses."""

    __slots__ = (
        "_body",
        "_bodyless",
        "_paused_writing",
        "_poll",
        "_request",
        "_started_at",
        "_usual",
        "_write_waiter",
        "_written",
        "loop",
        "transport",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self._request: asyncio.Future[Response] | None = None
        self._usual: asyncio.Future[Response] | None = None
        """The request, while its response may be a usual one: nothing of it has arrived, the request
        was written completely, and it is not HEAD."""
        self._body: PlainBody | ChunkedBody | None = None
        """Of a response whose head has arrived and whose end has not."""
        self._bodyless = False
        self._started_at = 0.0
        self._written = True
        self._write_waiter: asyncio.Future[None] | None = None
        self._paused_writing = False
        self._poll: Callable[[int], list[tuple[int, int]]] | None = None

    @property
    def usable(self) -> bool:
        """Whether a request may be written: nothing on this side knows of an end."""
        return self.transport is not None and not self.transport.is_closing()

    def is_quiet(self) -> bool:
        """Whether the connection is usable and its socket has nothing to read.

        What an idle connection has to read is its end, or bytes sent behind the last response: taken
        for a response they would answer the next request. The loop may not have seen them yet.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        poll = self._poll
        if poll is None:
            poller = select.poll()
            poller.register(
                transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLHUP
            )
            poll = self._poll = poller.poll
        return not poll(0)

    def start(self, data: bytes, *, bodyless: bool) -> "asyncio.Future[Response]":
        """Write a request, or its beginning; the result is the response once its head is read.

        bodyless: the response has no body whatever its head says (HEAD)
        """
        assert self._request is None, "one request at a time"
        assert self.transport is not None
        loop = self.loop
        self._request = request = loop.create_future()
        self._usual = None if bodyless else request
        self._bodyless = bodyless
        self._started_at = loop.time()
        self.transport.write(data)
        return request

    async def write_body(self, body: bytes) -> None:
        """Write the body of the request that was started, slice by slice."""
        request, transport = self._request, self.transport
        if request is None or transport is None:
            return
        self._written = False
        self._usual = None
        view = memoryview(body)
        for offset in range(0, len(body), WHOLE_WRITE_BYTES):
            if self._paused_writing and self._request is request:
                self._write_waiter = self.loop.create_future()
                try:
                    await self._write_waiter
                finally:
                    self._write_waiter = None
            # RFC 9112, 9.5: an error response before the body's end means that the rest will not be
            # read. Other early responses may wait for it, so writing goes on.
            if self._request is not request:
                return
            if self._body is not None and self._body.response.status >= 400:
                return
            transport.write(view[offset : offset + WHOLE_WRITE_BYTES])
        self._written = True

    def abandon(self, request: "asyncio.Future[Response]") -> None:
        """The caller gave up on this request; the connection may serve another by now."""
        if not request.done() or request.cancelled():
            if self._request is request:
                self.fail("closed by the gate before its response", "stopped")
        elif request.exception() is None:
            request.result().close()

    def fail(self, message: str, cause: UpstreamCause) -> None:
        """Close at once; a request in progress fails. Idempotent."""
        request, self._request, self._usual = self._request, None, None
        body, self._body = self._body, None
        if request is not None:
            error = UpstreamError(message, sent=True, cause=cause)
            if body is not None:
                body.response.fail(error)
            elif not request.done():
                request.set_exception(error)
            self._wake_writer()
        if self.transport is not None:
            self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        self._wake_writer()

    def _wake_writer(self) -> None:
        waiter = self._write_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
