"""Writes a configuration's accounts into the ledger at a URL, before a gate starts and when it reloads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.app.roles import CannotServe
from gateway.app.shards import ShardWatch
from gateway.app.stores import store_access
from gateway.app.sync import sync_accounts
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.servers import locate
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.creation import OtherLedger
from gateway.ledger.outbox import Outbox
from gateway.ledger.prices import PricesChanged
from gateway.ledger.shards import Shards
from gateway.ledger.wallets import Wallets
from gateway.settings import Settings


class AccountWriter:
    """Writes the accounts into the ledger; later those whose node of a cluster was away."""

    def __init__(self) -> None:
        self._left: tuple[Settings, str, frozenset[int]] | None = None
        """What was written last, where, and the shards that were left out."""
        self._turn = asyncio.Lock()

    async def write(self, settings: Settings, ledger_url: str) -> None:
        """Raises CannotServe."""
        async with self._turn:
            await self._write(settings, ledger_url)

    async def write_rest(self) -> None:
        """Write what was left out, if a part of it can be reached now. Raises CannotServe."""
        async with self._turn:
            if self._left is None:
                return
            settings, ledger_url, shards = self._left
            async with open_accounts(settings, ledger_url) as (_, _, outbox):
                back = shards & (await outbox.reached_heads()).keys()
            if back:
                await self._write(settings, ledger_url)

    async def _write(self, settings: Settings, ledger_url: str) -> None:
        async with open_accounts(settings, ledger_url) as (store, ledger, outbox):
            await store.creation.record()
            await ShardWatch(ledger.shards, outbox, store_access(settings), speaks=False).look()
            synced = await sync_accounts(settings, ledger, store)
        self._left = (settings, ledger_url, synced.away) if synced.away else None


@asynccontextmanager
async def open_accounts(
    settings: Settings, ledger_url: str
) -> AsyncIterator[tuple[AccountStore, Wallets, Outbox]]:
    """The ledger at a URL. Raises CannotServe for whatever it raises."""
    endpoint = locate(ledger_url)
    namespace, shard_count = settings.redis.namespace, settings.redis.shards
    client = endpoint.client(name="creditgate-accounts")
    try:
        yield (
            AccountStore(client, namespace=namespace, shard_count=shard_count),
            Wallets(Shards(RedisRunner(client), Keys(namespace, shard_count))),
            Outbox(client, shard_count, namespace=namespace),
        )
    except (OtherLedger, PricesChanged) as error:
        raise CannotServe(str(error)) from error
    except LedgerUnavailable as error:
        raise CannotServe(f"the ledger does not take the accounts: {error}") from error
    finally:
        await client.aclose()
