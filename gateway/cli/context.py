"""From `--config` to an open ledger and store, for the commands that look at them.

The embedded ledger has one server: a command connects to the one that a running gate has, and
where none runs starts it for as long as the command takes.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from gateway.app.private import UMASK
from gateway.app.run import LEDGER_FOLDER
from gateway.cli.output import fail
from gateway.exporter.sinks.sqlite_reader import SqliteStore, StoreMissing
from gateway.ledger.accounts import AccountStore, OtherLedger, RedisRunner
from gateway.ledger.audit import Audit
from gateway.ledger.changes import Changes
from gateway.ledger.client.embedded import EmbeddedLedger, EmbeddedLedgerError, running_socket
from gateway.ledger.client.endpoint import BadLedgerUrl, Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.corrections import Corrections
from gateway.ledger.outbox import Outbox
from gateway.ledger.outbox_watermark import OutboxWatermark
from gateway.ledger.reservations import Reservations
from gateway.ledger.shards import Shards
from gateway.ledger.wallets import Wallets
from gateway.settings import Settings, SettingsError, load_settings

T = TypeVar("T")

ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config", "-c", envvar="CREDITGATE_CONFIG", help="The configuration of the gate."
    ),
]
DEFAULT_CONFIG = Path("config/gateway.yaml")


@dataclass(frozen=True, slots=True)
class Context:
    """What a command works on. `client` is a redis-py client."""

    settings: Settings
    client: Any
    accounts: AccountStore
    shards: Shards
    audit: Audit
    outbox: Outbox
    store: SqliteStore

    @property
    def wallets(self) -> Wallets:
        """Grants, accounts and their terms."""
        return Wallets(self.shards)

    @property
    def corrections(self) -> Corrections:
        """Refunds."""
        return Corrections(self.shards)

    @property
    def reservations(self) -> Reservations:
        """Holds."""
        return Reservations(self.shards)

    @property
    def changes(self) -> Changes:
        """Where gates hear of changed accounts."""
        return Changes(self.client, namespace=self.settings.redis.namespace)


def read_settings(config: Path) -> Settings:
    """The settings; a file that is wrong ends the command with every mistake told."""
    try:
        return load_settings(config)
    except SettingsError as error:
        raise fail("\n".join(str(problem) for problem in error.problems)) from None


def on_ledger(config: Path, work: Callable[[Context], Awaitable[T]]) -> T:
    """Open the ledger and the store, do the work, close both; what is unreachable ends the command."""

    async def run() -> T:
        async with open_context(read_settings(config)) as context:
            return await work(context)

    with explained():
        return asyncio.run(run())


@contextmanager
def explained() -> Iterator[None]:
    """End the command with one line for what the operator can mend."""
    try:
        yield
    except (
        LedgerUnavailable,
        EmbeddedLedgerError,
        BadLedgerUrl,
        OtherLedger,
        StoreMissing,
    ) as error:
        raise fail(str(error)) from None


@asynccontextmanager
async def open_context(settings: Settings, *, create: bool = True) -> AsyncIterator[Context]:
    """The ledger and the store of these settings.

    create: note how the ledger is created, or make sure that it was created so
    Raises LedgerUnavailable, EmbeddedLedgerError, BadLedgerUrl, OtherLedger, StoreMissing.
    """
    redis = settings.redis
    names: Any = {"namespace": redis.namespace, "shard_count": redis.shards}
    with ledger_endpoint(settings) as endpoint:
        client = endpoint.client(name="creditgate-cli", timeout_s=30)
        accounts = AccountStore(client, **names)
        store = open_store(settings.events_path)
        try:
            # A shard that has less than the store must not be written to; see `OutboxWatermark`.
            stored = SqliteStore.cursors_at(settings.events_path)
            if create:
                await accounts.create()
            yield Context(
                settings=settings,
                client=client,
                accounts=accounts,
                shards=Shards(
                    RedisRunner(client), accounts.keys, watermark=OutboxWatermark(stored)
                ),
                audit=Audit(client, accounts.keys),
                outbox=Outbox(client, redis.shards, namespace=redis.namespace),
                store=store,
            )
        finally:
            store.close()
            await client.aclose()


@contextmanager
def ledger_endpoint(settings: Settings) -> Iterator[Endpoint]:
    """Where the ledger is; the embedded one is started if nobody runs it.

    Raises EmbeddedLedgerError, BadLedgerUrl.
    """
    url = settings.redis.connection_url()
    if url is not None:
        yield Endpoint.from_url(url)
        return
    folder = settings.data_dir / LEDGER_FOLDER
    socket = running_socket(folder)
    if socket is not None:
        yield Endpoint.from_socket(socket)
        return
    os.umask(UMASK)  # it may be what makes the data folder
    with EmbeddedLedger(folder) as server:
        yield server.endpoint


def open_store(path: Path) -> SqliteStore:
    """The embedded store; an empty one where nothing has been exported yet."""
    try:
        return SqliteStore.at(path)
    except StoreMissing:
        return SqliteStore.empty()
