"""Reads for key holders: a wallet, live from the ledger with today's sum from the store; what an old
request was charged, from the store."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.app.daily_charges import DailyCharges
from gateway.domain.reservation import Account
from gateway.flow.idempotency import Charge
from gateway.flow.local_routes import Balance
from gateway.ledger.accounts import AccountStore


class BalanceReader:
    """Answers `GET /v1/credits`."""

    def __init__(self, store: AccountStore, events_path: Path) -> None:
        self._store = store
        self._daily = DailyCharges(events_path)
        self._events_uri = f"{events_path.absolute().as_uri()}?mode=ro"

    async def read(self, account: Account) -> Balance | None:
        """The wallet now; None when there is none. Raises LedgerUnavailable."""
        wallets = await self._store.wallets.read([account.customer_id])
        wallet = wallets.get(account.customer_id)
        if wallet is None:
            return None
        now_ms = time.time_ns() // 1_000_000
        today = await self._daily.since_midnight(account.customer_id, now_ms)
        return Balance(
            balance_nano=wallet.balance_nano(now_ms),
            held_nano=wallet.held_nano,
            available_nano=wallet.available_nano(now_ms),
            credit_limit_nano=wallet.credit_limit_nano,
            granted_nano=wallet.granted_nano,
            settled_nano=wallet.settled_nano,
            settled_today_nano=today,
            limits=tuple(await self._store.wallets.standings([account]) if account.limits else ()),
        )

    async def charge_of(self, reservation_id: str) -> Charge | None:
        """What a request was charged in all, with its last event; None when the store has none."""
        return await asyncio.to_thread(self._charge_of, reservation_id)

    def _charge_of(self, reservation_id: str) -> Charge | None:
        rows = self._stored(
            "SELECT amount_nano, event_id FROM events WHERE event_id IN (?, ?, ?)"
            " ORDER BY occurred_at_ms, epoch, seq",
            *(f"{reservation_id}:{outcome}" for outcome in ("settled", "expired", "settled_late")),
        )
        return Charge(sum(nano for nano, _ in rows), rows[-1][1]) if rows else None

    def _stored(self, query: str, *values: str | int) -> list[Any] | None:
        """Rows of the store; None where there is none, or it cannot be read now."""
        try:
            with closing(sqlite3.connect(self._events_uri, uri=True, timeout=0.5)) as store:
                return store.execute(query, values).fetchall()
        except sqlite3.Error:
            return None
