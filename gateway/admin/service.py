"""The admin process: uvicorn with the console and the admin API, on a socket of the supervisor."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Generator
from typing import Final
from urllib.parse import urlsplit

import structlog
import uvicorn

from gateway.admin.app import create_app
from gateway.admin.auth.attempts import Attempts
from gateway.admin.context import AdminContext, Site
from gateway.admin.index.index import FILE, Index
from gateway.app.health_server import admin_token
from gateway.app.lasting_backend import LastingBackend
from gateway.app.roles import CannotServe, Resources
from gateway.app.sign_in_links import console_url
from gateway.app.sockets import address_of
from gateway.exporter.sinks.registry import DriverMissing
from gateway.http.tls import BadCertificate, following
from gateway.ledger.client.endpoint import BadLedgerUrl
from gateway.operations.tokens import secret_digest
from gateway.settings import Settings
from gateway.settings.server_tls import ServerTlsSection
from gateway.telemetry.logs import failure
from gateway.telemetry.metrics import Snapshot

log = structlog.get_logger("admin")

CONNECTIONS_MOST: Final = 512
KEEPALIVE_S: Final = 15
_HEAD_BYTES_MOST: Final = 65_536
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_EVERY_ADDRESS: Final = ("0.0.0.0", "[::]")  # noqa: S104 - compared
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Server(uvicorn.Server):
    """Run Uvicorn without its signal handlers: the child process handles signals itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave them alone."""
        yield


class AdminService:
    """The admin process' service (`roles.Service`)."""

    def __init__(self, settings: Settings, lasting: LastingBackend, token: str) -> None:
        self._settings = settings
        self._lasting = lasting
        self._token = token
        self._index = Index(settings.data_dir / FILE, lasting.over(settings).store)
        self._prepared: Settings | None = None
        self._stopping = asyncio.Event()
        self._closed = asyncio.Event()

    async def start(self, sock: socket.socket | None) -> None:
        """Serve on the socket. Raises CannotServe."""
        assert sock is not None, "the console listens"
        self._address = address_of(sock)
        await self._lasting.refresh()
        self.app = create_app(self._context(self._settings, Attempts()))
        self._config = uvicorn.Config(
            self.app,
            loop="none",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MOST,
            timeout_keep_alive=KEEPALIVE_S,
            h11_max_incomplete_event_size=_HEAD_BYTES_MOST,
        )
        self._config.load()
        self._tls = tls_of(self._settings.console.tls)
        if self._tls is not None:
            self._config.ssl = following(self._newest_tls)
        self._server = Server(self._config)
        self._serving = asyncio.create_task(self._server.serve([sock]))
        self._serving.add_done_callback(self._ended)
        self._refreshing = asyncio.create_task(self._lasting.keep_fresh())
        self._filling = asyncio.create_task(self._index.keep_filled())
        while not self._server.started:
            await asyncio.sleep(0.005)
            if self._serving.done():
                raise CannotServe("the console does not start")

    async def prepare(self, settings: Settings) -> None:
        """Check what can be wrong with new settings. Raises CannotServe."""
        self._prepared_tls = tls_of(settings.console.tls)
        self._prepared = settings

    def commit(self) -> None:
        """Serve new requests by what was prepared."""
        settings, self._prepared = self._prepared, None
        assert settings is not None, "prepared before"
        self._tls = self._prepared_tls or self._tls
        self._settings = settings
        context: AdminContext = self.app.state.context
        self.app.state.context = self._context(settings, context.attempts)

    def abort(self) -> None:
        """Drop what was prepared."""
        self._prepared = None

    async def drain(self, grace_s: float) -> None:
        """Let running requests end within the grace, and close."""
        self._config.timeout_graceful_shutdown = max(1, int(grace_s))
        if self._stopping.is_set():
            self._server.force_exit = True  # in a hurry
            await self._closed.wait()
            return
        self._stopping.set()
        self._server.should_exit = True
        await asyncio.wait([self._serving])
        self._refreshing.cancel()
        self._filling.cancel()
        await asyncio.wait([self._refreshing, self._filling])
        await asyncio.to_thread(self._index.close)
        await self._lasting.close()
        self._closed.set()

    def snapshot(self) -> Snapshot:
        """It has no metrics."""
        return {}

    def _newest_tls(self) -> ssl.SSLContext:
        assert self._tls is not None, "a port that speaks TLS goes on doing so"
        return self._tls

    def _context(self, settings: Settings, attempts: Attempts) -> AdminContext:
        return AdminContext(
            settings,
            self._lasting.over(settings),
            site_of(settings, self._address),
            secret_digest(self._token),
            attempts,
            self._stopping,
            self._index,
        )

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A bug ended the server: die, so that the supervisor starts a fresh one and counts it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("admin_failed", **failure(error))
            os._exit(70)


def site_of(settings: Settings, address: str) -> Site:
    """Where the console is reached. address: of its socket, as host:port"""
    console, base_url = settings.console, console_url(settings, address)
    host, _, port = address.rpartition(":")
    near = (*_LOOPBACK, host) if host in _EVERY_ADDRESS or host in _LOOPBACK else (host,)
    hosts = {f"{name}:{port}" for name in near} | set(console.allowed_hosts)
    if int(port) == _DEFAULT_PORTS["https" if console.tls else "http"]:
        hosts |= set(near)
    hosts.add(urlsplit(base_url).netloc.lower())
    return Site(base_url, frozenset(hosts), base_url.startswith("https:"))


def tls_of(section: ServerTlsSection | None) -> ssl.SSLContext | None:
    """TLS for the listener; None without the section. Raises CannotServe."""
    if section is None:
        return None
    try:
        return section.certificate().context()
    except BadCertificate as error:
        raise CannotServe(f"console.tls: {error}") from error


async def build_admin(settings: Settings, resources: Resources) -> AdminService:
    """The admin process' builder. Raises CannotServe."""
    configured = settings.admin.token
    token = configured.get_secret_value() if configured else admin_token(settings.data_dir)
    try:
        lasting = LastingBackend(settings, resources)
    except (BadLedgerUrl, DriverMissing) as error:
        raise CannotServe(str(error)) from error
    return AdminService(settings, lasting, token)
