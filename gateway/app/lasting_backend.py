"""A backend that stays open for days: what the console and the admin API work on.

A command opens the store, asks and ends. A process that stays must survive a store that is not there
yet, is away for a while or is replaced, so that it opens the store for each question.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, Final, TypeVar, cast

from gateway.app.backend import TIMEOUT_S, backend_over, right_store
from gateway.app.background import forever
from gateway.app.roles import Resources
from gateway.app.stores import store_access
from gateway.app.tasks import end_tasks
from gateway.domain.stores import EventStore, StoreAccess, StoreMissing
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.servers import locate
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.exporters import ExporterList, list_exporters
from gateway.ledger.kept_operations import KeptOperations
from gateway.ledger.outbox_watermark import OutboxWatermark
from gateway.ledger.shards import Shards
from gateway.operations.backend import Backend
from gateway.settings import Settings

T = TypeVar("T")

REFRESH_EVERY_S: Final = 15.0
_CONNECTIONS_MOST: Final = 32


class FreshStore:
    """A `gateway.domain.stores.EventStore` that is opened for each question, in any thread.

    Every question raises StoreMissing for a store that cannot be read, or is not the ledger's.
    """

    def __init__(self, access: StoreAccess, recorded: Callable[[], ExporterList | None]) -> None:
        """recorded: what the ledger says of its required store; None while it is not known"""
        self._access = access
        self._recorded = recorded

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                store: EventStore = stack.enter_context(self._access.open_or_empty())
                recorded = self._recorded()
                if recorded is not None and store.store_id() is not None:
                    store = right_store(store, recorded, self._access.shown)
                answer = getattr(store, name)(*args, **kwargs)
                if not isinstance(answer, Iterator):
                    return answer
                still_open = stack.pop_all()
            return _held_open(still_open, answer)

        return ask


def _held_open(opened: ExitStack, answer: Iterator[T]) -> Iterator[T]:
    with opened:
        yield from answer


class LastingBackend:
    """The ledger and the store of a gate for as long as the process runs.

    What a failover takes of the grants and corrections that were made here is made again.
    """

    def __init__(self, settings: Settings, resources: Resources) -> None:
        """Raises BadLedgerUrl, DriverMissing."""
        endpoint = locate(resources.ledger_url)
        self._servers = endpoint
        self._client = endpoint.client(
            name=resources.process, timeout_s=TIMEOUT_S, max_connections=_CONNECTIONS_MOST
        )
        self._names = Keys(settings.redis.namespace, settings.redis.shards)
        self._access = store_access(settings)
        self._watermark = OutboxWatermark()
        self._recorded: ExporterList | None = None
        self._store = cast(EventStore, FreshStore(self._access, lambda: self._recorded))
        shards = Shards(RedisRunner(self._client), self._names, watermark=self._watermark)
        self._kept = KeptOperations(shards, self._store.known_ids)

    def over(self, settings: Settings) -> Backend:
        """What operations work on, by these settings. Its grants and corrections are kept until the
        store has them."""
        backend = backend_over(settings, self._client, self._store, self._watermark)
        backend.wallets.shards.operated = self._kept.note
        return backend

    async def refresh(self) -> None:
        """Read which store the ledger has, and how far that is: a shard that has less than the store
        must not be written to. What cannot be read stays as it was."""
        with suppress(LedgerUnavailable):
            self._recorded = await list_exporters(self._client, self._names)
        with suppress(StoreMissing):
            stored = await asyncio.to_thread(self._access.cursors)
            self._watermark.note_stored(stored)
            await self._kept.look(stored)

    async def keep_fresh(self) -> None:
        """Refresh, and follow the ledger to another server, until cancelled."""
        following = asyncio.create_task(forever(self._servers.follow_switches))
        try:
            while True:
                await asyncio.sleep(REFRESH_EVERY_S)
                await self.refresh()
        finally:
            await end_tasks([following])

    async def close(self) -> None:
        """Close the ledger's connections."""
        await self._client.aclose()
