"""The gate's HTTP server: connections of one listening socket, their limits, their end.

Invariants: a handler is never cancelled because its client left; every stage of a connection has a
deadline, kept by one sweep to within `SWEEP_EVERY_S`; connections are bounded in total and per
address, and what they buffer by one byte budget; errors of this layer are JSON through
`render_error`.
"""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import orjson
import structlog

from gateway.http.budget import ByteBudget, Charge
from gateway.http.server.connection import Connection
from gateway.http.server.exchange import is_bodyless
from gateway.http.server.head_memory import HeadMemory
from gateway.http.server.host import Client, Handler
from gateway.http.server.limits import ServerLimits as ServerLimits
from gateway.http.server.limits import accept_backlog
from gateway.http.server.strictness import ALLOW, Problem
from gateway.http.server.tls_listener import TlsListener
from gateway.telemetry.logs import failure

RenderError = Callable[[int, str], bytes]

SWEEP_EVERY_S: Final = 0.5
_CROWDED_PART: Final = 0.95
_TURNS_TO_CLOSE: Final = 4
"""Of the event loop, until a connection that was cut is lost; TLS takes some more."""

_log = structlog.get_logger(__name__)

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def openai_error(status: int, message: str) -> bytes:
    """Return an error body in OpenAI's shape."""
    kind = "api_error" if status >= 500 else "invalid_request_error"
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}})


