"""Expires holds whose deadline has passed, and grants of wallets that have no requests; announces
signals that are due.

The deadline lies in the ledger, and the script itself checks it against the ledger's clock, so
any number of sweepers may run at once; only one of them finds work.

A ledger that comes back finds every hold overdue: the gates that live get some seconds first, to
extend what still runs and to deliver what has ended meanwhile. So does each shard of a node of a
cluster; the others' holds are expired meanwhile.
"""

import asyncio
import time
from contextlib import suppress
from typing import Final

import structlog

from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable, ShardClosed
from gateway.ledger.codec.reservation_records import DueReservation
from gateway.ledger.reservations import Reservations
from gateway.ledger.wallets import Wallets
from gateway.telemetry.logs import failure

log = structlog.get_logger("sweeper")

MAX_PER_SWEEP: Final = 500
"""Holds expired in one round over all shards, so that requests keep their share of the ledger."""

PATIENCE_S: Final = 5.0
"""How long a ledger must answer before its overdue holds are expired."""

SHUT_S: Final = 10.0
"""How long a shard that takes nothing is left alone."""


class Sweeper:
    """Expires due holds, a bounded number per round; now and then looks at every wallet."""

    def __init__(
        self,
        ledger: Reservations,
        store: AccountStore,
        *,
        interval_s: float = 1.0,
        patience_s: float = PATIENCE_S,
        wallets_every_s: float = 60.0,
    ) -> None:
        self._ledger = ledger
        self._wallets = Wallets(ledger.shards)
        self._store = store
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._wallets_every_s = wallets_every_s
        self._shut: dict[int, float] = {}
        """Shards that took nothing, and until when they are left alone: their overdue holds must not
        keep the others' from ending."""
        self._away: set[int] = set()
        """Shards whose node was away in the last round."""

    async def run(self) -> None:
        """Expire holds until cancelled. An unavailable ledger is asked again at the next round."""
        swept = 0
        answers = False
        while True:
            try:
                if not answers:
                    await self._store.now_ms()
                    await asyncio.sleep(self._patience_s)
                    answers = True
                swept = await self.sweep()
            except LedgerUnavailable:
                swept, answers = 0, False
            if swept < MAX_PER_SWEEP:
                await asyncio.sleep(self._interval_s)

    async def run_wallets(self) -> None:
        """Sweep wallets until cancelled, apart from the holds: a walk over a million takes a while."""
        while True:
            with suppress(LedgerUnavailable):
                await self.sweep_wallets()
            await asyncio.sleep(self._wallets_every_s)

    async def sweep(self) -> int:
        """One round. Returns how many holds were expired. Raises LedgerUnavailable."""
        expired, now = 0, time.monotonic()
        self._shut = {shard: until for shard, until in self._shut.items() if until > now}
        away: set[int] = set()
        found = await self._store.holds.due(limit=MAX_PER_SWEEP, skip=self._shut, away=away.add)
        for shard in self._away - away:
            self._shut[shard] = now + self._patience_s
        self._away = away
        for due in found:
            if due.shard not in self._shut and due.shard not in away:
                expired += await self._expire(due)
        if expired:
            log.warning("holds_expired", holds=expired)
        return expired

    async def sweep_wallets(self) -> int:
        """Sweep every wallet whose time has come, in use or not. Returns how many there were.

        Raises LedgerUnavailable.
        """
        swept = 0
        async for names in self._store.wallets.due():
            for name in names:
                try:
                    await self._wallets.sweep(name)
                except LedgerUnavailable as error:
                    if not (self._store.on_cluster or isinstance(error, ShardClosed)):
                        raise
            swept += len(names)
        return swept

    async def _expire(self, due: DueReservation) -> bool:
        try:
            return await self._ledger.expire(due) is not None
        except ShardClosed as closed:
            self._shut[closed.shard] = time.monotonic() + SHUT_S
            return False
        except LedgerUnavailable:
            if not self._store.on_cluster:
                raise
            self._away.add(due.shard)
            return False
        except Exception as fault:
            # One that the ledger refuses to expire must not keep the others.
            log.error("expire_failed", reservation_id=due.reservation_id, **failure(fault))
            return False
