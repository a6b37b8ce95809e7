"""A connection as the request in hand uses it: sends bytes, waits for a slow client or a body.

Invariant: what a client leaves unread, and what arrives of a body, counts against the byte budget.
"""

from typing import Final

from gateway.http.budget import Charge
from gateway.http.interface import BodyError, ClientGone
from gateway.http.server.body import IncomingBody
from gateway.http.server.exchange import ServedExchange, too_large
from gateway.http.server.host import Stage
from gateway.http.server.receiver import NEVER, OVERLOADED, Receiver

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_HANDLING: Final = Stage.HANDLING
_ENDING: Final = Stage.ENDING


class ExchangeWire(Receiver):
    """The `Wire` of an exchange. `Connection` adds what happens between requests."""

    __slots__ = ()

    def is_lost(self) -> bool:
        """Return whether the client is known to be gone."""
        return self.transport is None or self.transport.is_closing()

    def goes_on(self) -> bool:
        """Return whether another request may follow the one in hand."""
        body = self._body
        if body is not None and (body.closes or not body.whole or self._body_error is not None):
            return False
        return not self.last

    def opening(self, status: int) -> bytes:
        """Return the status line and the date field."""
        return self._host.openings.get(status) or self._host.opening(status)

    def send(self, data: bytes | memoryview) -> None:
        """Hand bytes to the transport. Raises ClientGone."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client closed the connection")
        transport.write(data)

    async def drained(self, waiting_bytes: int = 0) -> None:
        """Wait until the client has read most of what was sent. Raises ClientGone."""
        host = self._host
        if self.is_lost():
            raise ClientGone("the client closed the connection")
        assert self.transport is not None
        charge = Charge(host.budget, self._exchange.owner if self._exchange is not None else "")
        size = self.transport.get_write_buffer_size() + waiting_bytes
        if not host.charge_unread(self, charge, size):
            self.abort()
            raise ClientGone("the client left too much unread")
        self.stage = Stage.WRITING
        self.deadline = self._loop.time() + host.limits.write_s
        try:
            while self.writing_paused and not self.is_lost():
                await self._wait()
        finally:
            host.unread.pop(self, None)
            charge.clear()
            if self.stage is Stage.WRITING:
                self.stage = _HANDLING
                self.deadline = NEVER
        if self.is_lost():
            raise ClientGone("the client closed the connection")

    async def receive_body(self, limit_bytes: int) -> bytes:
        """Wait for a body that was not complete with its head. Raises BodyError, ClientGone."""
        body, exchange = self._body, self._exchange
        assert body is not None, "a body is read once"
        assert exchange is not None, "a body is read while its request is handled"
        if self._body_error is None and not body.whole:
            await self._receive(body, exchange, limit_bytes)
        if self._body_error is not None:
            raise self._body_error
        if body.size > limit_bytes:
            raise too_large(limit_bytes)
        return body.take()

    async def _receive(
        self, body: IncomingBody, exchange: ServedExchange, limit_bytes: int
    ) -> None:
        if exchange.expects and not body.size:
            # Only now: a flow that refuses before reading never invites the body.
            self.send(_CONTINUE)
        self.stage = Stage.BODY
        self.deadline = self._body_deadline = self._loop.time() + self._host.limits.body_s
        self._body_limit = limit_bytes
        if body.size > limit_bytes:
            self._fail_body(too_large(limit_bytes))
        elif self._charge is not None and not self._charge.move(exchange.owner):
            self._fail_body(BodyError("overloaded", OVERLOADED))
        else:
            self._reserve(body)
        try:
            while self._body_error is None and not body.whole:
                await self._wait()
        finally:
            self._host.starved.discard(self)
            if self.stage is Stage.BODY:
                self.stage = _HANDLING
                self.deadline = NEVER

    def abort(self) -> None:
        """Cut the connection; the client sees that something is missing."""
        self.last = True
        self.stage = _ENDING
        self.deadline = NEVER
        if self.transport is not None:
            self.transport.abort()

    # Waiting

    async def _wait(self) -> None:
        self._waiter = waiter = self._loop.create_future()
        await waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
