"""The connections of one upstream: which one a request gets, when one is opened, who waits.

Invariants:

- No connection is used twice without a look at its socket (`RequestWriter.is_quiet`).
- Everything is bounded: connections, an owner's share of them, callers that wait for one, their time,
  each phase's time.

One coarse sweep checks all deadlines, and runs only while there are any.
"""

import asyncio
import math
from asyncio import CancelledError
from itertools import chain

from gateway.http.client.connection import UpstreamConnection
from gateway.http.client.head import HeadReader
from gateway.http.client.idle import REST_AFTER_STREAM_S, IdleConnections
from gateway.http.client.limits import PoolLimits, UpstreamTimeouts
from gateway.http.client.opening import Origin, open_connection, unsent
from gateway.http.client.sharing import FairQueue, Shares, Waiter
from gateway.http.upstream_interface import UpstreamCause


class ConnectionSupply:
    """The connections of a pool. It is their `Home`."""

    def __init__(
        self, name: str, origin: Origin, times: UpstreamTimeouts, limits: PoolLimits
    ) -> None:
        """name: the upstream's, for messages"""
        self.heads = HeadReader()
        self.connections: set[UpstreamConnection] = set()
        self.idle = IdleConnections(separate=limits.separate)
        self.queue = FairQueue(limits.waiting_most)
        self.head_s = times.head_ms / 1000
        self.between_s = times.between_ms / 1000
        self.total_s = math.inf if times.total_ms is None else times.total_ms / 1000
        self._name = name
        self._origin = origin
        self._connect_s = times.connect_ms / 1000
        self._idle_s = times.idle_ms / 1000
        smallest = min(self._connect_s, self.head_s, self.between_s, self.total_s, self._idle_s)
        self._sweep_every_s = min(max(smallest / 4, 0.01), 0.5)
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._connections_most = limits.connections_most
        self._separate = limits.separate
        self._shares = Shares(limits.connections_most)
        self._opening: list[str] = []
        """Owners of the connections that are being opened."""
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return (
            f"{len(self.connections)} open, {len(self._opening)} opening,"
            f" {len(self.idle)} idle, {self.queue.count} waiting"
        )

    async def close(self) -> None:
        """Close every connection; requests in progress fail. Idempotent."""
        self._closed = True
        for timer in (self._sweep_timer, self._rest_timer):
            if timer is not None:
                timer.cancel()
        self._sweep_timer = self._rest_timer = None
        for waiter in self.queue.take_all():
            self._refuse(waiter, "is closed", "stopped")
        for connection in list(self.connections):
            connection.fail("the gate is closing", "stopped")
        if self.connections:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def take(self, owner: str) -> UpstreamConnection | None:
        """An idle connection for this owner, now in use; None when there is none, or none for it."""
        shares = self._shares
        counting = shares.counting
        if counting and not shares.allows(owner):
            return None
        connection = self.idle.take(owner)
        if connection is not None:
            connection.in_use = True
            connection.owner = owner
            if counting:
                shares.add(owner)
        return connection

    async def acquire(self, owner: str) -> UpstreamConnection:
        """Open a connection, or wait for one. Raises UpstreamError(sent=False)."""
        if self._closed:
            raise unsent(self._name, "is closed", "stopped")
        if self._allows(owner) and self._make_room():
            self._begin_opening(owner)
            return await self._open(owner)
        loop = asyncio.get_running_loop()
        while True:
            waiter = Waiter(owner, loop.time() + self._connect_s, loop.create_future())
            left = self.queue.add(waiter)
            if left is not None:
                self._refuse(left, "has too many requests waiting for a connection", "busy")
            self._start_sweep(loop)
            self._wait_for_rest(loop)
            try:
                connection = await waiter.turn
            except CancelledError:
                self._give_up(waiter)
                raise
            if connection is None:
                return await self._open(owner)
            if connection.usable:
                return connection

    def _allows(self, owner: str) -> bool:
        """Whether this owner may use another connection now."""
        return not self._shares.counting or self._shares.allows(owner)

    def _make_room(self) -> bool:
        """Whether one more connection may be opened; closes an idle one of another owner if need be."""
        if len(self.connections) + len(self._opening) < self._connections_most:
            return True
        return self._separate and self.idle.close_one()

    def _begin_opening(self, owner: str) -> None:
        """Reserve the place of a connection that is about to be opened."""
        if self._shares.counting:
            self._shares.add(owner)
        self._opening.append(owner)
        self._resize()

    def _end_opening(self, owner: str) -> None:
        """Give up the place of a connection that is not opened."""
        self._opening.remove(owner)
        if self._shares.counting:
            self._shares.remove(owner)
        self._resize()
        self._serve_waiting()

    def _resize(self) -> None:
        """Tell the shares how many connections there are, and if need be who uses them."""
        using = (each.owner for each in self.connections if each.in_use)
        count = len(self.connections) + len(self._opening)
        self._shares.resize(count, chain(using, self._opening))

    async def _open(self, owner: str) -> UpstreamConnection:
        connection = None
        try:
            connection = await open_connection(self._name, self._origin, self, self._connect_s)
        finally:
            if connection is None:
                self._end_opening(owner)
        self._opening.remove(owner)
        connection.in_use = True
        connection.owner = owner
        self.connections.add(connection)
        if self._closed:
            connection.fail("the gate is closing", "stopped")
            raise unsent(self._name, "is closed", "stopped")
        self._start_sweep(connection.loop)
        return connection

    def _give_up(self, waiter: Waiter) -> None:
        """A waiter was cancelled: what it may have been given goes to the next one."""
        self.queue.discard(waiter)
        turn = waiter.turn
        if turn.cancelled() or not turn.done() or turn.exception() is not None:
            return
        connection = turn.result()
        if connection is None:
            self._end_opening(waiter.owner)
        elif connection.usable:
            self.on_free(connection)

    def _serve_waiting(self) -> None:
        """Give those in the queue what has become free."""
        while (waiter := self.queue.first(self._shares)) is not None:
            if waiter.turn.done():  # cancelled, and not yet resumed
                self.queue.discard(waiter)
                continue
            connection = self.take(waiter.owner)
            if connection is None:
                if not (self._allows(waiter.owner) and self._make_room()):
                    self._wait_for_rest(waiter.turn.get_loop())
                    return
                self._begin_opening(waiter.owner)
            self.queue.discard(waiter)
            waiter.turn.set_result(connection)

    def _wait_for_rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """While somebody waits, look again when the connections that rest may be used."""
        if self.idle.resting and self.queue.count and self._rest_timer is None:
            self._rest_timer = loop.call_later(REST_AFTER_STREAM_S, self._rested)

    def _rested(self) -> None:
        self._rest_timer = None
        self._serve_waiting()

    # What connections report, see `Home`

    def on_free(self, connection: UpstreamConnection) -> None:
        """See `Home`."""
        connection.in_use = False
        if self._shares.counting:
            self._shares.remove(connection.owner)
        self.idle.put(connection)
        if self.queue.count:
            self._serve_waiting()

    def on_lost(self, connection: UpstreamConnection) -> None:
        """See `Home`."""
        if connection not in self.connections:
            return  # lost before it was opened completely
        self.connections.remove(connection)
        if not connection.in_use:
            self.idle.remove(connection)
        else:
            connection.in_use = False
            if self._shares.counting:
                self._shares.remove(connection.owner)
        self._resize()
        if self.queue.count:
            self._serve_waiting()
        if not self.connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    # Deadlines

    def _start_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sweep_timer is None and not self._closed:
            self.idle.swept_at = loop.time()
            self._sweep_timer = loop.call_later(self._sweep_every_s, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep_timer = None
        now = loop.time()
        self.idle.swept_at = now
        self.idle.expire(now - self._idle_s)
        for connection in [c for c in self.connections if c.in_use]:
            connection.sweep(now)
        for waiter in self.queue.take_expired(now):
            self._refuse(waiter, "had no connection free in time", "busy")
        if self.connections or self.queue.count:
            self._start_sweep(loop)

    def _refuse(self, waiter: Waiter, why: str, cause: UpstreamCause) -> None:
        if not waiter.turn.done():
            waiter.turn.set_exception(unsent(self._name, why, cause))
