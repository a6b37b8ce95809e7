"""The client of one upstream: a pool of connections to one origin.

Invariants:

- A request is written once. Only a connection that is known to be dead before its first byte is
  replaced; what happens after that byte is an error (`sent=True`), never a second attempt. When
  the upstream closes an idle connection at the very moment of the request, that is such an error.
- No connection is used twice without a look at its socket (`UpstreamConnection.is_quiet`).
- Idle connections are used last in, first out, and closed before usual servers close theirs.
- After a chunked response a connection rests before it is used again: llama.cpp's server closes
  after a stream without having said so, and a request that follows at once would have no response.
- Everything is bounded: connections, an owner's share of them, callers that wait for one, their time,
  each phase's time.
- No redirects, no cookies, no environment: the origin is what the configuration says.

One coarse sweep per pool checks all deadlines, and runs only while there are any.
"""

import asyncio
import math
import re
import ssl
from asyncio import CancelledError
from collections.abc import Callable
from itertools import chain
from typing import Final

from gateway.http.client.connection import UpstreamConnection
from gateway.http.client.head import HeadReader
from gateway.http.client.idle import REST_AFTER_STREAM_S, IdleConnections
from gateway.http.client.limits import PoolLimits, UpstreamTimeouts
from gateway.http.client.opening import Origin, open_connection, unsent
from gateway.http.client.response import Response
from gateway.http.client.sharing import FairQueue, Shares, Waiter
from gateway.http.client.target import join_path, join_query
from gateway.http.client.writing import WHOLE_WRITE_BYTES
from gateway.http.upstream_interface import (
    CancelledUnsent,
    UpstreamCause,
    UpstreamResponse,
)

_STARTS_MOST: Final = 512
_TARGET: Final = re.compile(r"/[\x21-\x7e]*", re.ASCII)
_TOKEN: Final = re.compile(r"[A-Z]+", re.ASCII)
_WITH_LENGTH: Final = frozenset({"POST", "PUT", "PATCH"})


