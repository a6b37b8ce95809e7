"""From a configuration to what operations work on: the open ledger and event store.

The embedded ledger has one server: an operation connects to the one that a running gate has, and where
none runs starts it for as long as the operation takes.
"""

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, NoReturn, cast

from gateway.app.configured import ConfiguredBySettings
from gateway.app.ledger_server import LEDGER_FOLDER
from gateway.app.private import UMASK
from gateway.app.roles import CannotServe
from gateway.app.stores import store_access
from gateway.app.sync import sync_accounts
from gateway.app.tasks import end_tasks
from gateway.domain.actors import Actor
from gateway.domain.stores import EventStore, StoreAccess, StoreMissing
from gateway.ledger.accounts import AccountStore
from gateway.ledger.audit import Audit
from gateway.ledger.changes import Changes
from gateway.ledger.client.embedded import EmbeddedLedger, running_socket
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.fitness import Trouble, find_troubles
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.servers import Servers, locate
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.refusals import RefusedRequest
from gateway.ledger.corrections import Corrections
from gateway.ledger.exporters import ExporterList, list_exporters
from gateway.ledger.gates import list_gates
from gateway.ledger.losses import Losses
from gateway.ledger.notes import Notes
from gateway.ledger.outbox import Outbox
from gateway.ledger.outbox_watermark import OutboxWatermark
from gateway.ledger.refusals import NotedRefusal, find_refusal, latest_refusals
from gateway.ledger.repair import Repair
from gateway.ledger.reservations import Reservations
from gateway.ledger.shadow_wallets import ShadowWallets
from gateway.ledger.shards import Shards
from gateway.ledger.wallets import Wallets
from gateway.operations.backend import Backend
from gateway.settings import Settings

TIMEOUT_S: Final = 30.0
"""For one answer of the ledger."""


@asynccontextmanager
async def open_backend(
    settings: Settings, *, create: bool = True, need_store: bool = True
) -> AsyncIterator[Backend]:
    """The ledger and the store of these settings.

    create:     record how the ledger is created, or check that it was created so
    need_store: without it a store that is away answers no question; the ledger may only be read then
    Raises LedgerUnavailable, EmbeddedLedgerError, BadLedgerUrl, OtherLedger, StoreMissing.
    """
    access = store_access(settings)
    with open_endpoint(settings) as endpoint, _open_store(access, need_store) as store:
        client = endpoint.client(name="creditgate-cli", timeout_s=TIMEOUT_S)
        following = asyncio.create_task(endpoint.follow_switches())  # some commands take hours
        try:
            watermark = OutboxWatermark()
            if not isinstance(store, _NoStore):
                # A shard that has less than the store must not be written to.
                watermark.note_stored(store.cursors())
                recorded = await list_exporters(client, Keys(settings.redis.namespace))
                store = right_store(store, recorded, access.shown)
            backend = backend_over(settings, client, store, watermark)
            if create:
                await backend.accounts.creation.record()
            yield backend
        finally:
            await end_tasks([following])
            await client.aclose()


@contextmanager
def open_endpoint(settings: Settings) -> Iterator[Servers]:
    """Where the ledger is; the embedded one is started if nobody runs it.

    Raises EmbeddedLedgerError, BadLedgerUrl.
    """
    url = settings.redis.connection_url()
    if url is not None:
        yield locate(url)
        return
    folder = settings.data_dir / LEDGER_FOLDER
    socket = running_socket(folder)
    if socket is not None:
        yield Endpoint.from_socket(socket)
        return
    os.umask(UMASK)  # the embedded ledger may create the data folder
    with EmbeddedLedger(folder) as server:
        yield server.endpoint


def command_actor() -> Actor:
    """Who runs this process: the operating system's user."""
    try:
        return Actor("command", getpass.getuser())
    except (KeyError, OSError):  # a container may run under a number that has no name
        return Actor("command", f"uid {os.getuid()}")


class _NoStore:
    """In place of a store that is away, or not the ledger's: it answers no question."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        raise StoreMissing(self._reason)


@contextmanager
def _open_store(access: StoreAccess, needed: bool) -> Iterator[EventStore]:
    try:
        opened = access.open_or_empty()
    except StoreMissing as missing:
        if needed:
            raise
        yield cast(EventStore, _NoStore(str(missing)))
        return
    with opened as store:
        yield store


def right_store(store: EventStore, recorded: ExporterList, shown: str) -> EventStore:
    """The store, unless the ledger has recorded another one as the required store: that one alone has
    the events. Operations that do not ask the store still work."""
    if recorded.store_id is None or recorded.store_id == store.store_id():
        return store
    return cast(
        EventStore,
        _NoStore(
            f"this ledger's events are in its required store {recorded.store_name!r} (id"
            f" {recorded.store_id}), not in {shown}: run this with the configuration of that store"
        ),
    )


def backend_over(
    settings: Settings, client: Any, store: EventStore, watermark: OutboxWatermark
) -> Backend:
    """What operations work on, over an open client and store."""
    redis, runner = settings.redis, RedisRunner(client)
    names: Any = {"namespace": redis.namespace, "shard_count": redis.shards}
    accounts = AccountStore(client, **names)
    shards = Shards(runner, accounts.names, watermark=watermark)
    wallets = Wallets(shards)

    async def noted_refusal(request_id: str) -> NotedRefusal | None:
        return await find_refusal(client, request_id, namespace=redis.namespace)

    async def last_refusals(
        wanted: Callable[[RefusedRequest], bool], limit: int
    ) -> Sequence[NotedRefusal]:
        return await latest_refusals(client, wanted, limit, namespace=redis.namespace)

    async def ledger_time_ms() -> int:
        with unavailable():
            seconds, micros = await client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def troubles() -> Mapping[str, Trouble | None]:
        return await find_troubles(client)

    async def write_customers() -> str | None:
        try:
            synced = await sync_accounts(settings, wallets, accounts)
        except CannotServe as refused:
            return str(refused)
        if synced.away:
            return f"the node of shards {', '.join(map(str, sorted(synced.away)))} is away"
        return None

    return Backend(
        actor=command_actor(),
        configured=ConfiguredBySettings(settings),
        accounts=accounts,
        wallets=wallets,
        corrections=Corrections(shards),
        reservations=Reservations(shards),
        reservations_at=lambda now_ms: Reservations(
            Shards(runner, accounts.names, clock_ms=lambda: now_ms)
        ),
        repair=Repair(Shards(runner, accounts.names)),
        audit=Audit(client, accounts.names),
        losses=Losses(client, accounts.names),
        notes=Notes(shards),
        outbox=Outbox(client, redis.shards, namespace=redis.namespace),
        changes=Changes(client, namespace=redis.namespace),
        store=store,
        list_exporters=lambda: list_exporters(client, accounts.names),
        list_gates=lambda now_ms: list_gates(client, accounts.names, now_ms),
        ledger_time_ms=ledger_time_ms,
        find_refusal=noted_refusal,
        latest_refusals=last_refusals,
        find_troubles=troubles,
        write_customers=write_customers,
        keep_statement=store_access(settings).keep_statement,
        shadow_wallets=ShadowWallets(wallets, accounts.wallets, client, accounts.names),
    )
