"""The admin side over HTTP: health for orchestrators, metrics for Prometheus.

Invariants: everything about the business, including metrics (they show how much is sold), requires
the bearer token, which is generated at the first start and kept in the data folder. Only the health
paths are open, and they reveal no more than readiness and its reasons. Neither Host nor path is
trusted. Open connections are bounded; a new one takes the place of the oldest, so that connections
that send nothing can neither use up file descriptors nor lock out a health probe.
"""

import asyncio
import hashlib
import hmac
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from gateway.app.kept_secret import kept_secret
from gateway.http.server.tls_listener import TlsListener
from gateway.telemetry.exposition import CONTENT_TYPE, render
from gateway.telemetry.metrics import Snapshot

TOKEN_FILE: Final = "admin.token"  # noqa: S105 - a file's name
CONNECTIONS_MOST: Final = 64
"""Open connections of the admin side: probes, scrapers and operators need a few."""
_BACKLOG: Final = 128
_SHAKE_S: Final = 5.0
_CLOSE_S: Final = 1.0
_OPEN: Final = frozenset({"/healthz", "/readyz"})
_SAFE_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the gate can gate, and if not, why (one word each).

    degraded: conditions that refuse some requests although the gate is ready
    notices:  conditions an operator should look at although the gate serves (one word each)
    """

    ready: bool
    why_not: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdminSide:
    """What the admin side shows.

    readiness:  asked on every /readyz
    metrics:    a fresh sum over all processes
    token:      the bearer token
    routes:     further paths, guarded by the token
    """

    readiness: Callable[[], Readiness]
    metrics: Callable[[], Awaitable[Snapshot]]
    token: str
    routes: Iterable[web.RouteDef] = ()


def admin_token(data_dir: Path) -> str:
    """The admin token of this data folder, generated on first use and readable by its owner only."""
    return kept_secret(data_dir, TOKEN_FILE)


def admin_app(side: AdminSide) -> web.Application:
    """The aiohttp application of the admin side."""
    expected = hashlib.sha256(side.token.encode()).digest()

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path not in _OPEN and not _authorized(request, expected):
            return _answer(
                {"error": "the admin side requires its bearer token"},
                401,
                {"www-authenticate": 'Bearer realm="creditgate admin"'},
            )
        try:
            response = await handler(request)
        except web.HTTPException as error:
            allow = {"allow": error.headers["allow"]} if "allow" in error.headers else None
            return _answer({"error": error.reason}, error.status, allow)
        response.headers.update(_SAFE_HEADERS)
        return response

    async def healthz(_: web.Request) -> web.Response:
        return _answer({"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        readiness = side.readiness()
        said: dict[str, object] = {"status": "ready" if readiness.ready else "not ready"}
        if readiness.why_not:
            said["why"] = readiness.why_not
        if readiness.degraded:
            said["degraded"] = readiness.degraded
        if readiness.notices:
            said["notices"] = readiness.notices
        return _answer(said) if readiness.ready else _answer(said, 503, {"retry-after": "1"})

    async def metrics(_: web.Request) -> web.Response:
        body = render(await side.metrics())
        return web.Response(body=body, headers={"content-type": CONTENT_TYPE})

    app = web.Application(middlewares=[guard], client_max_size=1024 * 1024)
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            *side.routes,
        ]
    )
    return app


class AdminServer:
    """The admin side on a listening socket, from `start` to `close`."""

    def __init__(
        self,
        side: AdminSide,
        *,
        connections_most: int = CONNECTIONS_MOST,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """tls: returns what the next connection shakes hands with; None serves plain HTTP"""
        self._runner = web.AppRunner(
            admin_app(side), access_log=None, keepalive_timeout=15, handle_signals=False
        )
        self._connections_most = connections_most
        self._open: dict[_Connection, None] = {}
        self._tls = tls
        self._listener: asyncio.Server | TlsListener | None = None

    @property
    def connection_count(self) -> int:
        """Open connections."""
        return len(self._open)

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        await self._runner.setup()
        if self._tls is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(self._accept, sock=sock, backlog=_BACKLOG)
        else:
            self._listener = TlsListener(
                self._accept_secure,
                self._tls,
                at_most=self._connections_most,
                shake_s=_SHAKE_S,
                close_s=_CLOSE_S,
            )
            self._listener.start(sock, _BACKLOG)

    async def close(self) -> None:
        """Accept no more, and end the open connections. Idempotent."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._runner.cleanup()

    def _accept(self) -> "_Connection":
        connection = self._accept_secure()
        self._admit(connection)
        return connection

    def _accept_secure(self) -> "_Connection":
        """The same before a handshake, which may fail: it counts from when it is made."""
        assert self._runner.server is not None, "set up before it listens"
        return _Connection(self._runner.server(), self)

    def _admit(self, connection: "_Connection") -> None:
        if connection in self._open:
            return
        if len(self._open) >= self._connections_most:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()
        self._open[connection] = None

    def _forget(self, connection: "_Connection") -> None:
        self._open.pop(connection, None)


class _Connection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and leaves the server's list when it is lost.

    Several connections are accepted in one turn of the event loop, before any of them is made: so
    they count from their creation, and one that is aborted before it is made closes as it is made.
    """

    def __init__(self, inner: asyncio.Protocol, server: AdminServer) -> None:
        self._inner = inner
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._aborted = False

    def abort(self) -> None:
        """Close at once."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._aborted:
            self._server._admit(self)
        self._inner.connection_made(transport)
        if self._aborted:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._forget(self)
        self._inner.connection_lost(exc)


def _authorized(request: web.Request, expected: bytes) -> bool:
    values = request.headers.getall("authorization", [])
    scheme, _, token = (values[0] if len(values) == 1 else "").partition(" ")
    given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
    return hmac.compare_digest(given, expected) and scheme.lower() == "bearer"


def _answer(
    body: dict[str, object], status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return web.json_response(body, status=status, headers=_SAFE_HEADERS | (headers or {}))
