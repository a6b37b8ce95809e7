"""The serving half of a client's connection: one task that handles its requests. RFC 9112.

Invariants:

- One task serves the connection, request after request. Nothing here cancels it while a handler
  runs: a handler learns that its client has left and settles what it has begun.
- Each stage has a deadline, a number that the server's sweep looks at: no timer per request.
- The last response of a connection is followed by a lingering close (RFC 9112, 9.6): the
  connection is shut for writing and what still arrives is discarded for a while. Otherwise the
  client's kernel could discard the response unread.
"""

import asyncio
from asyncio import CancelledError
from contextlib import suppress
from typing import Final, cast

from gateway.http.interface import BodyError, ClientGone
from gateway.http.server.exchange import ServedExchange
from gateway.http.server.host import Stage
from gateway.http.server.limits import counted_address
from gateway.http.server.receiver import NEVER, OVERLOADED, UNASKED_MAX_BYTES
from gateway.http.server.wire import ExchangeWire

_IDLE: Final = Stage.IDLE
_HANDLING: Final = Stage.HANDLING
_ENDING: Final = Stage.ENDING


class Connection(ExchangeWire):
    """A protocol of the server's listening socket. Everything else is driven by its host."""

    __slots__ = ()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.remote = peer[0]
            self.address = counted_address(peer[0])
        self.deadline = self._loop.time() + self._host.limits.idle_s
        problem = self._host.admit(self)
        if problem is not None:
            self.address = ""
            self._refuse(*problem, linger=False)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.transport = None
        self.last = True
        self.stage = _ENDING
        self.deadline = NEVER
        self._buffer = b""
        host = self._host
        host.forget(self)
        if self._body is not None and not self._body.whole:
            self._fail_body(ClientGone("the client closed the connection"))
        if self._exchange is None:
            self._release()
            host.note_rest()
        else:
            host.orphans.add(self)
            self._exchange.note_gone()
        self._wake()

    def eof_received(self) -> None:
        """A client that shuts its writing side has left: the transport closes itself."""

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        if self.stage is Stage.WRITING:
            self._wake()

    # The task

    async def _serve(self) -> None:
        host, loop, task = self._host, self._loop, self.task
        assert task is not None, "the task has been noted before it runs"
        crashed = False
        try:
            while True:
                # Nothing keeps the exchange while the task waits: what the flow noted may be large.
                exchange = self._exchange
                if exchange is None:
                    if self.stage is _ENDING:
                        return
                    self._waiter = waiter = loop.create_future()
                    await waiter
                    continue
                try:
                    await host.handler(exchange)
                except ClientGone:
                    pass
                except CancelledError:
                    self.abort()
                    raise
                except Exception as error:
                    host.note_crash(error)
                    crashed = True
                finally:
                    self._exchange = None
                    # It leads to all that the flow has made of the request, and from there back here:
                    # such a cycle would keep request and response until the collector looks.
                    exchange.gone_callback = None
                    if self._charge is not None:
                        self._release()
                if (
                    exchange.straight
                    and not self._buffer
                    and not self.last
                    and not task.cancelling()
                ):
                    # The usual end: `_handled` with nothing to wait for, to reset or to close.
                    self.stage = _IDLE
                    self.deadline = host.idle_deadline
                    host.resting[self] = None
                else:
                    await self._handled(exchange, crashed=crashed)
                    crashed = False
        except CancelledError:
            # Between requests a cancellation was meant for the handler that has just returned.
            self._end(linger=False)
            raise
        finally:
            self.task = None
            host.orphans.discard(self)
            host.note_rest()

    async def _handled(self, exchange: ServedExchange, *, crashed: bool) -> None:
        """Decide how the connection goes on behind a handler that has returned."""
        host, task = self._host, self.task
        if task is not None and task.cancelling():
            # Cancelled while it returned, by a kill: that was about this request, not the next.
            with suppress(CancelledError):
                await asyncio.sleep(0)
            while task.uncancel():
                pass
        if self.stage is _ENDING or self.is_lost():
            return
        if not exchange.status:
            if not crashed:
                host.note_crash(RuntimeError("a handler gave no response"))
            self._refuse(500, "The gateway failed to answer this request.")
        elif not exchange.complete:
            self.abort()
        elif not exchange.keep_alive or not self.goes_on():
            self._end()
        else:
            if self.writing_paused:
                try:
                    await self.drained()
                except ClientGone:
                    return
            self._go_on()

    def _go_on(self) -> None:
        """Take the next request from the buffer, or wait for it."""
        self._body = None
        self._body_limit = -1
        self._reserved = False
        host = self._host
        self.stage = _IDLE
        self.deadline = host.idle_deadline
        host.resting[self] = None
        if self._buffer:
            if len(self._buffer) > UNASKED_MAX_BYTES and not self._charged(len(self._buffer)):
                self._refuse(503, OVERLOADED)
                return
            self._look()
        if self._reading_paused and len(self._buffer) <= UNASKED_MAX_BYTES:
            self._resume_reading()

    # Ends

    def _refuse(self, status: int, message: str, *, linger: bool = True) -> None:
        """Answer outside of any handler, and end."""
        if not self.is_lost():
            self.send(self._host.refusal(status, message))
            self._end(linger=linger)

    def _end(self, *, linger: bool = True) -> None:
        """Close once everything is sent; linger discards what still arrives, for a while."""
        self.stage = _ENDING
        self._buffer = b""
        self._release()
        transport = self.transport
        if transport is not None and not transport.is_closing():
            limits = self._host.limits
            unsent = transport.get_write_buffer_size()
            self.deadline = self._loop.time() + (limits.write_s if unsent else limits.linger_s)
            self._host.resting[self] = None
            if linger and transport.can_write_eof():
                transport.write_eof()
                self._resume_reading()
            else:
                transport.close()
        self._wake()

    def finish(self) -> None:
        """Serve no request behind the one in hand; without one, close the connection."""
        self.last = True
        if self.stage is _IDLE or self.stage is Stage.HEAD:
            self._end(linger=False)

    def forget_head(self) -> None:
        """Parse the next head, whatever it equals."""
        self._remembered = None

    def shed(self) -> None:
        """Close the connection, which has no request in hand, in favour of a new one."""
        if self.stage is _ENDING:
            self.abort()
        else:
            self._end(linger=False)

    def expire(self) -> None:
        """The stage's deadline has passed."""
        if self.stage is Stage.BODY:
            starved = self in self._host.starved
            self.deadline = NEVER
            self._fail_body(
                BodyError("overloaded", OVERLOADED)
                if starved
                else BodyError("timeout", "The body did not arrive completely in time.")
            )
        elif self.stage is Stage.HEAD:
            self._refuse(408, "The request's head did not arrive completely in time.")
        elif self.stage is _IDLE:
            self._end(linger=False)
        else:
            self.abort()
