"""The admin side over HTTP: health for orchestrators, metrics for Prometheus.

Invariants: whatever tells of the business (metrics too: they tell how much is sold) wants the bearer
token, which is made at the first start and kept in the data folder. Only the health paths
are open, and they say no more than yes or no. Neither Host nor path is trusted.
"""

import hashlib
import hmac
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from gateway.telemetry.exposition import CONTENT_TYPE, render
from gateway.telemetry.metrics import Snapshot

TOKEN_FILE: Final = "admin.token"  # noqa: S105 - a file's name
_OPEN: Final = frozenset({"/healthz", "/readyz"})
_SAFE_HEADERS: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the gate can gate, and if not, why (one word each).

    degraded: what refuses some requests although the gate is ready
    notices: what an operator should look at though the gate serves (one word each)
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
    """The admin token of this data folder, made on first use and readable by its owner only."""
    path = data_dir / TOKEN_FILE
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = secrets.token_urlsafe(32)
    staged = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(fresh + "\n")
        os.link(staged, path)  # atomic, and fails if there is one already
    except FileExistsError:
        pass
    finally:
        staged.unlink()
    return path.read_text().strip()


def admin_app(side: AdminSide) -> web.Application:
    """The aiohttp application of the admin side."""
    expected = hashlib.sha256(side.token.encode()).digest()

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path not in _OPEN and not _authorized(request, expected):
            return _answer(
                {"error": "the admin side wants its bearer token"},
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


async def start_admin(side: AdminSide, sock: socket.socket) -> web.AppRunner:
    """Serve the admin side on a listening socket; `cleanup()` of the result ends it."""
    runner = web.AppRunner(
        admin_app(side), access_log=None, keepalive_timeout=15, handle_signals=False
    )
    await runner.setup()
    await web.SockSite(runner, sock, backlog=128).start()
    return runner


def _authorized(request: web.Request, expected: bytes) -> bool:
    values = request.headers.getall("authorization", [])
    scheme, _, token = (values[0] if len(values) == 1 else "").partition(" ")
    given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
    return hmac.compare_digest(given, expected) and scheme.lower() == "bearer"


def _answer(
    body: dict[str, object], status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    return web.json_response(body, status=status, headers=_SAFE_HEADERS | (headers or {}))
