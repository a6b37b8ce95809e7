"""The server that holds the ledger, as the supervisor sees it: embedded or external."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.app.background import forever
from gateway.app.parts import CannotStart, LedgerState
from gateway.app.shards import ShardWatch
from gateway.app.tasks import end_tasks
from gateway.domain.stores import StoreAccess
from gateway.ledger.client.cluster.durability import read_promises
from gateway.ledger.client.durability import Durability, Persistence, UnfitServer
from gateway.ledger.client.embedded import EmbeddedLedger, EmbeddedLedgerError
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.fitness import UNREACHABLE, common_trouble, find_troubles, trouble_of
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.rights import missing_rights
from gateway.ledger.client.servers import Servers, locate
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.following import NotPrimary
from gateway.ledger.outbox import Outbox
from gateway.ledger.shards import Shards

log = structlog.get_logger("ledger")

LEDGER_FOLDER: Final = "ledger"
"""Where the embedded ledger lies in the data folder."""
WAIT_FOR_SERVER_S: Final = 15.0
"""How long a start waits for a server that starts at the same time."""
_RETRY_EVERY_S: Final = 0.5

DECLARED: Final[dict[str, Persistence | None]] = {
    "detect": None,
    "none": "none",
    "everysec": "aof_everysec",
    "always": "aof_always",
}
"""What the configuration's `redis.durability` vouches for."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which ledger is looked at, and the store that it is compared with."""

    namespace: str
    shards: int
    store: StoreAccess


class RemoteServer:
    """A Redis or Valkey that somebody else runs."""

    def __init__(self, url: str, declared: Persistence | None, where: Where) -> None:
        self._url = url
        self._servers = locate(url)
        self._look = _Look(self._servers, declared, where)
        self._following: list[asyncio.Task[None]] = []

    async def start(self) -> str:
        """Wait until it answers, and refuse one that is not fit. Raises CannotStart."""
        await self._look.inspect(WAIT_FOR_SERVER_S)
        self._following = [asyncio.create_task(forever(self._servers.follow_switches))]
        return self._url

    async def look(self) -> LedgerState:
        """How it is."""
        return await self._look.look()

    async def revive(self) -> bool:
        """Not ours to start."""
        return False

    async def stop(self) -> None:
        """Let go of it."""
        await end_tasks(self._following)
        await self._look.close()


class EmbeddedServer:
    """The Valkey server of our own, in the gate's data folder."""

    def __init__(self, folder: Path, where: Where) -> None:
        self._server = EmbeddedLedger(folder)
        self._where = where
        self._look: _Look | None = None

    async def start(self) -> str:
        """Start it, on this thread: its parent-death signal is tied to it. Raises CannotStart."""
        self._spawn()
        self._look = _Look(self._server.endpoint, None, self._where)
        await self._look.inspect(0)
        return self._server.url

    async def look(self) -> LedgerState:
        """How it is."""
        return LedgerState(UNREACHABLE) if self._look is None else await self._look.look()

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


async def examine(
    client: Any, namespace: str, *, user: str, declared: Persistence | None
) -> Durability:
    """What the server promises, if a gate may start on it. user: as whom the client enters

    Raises CannotStart if not, LedgerUnavailable if it cannot be asked now.
    """
    try:
        missing = await missing_rights(client, namespace)
        if missing:
            raise UnfitServer(f"its user {user} may not use: {', '.join(missing)}")
        promises = await read_promises(client, declared=declared)
        trouble = common_trouble(await find_troubles(client))
        if trouble is not None and trouble.word == "ledger_lacks_replicas":
            # Replicas that have just started are in step some seconds later.
            raise LedgerUnavailable(trouble.sentence, code="NOREPLICAS")
        return promises
    except UnfitServer as error:
        raise CannotStart(f"the ledger's server is not fit: {error}") from error


def say_away(shown: str, error: LedgerUnavailable) -> str:
    """Why a gate does not start on a server that cannot be asked."""
    refused = error.code or isinstance(error.__cause__, NotPrimary)  # the Sentinels say why
    return f"the ledger at {shown}{f': {error}' if refused else ' does not answer'}"


class _Look:
    """The supervisor's own connection to a server."""

    def __init__(self, endpoint: Servers, declared: Persistence | None, where: Where) -> None:
        self._shown = endpoint.shown
        self._moves = endpoint.moves
        self._client = endpoint.client(name="creditgate-supervisor", timeout_s=2, max_connections=2)
        self._declared = declared
        self._watch = ShardWatch(
            Shards(RedisRunner(self._client), Keys(where.namespace, where.shards)),
            Outbox(self._client, where.shards, namespace=where.namespace),
            where.store,
        )
        self._namespace = where.namespace
        self._user = endpoint.user

    async def inspect(self, wait_s: float) -> Durability:
        """What it promises, logged. Raises CannotStart."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                found = await examine(
                    self._client, self._namespace, user=self._user, declared=self._declared
                )
                break
            except LedgerUnavailable as error:
                if time.monotonic() >= deadline:
                    raise CannotStart(say_away(self._shown, error)) from error
                log.warning("waits_for_ledger", server=self._shown, reason=str(error))
            await asyncio.sleep(_RETRY_EVERY_S)
        log.info("ledger_server", server=found.server, persistence=found.persistence)
        for warning in found.warnings:
            log.warning("ledger_server", warning=warning)
        return found

    async def look(self) -> LedgerState:
        """Whether it can serve, and which shards cannot."""
        known = self._moves.count
        troubles = await find_troubles(self._client)
        found = {name: each for name, each in troubles.items() if each is not None}
        if any(each.moved for each in found.values()):
            self._moves.moved(known)
        nodes = {
            f"{name}_{_short(each.word)}": each.sentence
            for name, each in sorted(found.items())
            if name
        }
        if len(found) < len(troubles):
            try:
                return LedgerState(frozen=tuple(sorted(await self._watch.look())), nodes=nodes)
            except LedgerUnavailable as error:
                trouble = trouble_of(error)
        else:
            trouble = next(iter(found.values()))
        if trouble.moved:
            self._moves.moved(known)
        frozen = tuple(sorted(self._watch.closed))
        return LedgerState(trouble.word, trouble.sentence, frozen)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def _short(word: str) -> str:
    """Of a node, where the word for the ledger would mislead."""
    return "unreachable" if word == UNREACHABLE else word
