"""The gate's HTTP server: connections of one listening socket, their limits, their end.

It stands on aiohttp's C parser and body reader (≥ 3.14.5, for the smuggling and bomb holes before
it), with connections of our own (`connection.py`), because aiohttp's own have no deadlines for
heads and bodies, no caps, and cost a task, a response object and header maps per request.

Invariants: a handler is never cancelled by a client's leaving; every stage of a connection has a
deadline, kept by one sweep to within `SWEEP_EVERY_S`; connections are bounded in total and per
address; errors of this layer are JSON through `render_error`.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

import aiohttp
import orjson
import structlog
from aiohttp.http import HttpRequestParser

from gateway.http.interface import Exchange
from gateway.http.server.connection import Connection
from gateway.http.server.strictness import Problem
from gateway.telemetry.logs import failure

Handler = Callable[[Exchange], Awaitable[None]]
RenderError = Callable[[int, str], bytes]

AIOHTTP_LEAST: Final = (3, 14, 5)
SWEEP_EVERY_S: Final = 0.5

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of the server; times in seconds, kept to within 0.5 s or a quarter of the smallest.

    idle_s:                   an idle connection is closed after this
    head_s:                   from a head's first byte to its last, else 408
    body_s:                   from the flow's wish for the body to its last byte, else 408
    write_s:                  a client may leave a full buffer unread for this long, then it is cut
    linger_s:                 how long what comes after an end is thrown away before the close
    connections_most:         open at a time; the next is answered 503
    connections_per_address:  the same per peer address (not for unix sockets)
    """

    idle_s: float = 75.0
    head_s: float = 9.0
    body_s: float = 30.0
    write_s: float = 30.0
    linger_s: float = 2.0
    connections_most: int = 20_000
    connections_per_address: int = 2_000


def openai_error(status: int, message: str) -> bytes:
    """An error body in OpenAI's shape."""
    kind = "api_error" if status >= 500 else "invalid_request_error"
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}})


class HttpServer:
    """Serves `handler` on one listening socket.

    Raises RuntimeError when aiohttp is too old or runs without its C parser.
    """

    def __init__(
        self,
        handler: Handler,
        limits: ServerLimits | None = None,
        *,
        render_error: RenderError = openai_error,
    ) -> None:
        _require_parser()
        self.handler = handler
        self.limits = limits or ServerLimits()
        self.render_error = render_error
        self.draining = False
        self.date_field = _date_field()
        self.requests_total = 0
        self.crashes_total = 0
        self.refused_total: Counter[int] = Counter()
        """Requests answered by this layer alone, by status."""
        self._connections: set[Connection] = set()
        self._busy: set[Connection] = set()
        self._per_address: Counter[str] = Counter()
        self._listener: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._quiet: asyncio.Future[None] | None = None
        times = self.limits
        smallest = min(times.idle_s, times.head_s, times.body_s, times.write_s, times.linger_s)
        self._sweep_every_s = min(SWEEP_EVERY_S, smallest / 4)

    def __repr__(self) -> str:
        return f"<HttpServer: {len(self._connections)} connections, {len(self._busy)} busy>"

    @property
    def connection_count(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def busy_count(self) -> int:
        """Connections whose handler runs, those included whose client has gone."""
        return len(self._busy)

    async def start(self, sock: socket.socket, *, backlog: int = 2048) -> None:
        """Listen on a bound socket."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self, loop), sock=sock, backlog=backlog
        )
        self._sweep(loop)

    def stop_accepting(self) -> None:
        """Close the listening socket; open connections go on. Idempotent."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def drain(self, grace_s: float) -> int:
        """Accept no more, close idle connections, let the running handlers end; every answer from
        now on closes its connection. Returns how many handlers still run after grace_s.
        """
        self.stop_accepting()
        self.draining = True
        for connection in list(self._connections):
            connection.close_idle()
        await self._wait_quiet(grace_s)
        return len(self._busy)

    async def close(self, settle_s: float = 5.0) -> None:
        """Cut every connection. Handlers see `ClientGone` and get settle_s to end by themselves;
        what still runs then is cancelled.
        """
        self.stop_accepting()
        self.draining = True
        for connection in list(self._connections):
            connection.abort()
        await self._wait_quiet(settle_s)
        tasks = [task for c in self._busy if (task := c.running()) is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        await asyncio.sleep(0)

    async def _wait_quiet(self, most_s: float) -> None:
        if self._busy:
            if self._quiet is None:  # else another call waits already: both hear of it
                self._quiet = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._quiet], timeout=most_s)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self.date_field = _date_field()
        now = loop.time()
        for connection in [c for c in self._connections if c.deadline < now]:
            connection.expire()
        self._sweep_timer = loop.call_later(self._sweep_every_s, self._sweep, loop)

    # The connections' side

    def admit(self, connection: Connection) -> Problem | None:
        """Take a new connection into account; says why it is refused, or None."""
        full = len(self._connections) >= self.limits.connections_most
        self._connections.add(connection)
        address = connection.remote
        crowded = (
            bool(address) and self._per_address[address] >= self.limits.connections_per_address
        )
        if full or crowded:
            return 503, "Too many connections. Use fewer, and keep them alive."
        if address:
            connection.counted = True
            self._per_address[address] += 1
        return None

    def forget(self, connection: Connection) -> None:
        """A connection is lost."""
        self._connections.discard(connection)
        if connection.counted:
            left = self._per_address[connection.remote] - 1
            if left:
                self._per_address[connection.remote] = left
            else:
                del self._per_address[connection.remote]

    def begin(self, connection: Connection) -> None:
        """A handler starts."""
        self.requests_total += 1
        self._busy.add(connection)

    def done(self, connection: Connection) -> None:
        """A handler has ended."""
        self._busy.discard(connection)
        if not self._busy and self._quiet is not None:
            self._quiet.set_result(None)
            self._quiet = None

    def note_refused(self, status: int) -> None:
        """A request was answered by this layer."""
        self.refused_total[status] += 1

    def note_crash(self, error: Exception) -> None:
        """A handler raised what it should not."""
        self.crashes_total += 1
        _log.error("handler_failed", **failure(error))


def _date_field() -> str:
    return f"date: {formatdate(usegmt=True)}\r\n"


def _require_parser() -> None:
    found = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdecimal())
    if found < AIOHTTP_LEAST:
        raise RuntimeError(f"aiohttp {aiohttp.__version__} is too old; 3.14.5 or later is needed")
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError("aiohttp runs without its C parser; unset AIOHTTP_NO_EXTENSIONS")
