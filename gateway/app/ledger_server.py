"""The server that holds the ledger, as the supervisor sees it: our own, or somebody else's."""

import asyncio
import time
from pathlib import Path
from typing import Final

import structlog

from gateway.app.parts import CannotStart
from gateway.ledger.connect import Endpoint
from gateway.ledger.durability import Durability, Persistence, UnfitServer, read_durability
from gateway.ledger.embedded import EmbeddedLedger, EmbeddedLedgerError
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.outbox import unavailable

log = structlog.get_logger("ledger")

WAIT_FOR_SERVER_S: Final = 15.0
"""How long a start waits for a server that is being started beside it."""
_RETRY_EVERY_S: Final = 0.5

DECLARED: Final[dict[str, Persistence | None]] = {
    "detect": None,
    "none": "none",
    "everysec": "aof_everysec",
    "always": "aof_always",
}
"""What the configuration's `redis.durability` vouches for."""


class RemoteServer:
    """A Redis or Valkey that somebody else runs."""

    def __init__(self, url: str, declared: Persistence | None) -> None:
        self._url = url
        self._look = _Look(Endpoint.from_url(url), declared)

    async def start(self) -> str:
        """Wait until it answers, and refuse one that is not fit. Raises CannotStart."""
        await self._look.inspect(WAIT_FOR_SERVER_S)
        return self._url

    async def answers(self) -> bool:
        """Whether it can be reached."""
        return await self._look.answers()

    async def revive(self) -> bool:
        """Not ours to start."""
        return False

    async def stop(self) -> None:
        """Let go of it."""
        await self._look.close()


class EmbeddedServer:
    """The Valkey server of our own, in the gate's data folder."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedLedger(folder)
        self._look: _Look | None = None

    async def start(self) -> str:
        """Start it, on this thread: its parent-death signal is tied to it. Raises CannotStart."""
        self._spawn()
        self._look = _Look(self._server.endpoint, None)
        await self._look.inspect(0)
        return self._server.url

    async def answers(self) -> bool:
        """Whether it can be reached."""
        return self._look is not None and await self._look.answers()

    async def revive(self) -> bool:
        """Start it again if it has died. Its URL stays. Raises CannotStart."""
        if self._server.running:
            return False
        self._spawn()
        return True

    async def stop(self) -> None:
        """Shut it down; what was acknowledged is on disk."""
        if self._look is not None:
            await self._look.close()
            self._look = None
        await asyncio.to_thread(self._server.stop)

    def _spawn(self) -> None:
        try:
            self._server.start()
        except (EmbeddedLedgerError, OSError) as error:
            raise CannotStart(f"the embedded ledger does not start: {error}") from error


class _Look:
    """The supervisor's own connection to a server."""

    def __init__(self, endpoint: Endpoint, declared: Persistence | None) -> None:
        self._shown = endpoint.shown
        self._client = endpoint.client(name="creditgate-supervisor", timeout_s=2, max_connections=2)
        self._declared = declared

    async def inspect(self, wait_s: float) -> Durability:
        """What it promises, logged. Raises CannotStart."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                found = await read_durability(self._client, declared=self._declared)
                break
            except UnfitServer as error:
                raise CannotStart(f"the ledger's server is not fit: {error}") from error
            except LedgerUnavailable as error:
                if time.monotonic() >= deadline:
                    raise CannotStart(f"the ledger at {self._shown} does not answer") from error
                log.warning("waits_for_ledger", server=self._shown)
            await asyncio.sleep(_RETRY_EVERY_S)
        log.info("ledger_server", server=found.server, persistence=found.persistence)
        for warning in found.warnings:
            log.warning("ledger_server", warning=warning)
        return found

    async def answers(self) -> bool:
        """Whether it answers a PING."""
        try:
            with unavailable():
                await self._client.ping()
        except LedgerUnavailable:
            return False
        return True

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()
