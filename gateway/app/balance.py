"""Reads for key holders: a wallet, live from the ledger with today's sum from the store; what an old
request was charged, from the store."""

import asyncio
import time
from collections.abc import Callable

from gateway.app.daily_charges import DailyCharges
from gateway.domain.reservation import Account
from gateway.domain.stores import StoreAccess, StoreMissing
from gateway.flow.idempotency import Charge
from gateway.flow.local_routes import Balance
from gateway.ledger.accounts import AccountStore


class BalanceReader:
    """Answers `GET /v1/credits`."""

    def __init__(
        self,
        store: AccountStore,
        access: StoreAccess,
        has_all: Callable[[], bool] = lambda: True,
    ) -> None:
        """has_all: whether the store has what the ledger has trimmed; else it says nothing of today"""
        self._has_all = has_all
        self._store = store
        self._daily = DailyCharges(access)
        self._access = access

    async def read(self, account: Account) -> Balance | None:
        """The wallet now; None when there is none. Raises LedgerUnavailable."""
        wallets = await self._store.wallets.read([account.customer_id])
        wallet = wallets.get(account.customer_id)
        if wallet is None:
            return None
        now_ms = time.time_ns() // 1_000_000
        known = self._has_all()
        today = await self._daily.since_midnight(account.customer_id, now_ms) if known else None
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
        try:
            with self._access.open() as store:
                found = store.charge_of(reservation_id)
        except StoreMissing:
            return None
        return Charge(*found) if found else None
