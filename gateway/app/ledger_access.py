"""A worker's connections to the ledger, and the objects that speak over them."""

from dataclasses import dataclass
from typing import Any, Final

from gateway.app.roles import CannotServe, Resources
from gateway.app.shards import KeyDirectory, ShardWatch
from gateway.app.stores import store_access
from gateway.ledger.accounts import AccountStore
from gateway.ledger.changes import Changes
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.servers import HotRunner, Servers, locate, open_runner
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.outbox import Outbox
from gateway.ledger.outbox_watermark import OutboxWatermark
from gateway.ledger.refusals import RefusalLog
from gateway.ledger.reservations import Reservations
from gateway.ledger.shadow_wallets import ShadowWallets
from gateway.ledger.shards import Shards
from gateway.ledger.unanswered import UnansweredLog
from gateway.ledger.wallets import Wallets
from gateway.settings import Settings

QUERY_TIMEOUT_S: Final = 1.0
"""For what a request asks of the ledger off the hot path: keys, revisions, balances."""

CLOSE_S: Final = 0.3
"""For a connection to answer what is outstanding before it is closed."""


@dataclass(frozen=True, slots=True)
class LedgerAccess:
    """Everything a worker has open at the ledger.

    Reserves and settlements have a connection each, so that a burst of settlements never delays an
    admission. Everything else goes over `client`, a pool of ordinary connections.

    reserving, settling: the ledger over the one and the other connection
    posting:             connections of `unanswered` alone, for its reads block
    servers:             where all of them lead
    """

    admission: HotRunner
    settlement: HotRunner
    client: Any
    posting: Any
    servers: Servers
    reserving: Reservations
    settling: Reservations
    accounts: AccountStore
    shards: ShardWatch
    keys: KeyDirectory
    changes: Changes
    refusals: RefusalLog
    unanswered: UnansweredLog
    shadow_wallets: ShadowWallets

    async def close(self) -> None:
        """Close every connection, once nothing is sent any more. Idempotent."""
        await self.admission.close(CLOSE_S)
        await self.settlement.close(CLOSE_S)
        await self.client.aclose()
        await self.posting.aclose()


async def open_ledger(settings: Settings, resources: Resources) -> LedgerAccess:
    """Connect, and learn how far the store says that each shard has got. Raises CannotServe."""
    access = _access(settings, resources)
    try:
        await access.admission.start()
        await access.settlement.start()
        await access.shards.look()
    except LedgerUnavailable as error:
        await access.close()
        raise CannotServe(str(error)) from error
    return access


def _access(settings: Settings, resources: Resources) -> LedgerAccess:
    endpoint = locate(resources.ledger_url)
    redis, process = settings.redis, resources.process
    admission = open_runner(endpoint, name=f"{process}-admission")
    settlement = open_runner(endpoint, name=f"{process}-settlement")
    client = endpoint.client(
        name=process, timeout_s=QUERY_TIMEOUT_S, pool_wait_s=QUERY_TIMEOUT_S / 2
    )
    posting = endpoint.client(name=f"{process}-unanswered", max_connections=2)
    watermark = OutboxWatermark()  # the shard watch fills in what the store has
    names = Keys(redis.namespace, redis.shards)
    admitting = Shards(admission, names, watermark=watermark)
    reserving = Reservations(admitting, max_backlog=settings.export.max_backlog_events)
    settling_shards = Shards(settlement, names, watermark=watermark)
    settling = Reservations(settling_shards)
    accounts = AccountStore(client, namespace=redis.namespace, shard_count=redis.shards)
    shards = ShardWatch(
        admitting,
        Outbox(client, redis.shards, namespace=redis.namespace),
        store_access(settings),
        speaks=False,
    )
    return LedgerAccess(
        admission=admission,
        settlement=settlement,
        client=client,
        posting=posting,
        servers=endpoint,
        reserving=reserving,
        settling=settling,
        accounts=accounts,
        shards=shards,
        keys=KeyDirectory(accounts, lambda: shards.closed),
        changes=Changes(client, namespace=redis.namespace),
        refusals=RefusalLog(client, namespace=redis.namespace),
        unanswered=UnansweredLog(posting, namespace=redis.namespace),
        shadow_wallets=ShadowWallets(
            Wallets(settling_shards), accounts.wallets, client, accounts.names
        ),
    )