class HttpServer:
    """Serves `handler` on one listening socket."""

    def __init__(
        self,
        handler: Handler,
        limits: ServerLimits | None = None,
        *,
        render_error: RenderError = openai_error,
        budget: ByteBudget | None = None,
    ) -> None:
        """budget: to be shared with the client to upstreams; one by the limits when None."""
        self.handler = handler
        self.limits = limits = limits or ServerLimits()
        self.budget = budget or ByteBudget(limits.buffer_bytes, limits.buffer_share_bytes)
        self.draining = False
        self.tls: ssl.SSLContext | None = None
        """What new connections shake hands with; whether there is one is decided by `start`."""
        self.heads = HeadMemory()
        self.openings: dict[int, bytes] = {}
        self.sized_openings: dict[int, bytes] = {}
        self.resting: dict[Client, None] = {}
        self.orphans: set[Client] = set()
        self.starved: set[Client] = set()
        self.unread: dict[Client, Charge] = {}
        self.requests_total = 0
        self.crashes_total = 0
        self.shed_total = 0
        """Idle connections closed in favour of new ones."""
        self.refused_total: Counter[int] = Counter()
        """Requests answered by this layer alone, by status."""
        self.idle_deadline = 0.0
        self._date = b""
        self._render_error = render_error
        self._connections: set[Client] = set()
        self._per_address: Counter[str] = Counter()
        self._listener: asyncio.Server | TlsListener | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._quiet: asyncio.Future[None] | None = None
        smallest = min(
            *(limits.idle_s, limits.head_s, limits.body_s, limits.write_s),
            *(limits.linger_s, limits.starved_s),
        )
        self._sweep_every_s = min(SWEEP_EVERY_S, smallest / 4)

    def __repr__(self) -> str:
        return f"<HttpServer: {len(self._connections)} connections, {self.busy_count} busy>"

    @property
    def connection_count(self) -> int:
        """Open connections."""
        return len(self._connections)

    @property
    def busy_count(self) -> int:
        """Connections whose handler runs, including those whose client has left."""
        return len(self._connections) - len(self.resting) + len(self.orphans)

    @property
    def crowded(self) -> bool:
        """Whether a new client would hardly be served: nearly every place has a request in hand, or
        the byte budget is nearly used up."""
        busy_most = self.limits.connections_most * _CROWDED_PART
        return self.busy_count > busy_most or self.budget.tight

    async def start(self, sock: socket.socket) -> None:
        """Listen on a bound socket."""
        loop = asyncio.get_running_loop()
        backlog = accept_backlog(self.limits.connections_most)

        def make() -> Connection:
            return Connection(self, loop)

        tls = self.tls
        if tls is None:
            self._listener = await loop.create_server(make, sock=sock, backlog=backlog)
        else:
            self._listener = TlsListener(
                make,
                lambda: self.tls or tls,
                at_most=backlog // 2,
                shake_s=self.limits.head_s,
                close_s=self.limits.linger_s,
            )
            self._listener.start(sock, backlog)
        self._sweep(loop)

    def forget_heads(self) -> None:
        """Forget the remembered heads, with what the flow noted in them: after a reload."""
        self.heads = HeadMemory()
        for connection in self._connections:
            connection.forget_head()

    def stop_accepting(self) -> None:
        """Close the listening socket and end handshakes; open connections go on. Idempotent."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def drain(self, grace_s: float) -> int:
        """Accept no more, close idle connections, wait for the running handlers; every response from
        now on closes its connection. Returns how many handlers still run after grace_s.
        """
        self.stop_accepting()
        self.draining = True
        for connection in list(self._connections):
            connection.finish()
        await self._wait_quiet(grace_s)
        return self.busy_count

    async def close(self, settle_s: float = 5.0) -> None:
        """Cut every connection. Handlers see `ClientGone` and have settle_s to end by themselves;
        what still runs then is cancelled.
        """
        self.stop_accepting()
        self.draining = True
        tasks = {c.task for c in self._connections | self.orphans if c.task is not None}
        for connection in list(self._connections):
            connection.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=settle_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for _ in range(_TURNS_TO_CLOSE):
            await asyncio.sleep(0)

    async def _wait_quiet(self, most_s: float) -> None:
        if self.busy_count:
            if self._quiet is None:  # else another call waits already: both are woken
                self._quiet = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._quiet], timeout=most_s)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        self.openings.clear()
        self.sized_openings.clear()
        now = loop.time()
        self.idle_deadline = now + self.limits.idle_s
        for connection in [c for c in self._connections if c.deadline < now]:
            connection.expire()
        for connection in list(self.starved):
            connection.read_on()
        self._sweep_timer = loop.call_later(self._sweep_every_s, self._sweep, loop)

    # The connections' side: see `Host`

    def admit(self, connection: Client) -> Problem | None:
        """Count a new connection; returns why it is refused, or None."""
        limits, address = self.limits, connection.address
        crowded = bool(address) and self._per_address[address] >= limits.connections_per_address
        full = len(self._connections) >= limits.connections_most
        if crowded or (full and not self._shed()):
            self._connections.add(connection)
            return 503, "Too many connections. Use fewer, and keep them alive."
        self._connections.add(connection)
        self.resting[connection] = None
        if address:
            self._per_address[address] += 1
        return None

    def _shed(self) -> bool:
        """Close the connection that has been without a request for longest; False without one."""
        victim = next(iter(self.resting), None)
        if victim is None:
            return False
        del self.resting[victim]
        victim.shed()
        self.shed_total += 1
        return True

    def forget(self, connection: Client) -> None:
        """Stop counting a connection that is lost."""
        self._connections.discard(connection)
        self.resting.pop(connection, None)
        address = connection.address
        if address:
            left = self._per_address[address] - 1
            if left:
                self._per_address[address] = left
            else:
                del self._per_address[address]

    def note_rest(self) -> None:
        """Wake a drain if no request is in hand any more."""
        if self._quiet is not None and not self.busy_count:
            self._quiet.set_result(None)
            self._quiet = None

    def opening(self, status: int) -> bytes:
        """Return the status line and the date field."""
        line = f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()
        self.openings[status] = opening = line + self._date
        if not is_bodyless(status):
            self.sized_openings[status] = opening + b"content-length: "
        return opening

    def refusal(self, status: int, message: str) -> bytes:
        """Count a refusal of the HTTP layer and return the complete response to it."""
        self.refused_total[status] += 1
        body = self._render_error(status, message)
        extra, connection = b"", b"close"
        if status == 405:
            extra = b"allow: %b\r\n" % ALLOW.encode()
        elif status == 426:  # RFC 9110, 15.5.22
            extra, connection = b"upgrade: HTTP/1.1\r\n", b"close, upgrade"
        elif status == 503:
            extra = b"retry-after: 1\r\n"
        return (
            b"%b%bcontent-type: application/json\r\nconnection: %b\r\ncontent-length: %d\r\n\r\n%b"
        ) % (self.opening(status), extra, connection, len(body), body)

    def charge_unread(self, connection: Client, charge: Charge, size: int) -> bool:
        """Charge bytes that a client leaves unread; False when it has to be cut.

        If the total is used up, the clients that have left theirs unread for longest are cut first.
        """
        while not charge.add(size):
            victim = next(iter(self.unread), None)
            if victim is None or self.budget.has_room(size):
                return False  # its owner's share is used up
            self.unread.pop(victim).clear()
            victim.abort()
        self.unread[connection] = charge
        return True

    def note_crash(self, error: Exception) -> None:
        """Count and log an error that a handler should not have raised."""
        self.crashes_total += 1
        _log.error("handler_failed", **failure(error))