class UpstreamPool:
    """An `Upstream` for one base URL, such as "https://api.example.com" or "http://10.0.0.7:8000/api".

    tls:         context for https; None makes one with the system's CAs
    server_name: name for SNI and the certificate, when it is not the URL's host
    query:       parameters added to each request's, encoded
    inspect:     called with each response before the caller sees it; may set its `transform`, replace
                 its `values`, raise UpstreamError

    Raises ValueError when the URL is not an http(s) origin with an optional path.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        timeouts: UpstreamTimeouts | None = None,
        limits: PoolLimits | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        query: str = "",
        inspect: Callable[[UpstreamResponse], None] | None = None,
    ) -> None:
        self.name = name
        self.heads = HeadReader()
        self._origin = Origin.from_url(base_url, tls, server_name)
        self._query = query
        self._inspect = inspect
        times = timeouts or UpstreamTimeouts()
        self._connect_s = times.connect_ms / 1000
        self.head_s = times.head_ms / 1000
        self.between_s = times.between_ms / 1000
        self.total_s = math.inf if times.total_ms is None else times.total_ms / 1000
        self._idle_s = times.idle_ms / 1000
        smallest = min(self._connect_s, self.head_s, self.between_s, self.total_s, self._idle_s)
        self._sweep_every_s = min(max(smallest / 4, 0.01), 0.5)
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        limits = limits or PoolLimits()
        self._connections_most = limits.connections_most
        self._separate = limits.separate
        self._shares = Shares(limits.connections_most)
        self._queue = FairQueue(limits.waiting_most)
        self._idle = IdleConnections(separate=limits.separate)
        self._starts: dict[tuple[str, str], bytes] = {}
        self._connections: set[UpstreamConnection] = set()
        self._opening: list[str] = []
        """Owners of the connections that are being opened."""
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return (
            f"<UpstreamPool {self.name}: {len(self._connections)} open, {len(self._opening)} opening,"
            f" {len(self._idle)} idle, {self._queue.count} waiting>"
        )

    @property
    def open_count(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    @property
    def idle_count(self) -> int:
        """Open connections without a request."""
        return len(self._idle)

    @property
    def waiting_count(self) -> int:
        """Callers that wait for a connection."""
        return self._queue.count

    async def send(
        self, method: str, target: str, fields: bytes, body: bytes, *, owner: str = ""
    ) -> Response:
        """Send a request once, wait for the response's head. See `Upstream.send`.

        target: origin-form with its query; the base URL's path is put before it (`join_path`)

        Raises UpstreamError, ValueError (a head that could be read as something else).
        """
        start = self._starts.get((method, target)) or self._start_of(method, target)
        if fields and (fields[-2:] != b"\r\n" or b"\r\n\r\n" in fields):
            raise ValueError("the fields are not encoded lines")
        size = len(body)
        large = size > WHOLE_WRITE_BYTES
        if size or method in _WITH_LENGTH:
            start = b"%b%bcontent-length: %d\r\n\r\n%b" % (
                start,
                fields,
                size,
                b"" if large else body,
            )
        else:
            start = b"%b%b\r\n" % (start, fields)
        connection = self._take(owner)
        if connection is None:
            try:
                connection = await self._acquire(owner)
            except CancelledError:
                raise CancelledUnsent from None
        request = connection.start(start, bodyless=method == "HEAD")
        try:
            if large:
                await connection.write_body(body)
            response = await request
        except CancelledError:
            connection.abandon(request)
            raise
        # By now the connection may already carry another request: only the response is ours.
        if self._inspect is not None:
            try:
                self._inspect(response)
            except BaseException:
                response.close()
                raise
        return response

    async def close(self) -> None:
        """Close every connection; requests in progress fail. Idempotent."""
        self._closed = True
        for timer in (self._sweep_timer, self._rest_timer):
            if timer is not None:
                timer.cancel()
        self._sweep_timer = self._rest_timer = None
        for waiter in self._queue.take_all():
            self._refuse(waiter, "is closed", "stopped")
        for connection in list(self._connections):
            connection.fail("the gate is closing", "stopped")
        if self._connections:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def _start_of(self, method: str, target: str) -> bytes:
        """The request line and Host."""
        if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
            raise ValueError("not a method and a target in origin-form")
        joined = join_query(join_path(self._origin.path, target), self._query)
        start = f"{method} {joined} HTTP/1.1\r\nhost: {self._origin.authority}\r\n".encode()
        if "?" not in target:  # a query is seldom sent again
            if len(self._starts) >= _STARTS_MOST:
                self._starts.clear()
            self._starts[method, target] = start
        return start

    # Getting a connection

    def _take(self, owner: str) -> UpstreamConnection | None:
        """An idle connection for this owner, now in use; None when there is none, or none for it."""
        shares = self._shares
        counting = shares.counting
        if counting and not shares.allows(owner):
            return None
        connection = self._idle.take(owner)
        if connection is not None:
            connection.in_use = True
            connection.owner = owner
            if counting:
                shares.add(owner)
        return connection

    async def _acquire(self, owner: str) -> UpstreamConnection:
        """Open a connection, or wait for one. Raises UpstreamError(sent=False)."""
        if self._closed:
            raise unsent(self.name, "is closed", "stopped")
        if self._allows(owner) and self._make_room():
            self._begin_opening(owner)
            return await self._open(owner)
        loop = asyncio.get_running_loop()
        while True:
            waiter = Waiter(owner, loop.time() + self._connect_s, loop.create_future())
            left = self._queue.add(waiter)
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
        if len(self._connections) + len(self._opening) < self._connections_most:
            return True
        return self._separate and self._idle.close_one()

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
        using = (each.owner for each in self._connections if each.in_use)
        count = len(self._connections) + len(self._opening)
        self._shares.resize(count, chain(using, self._opening))

    async def _open(self, owner: str) -> UpstreamConnection:
        connection = None
        try:
            connection = await open_connection(self.name, self._origin, self, self._connect_s)
        finally:
            if connection is None:
                self._end_opening(owner)
        self._opening.remove(owner)
        connection.in_use = True
        connection.owner = owner
        self._connections.add(connection)
        if self._closed:
            connection.fail("the gate is closing", "stopped")
            raise unsent(self.name, "is closed", "stopped")
        self._start_sweep(connection.loop)
        return connection

    def _give_up(self, waiter: Waiter) -> None:
        """A waiter was cancelled: what it may have been given goes to the next one."""
        self._queue.discard(waiter)
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
        while (waiter := self._queue.first(self._shares)) is not None:
            if waiter.turn.done():  # cancelled, and not yet resumed
                self._queue.discard(waiter)
                continue
            connection = self._take(waiter.owner)
            if connection is None:
                if not (self._allows(waiter.owner) and self._make_room()):
                    self._wait_for_rest(waiter.turn.get_loop())
                    return
                self._begin_opening(waiter.owner)
            self._queue.discard(waiter)
            waiter.turn.set_result(connection)

    def _wait_for_rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """While somebody waits, look again when the connections that rest may be used."""
        if self._idle.resting and self._queue.count and self._rest_timer is None:
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
        self._idle.put(connection)
        if self._queue.count:
            self._serve_waiting()

    def on_lost(self, connection: UpstreamConnection) -> None:
        """See `Home`."""
        if connection not in self._connections:
            return  # lost before it was opened completely
        self._connections.remove(connection)
        if not connection.in_use:
            self._idle.remove(connection)
        else:
            connection.in_use = False
            if self._shares.counting:
                self._shares.remove(connection.owner)
        self._resize()
        if self._queue.count:
            self._serve_waiting()
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    # Deadlines

    def _start_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sweep_timer is None and not self._closed:
            self._idle.swept_at = loop.time()
            self._sweep_timer = loop.call_later(self._sweep_every_s, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep_timer = None
        now = loop.time()
        self._idle.swept_at = now
        self._idle.expire(now - self._idle_s)
        for connection in [c for c in self._connections if c.in_use]:
            connection.sweep(now)
        for waiter in self._queue.take_expired(now):
            self._refuse(waiter, "had no connection free in time", "busy")
        if self._connections or self._queue.count:
            self._start_sweep(loop)

    def _refuse(self, waiter: Waiter, why: str, cause: UpstreamCause) -> None:
        if not waiter.turn.done():
            waiter.turn.set_exception(unsent(self.name, why, cause))
