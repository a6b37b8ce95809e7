"""Wallets and how their limits stand, read off the hot path; no balance moves here."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from redis.asyncio import Redis

from gateway.domain.reservation import Account
from gateway.domain.standing import Standing
from gateway.ledger.client import clock
from gateway.ledger.client.cluster.client import is_cluster
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.client.reading import PAGE, get_each, get_reached, pages
from gateway.ledger.codec.done import read_done
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.wallet_records import (
    Wallet,
    read_account_rev,
    read_sweep_at_ms,
    read_wallet,
)
from gateway.ledger.standing import counted_in, standings_of


class WalletReader:
    """The wallets of one ledger, as values. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._names = names

    async def customers(self) -> list[str]:
        """Ids of all customers, sorted."""
        found = []
        async with self._client.pipeline(transaction=False) as pipe:
            for shard in range(self._names.shard_count):
                pipe.smembers(self._names.customers(shard))
            with unavailable():
                for members in await pipe.execute():
                    found += [member.decode() for member in members]
        return sorted(found)

    async def read(self, customer_ids: Iterable[str]) -> dict[str, Wallet]:
        """The wallets of those customers that have one."""
        found = {}
        for page in pages(list(customer_ids)):
            keys = [self._names.account(self._names.shard_of(name), name) for name in page]
            records = await get_each(self._client, keys)
            found.update(
                {name: read_wallet(raw) for name, raw in zip(page, records, strict=True) if raw}
            )
        return found

    async def read_reached(
        self, customer_ids: Iterable[str]
    ) -> tuple[dict[str, Wallet], frozenset[str]]:
        """The same, and the customers of whom nothing is known: their node of a cluster is away."""
        found: dict[str, Wallet] = {}
        unknown: set[str] = set()
        for page in pages(list(customer_ids)):
            keys = [self._names.account(self._names.shard_of(name), name) for name in page]
            for name, raw in zip(page, await get_reached(self._client, keys), strict=True):
                if isinstance(raw, LedgerUnavailable):
                    unknown.add(name)
                elif raw:
                    found[name] = read_wallet(raw)
        return found, frozenset(unknown)

    async def account_rev(self, customer_id: str) -> int | None:
        """The account's present revision; None when there is no such account."""
        with unavailable():
            raw = await self._client.get(
                self._names.account(self._names.shard_of(customer_id), customer_id)
            )
        return None if raw is None else read_account_rev(raw)

    async def due(self) -> AsyncIterator[list[str]]:
        """Customers whose wallet time alone changes by now, page by page over all wallets.

        Of a record only the moment is read, and no more than a page is kept: the walk is for
        ledgers of millions. What changes meanwhile is found now or by the next walk; so is what is on
        a node of a cluster that is away.
        """
        now_ms = await clock.now_ms(self._client)
        for shard in range(self._names.shard_count):
            try:
                async for page in self._due_in(shard, now_ms):
                    yield page
            except LedgerUnavailable:
                if not is_cluster(self._client):
                    raise

    async def _due_in(self, shard: int, now_ms: int) -> AsyncIterator[list[str]]:
        cursor: Any = None
        while cursor is None or int(cursor):
            with unavailable():
                cursor, names = await self._client.sscan(
                    self._names.customers(shard), cursor or 0, count=PAGE
                )
                if not names:
                    continue
                prefix = self._names.account(shard, "")
                records = await self._client.mget([prefix + name for name in names])
            yield [
                name.decode()
                for name, raw in zip(names, records, strict=True)
                if raw and read_sweep_at_ms(raw) <= now_ms
            ]

    async def standings(self, accounts: Sequence[Account]) -> list[Standing]:
        """How the limits of these accounts stand by the ledger's clock; what several share, once."""
        now_ms = await clock.now_ms(self._client)
        keys = {key: None for account in accounts for key in counted_in(self._names, account)}
        found = await get_each(self._client, list(keys))
        records = dict(zip(keys, found, strict=True))
        return list(
            {
                standing: None
                for account in accounts
                for standing in standings_of(
                    account, [records[key] for key in counted_in(self._names, account)], now_ms
                )
            }
        )

    async def given_terms(
        self, operations: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], bytes]:
        """Packed terms of the grants that were given, by (customer_id, operation id)."""
        given = {}
        for page in pages(operations):
            async with self._client.pipeline(transaction=False) as pipe:
                for customer_id, op_id in page:
                    shard = self._names.shard_of(customer_id)
                    pipe.hget(self._names.ops(shard, customer_id), op_id)
                with unavailable():
                    found = await pipe.execute()
            for operation, packed in zip(page, found, strict=True):
                if packed is not None:
                    given[operation] = read_done(packed).terms
        return given
