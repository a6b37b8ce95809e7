"""Watches whether every shard has what the store has, and shuts one that has not.

A shard that was restored from an older copy looks complete to a process that has just started. So each
process learns from the store how far each shard was before it serves, and goes on looking; the
finding goes into the shard's own record (`freeze`), from where nothing but a repair takes it away.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from gateway.domain.delivery import START, Place
from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import Key
from gateway.domain.stores import StoreAccess, StoreMissing
from gateway.flow.lru import Lru
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.fitness import STORE
from gateway.ledger.codec.shard_records import Shard
from gateway.ledger.keys import AccountRead
from gateway.ledger.outbox import Outbox
from gateway.ledger.pricebook import UnreadablePrice
from gateway.ledger.shards import Shards

log = structlog.get_logger("ledger")

MAX_TABLES: Final = 10_000
"""Prices of customers of their own that a worker keeps."""
LOOK_EVERY_S: Final = 1.0
STORE_ANSWERS_WITHIN_S: Final = 2.0
HINT: Final = "`creditgate ledger status` says what is lost; the exporter repairs it, or `creditgate ledger reopen`"


class ShardWatch:
    """The shards of one ledger, as one process sees them."""

    def __init__(
        self, ledger: Shards, outbox: Outbox, store: StoreAccess, *, speaks: bool = True
    ) -> None:
        """ledger: its watermark learns what the store has. speaks: log what changes; one process does"""
        self.closed: frozenset[int] = frozenset()
        """Shards that are frozen."""
        self.store_has_all = True
        """False where the store lacks what the ledger has trimmed: another one is the required store."""
        self.on_look: Callable[[Mapping[int, Place], Mapping[int, Place]], None] | None = None
        """Called after each look with how far the store has what each shard has, as both of them say, and with
        the last entry of each shard that serves."""
        self._acked: dict[int, Place] = {}
        """Acknowledged at the look before: the store had it before the ledger knew."""
        self._ledger = ledger
        self._outbox = outbox
        self._store = store
        self._speaks = speaks
        self._wake = asyncio.Event()
        self._asking: asyncio.Task[Mapping[int, Place]] | None = None
        ledger.watermark.on_went_back = lambda _: self._wake.set()

    async def look(self) -> frozenset[int]:
        """Compare every shard with what is known of it, and freeze those that have less.

        A shard whose node is away stays as it was at the look before. Raises LedgerUnavailable when no
        node can be reached, and where the store cannot be read.
        """
        seen = self._ledger.watermark
        # First the store, then the ledger: so the store cannot be ahead of a ledger that has lost nothing.
        cursors = await self._stored()
        seen.note_stored(cursors)
        known = [seen.place(shard) for shard in range(self._outbox.shard_count)]
        self.store_has_all = all(cursors.get(s, START) >= acked for s, acked in self._acked.items())
        heads = await self._outbox.reached_heads()
        closed = set(self.closed - heads.keys())
        serving: dict[int, Place] = {}
        failed: LedgerUnavailable | None = None
        for shard, head in heads.items():
            if head.acked is not None:
                self._acked[shard] = head.acked
            # What is read may be a replica's, which lags; `freeze` is decided where it is written.
            behind = head.last < known[shard]
            try:
                # Of a frozen one, too: the highest entry that anyone has seen says what is lost.
                if (behind and await self._ledger.freeze(shard, known[shard])) or head.frozen:
                    closed.add(shard)
                else:
                    serving[shard] = head.last
            except LedgerUnavailable as error:  # the other shards must not wait for this one
                failed = error
                closed |= self.closed & {shard}
        self._take(frozenset(closed))
        if failed is not None and not self._outbox.on_cluster:
            raise failed
        if self.on_look is not None:
            self.on_look(_agreed(cursors, heads), serving)
        return self.closed

    async def _stored(self) -> Mapping[int, Place]:
        """What the store has. An answer that takes too long is left to a later look, which does not ask
        again before it has come."""
        if self._asking is None:
            self._asking = asyncio.create_task(asyncio.to_thread(self._store.cursors))
        asking = self._asking
        if not (await asyncio.wait({asking}, timeout=STORE_ANSWERS_WITHIN_S))[0]:
            raise LedgerUnavailable("the store does not answer", code=STORE)
        self._asking = None
        try:
            return await asking
        except StoreMissing as error:
            raise LedgerUnavailable(str(error), code=STORE) from error

    async def run(self) -> None:
        """Look again and again, and at once when a script finds that a shard has gone back."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_EVERY_S)
            self._wake.clear()
            try:
                await self.look()
            except LedgerUnavailable:
                await asyncio.sleep(LOOK_EVERY_S)

    def _take(self, closed: frozenset[int]) -> None:
        if self._speaks:
            for shard in sorted(closed - self.closed):
                log.error("shard_frozen", shard=shard, hint=HINT)
            for shard in sorted(self.closed - closed):
                log.warning("shard_reopened", shard=shard)
        self.closed = closed


def _agreed(cursors: Mapping[int, Place], heads: Mapping[int, Shard]) -> dict[int, Place]:
    """How far the store has what each shard has. Its cursor alone does not say so: a shard that two servers
    serve after a failover may have other entries than those that were stored."""
    return {
        shard: min(cursors[shard], head.acked)
        for shard, head in heads.items()
        if shard in cursors and head.acked is not None
    }


class KeyDirectory:
    """The ledger's directory of customers and keys, which is not believed while the ledger has lost
    something."""

    def __init__(self, store: AccountStore, closed: Callable[[], frozenset[int]]) -> None:
        self._store = store
        self._closed = closed
        self._tables: Lru[str, PriceTable] = Lru(MAX_TABLES)

    async def find_key(self, digest: str) -> Key | None:
        """The key with this hash; None when unknown or revoked. Raises LedgerUnavailable."""
        key = await self._store.keys.find(digest)
        if key is None and self._closed():
            raise LedgerUnavailable(
                "the ledger has lost entries, so it may have lost this key, too"
            )
        return key

    async def account_rev(self, account_id: str) -> int | None:
        """The account's present revision. Raises LedgerUnavailable."""
        return await self._store.wallets.account_rev(account_id)

    async def read_account(self, customer_id: str, account_id: str, digest: str) -> AccountRead:
        """See `gateway.ledger.keys`. Raises LedgerUnavailable."""
        found = await self._store.keys.read_account(customer_id, account_id, digest)
        return replace(found, complete=False) if self._closed() else found

    async def price_tables(self, versions: Iterable[str]) -> dict[str, PriceTable]:
        """Prices of customers of their own, kept for the next one. Raises LedgerUnavailable."""
        tables = {version: self._tables.get(version) for version in versions}
        missing = [version for version, table in tables.items() if table is None]
        if missing:
            try:
                read = await self._store.books.tables(missing)
            except UnreadablePrice as error:
                raise LedgerUnavailable(str(error)) from error
            for version, table in read.items():
                tables[version] = table
                self._tables.put(version, table)
        return {version: table for version, table in tables.items() if table is not None}
