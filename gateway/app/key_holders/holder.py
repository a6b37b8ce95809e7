"""What the page of one customer shows, gathered from ledger and store."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.app.key_holders.reading import StoreReads
from gateway.app.key_holders.usage import DAY_MS, UsageReader, Used
from gateway.domain.customers import customer_of
from gateway.domain.refusals import RefusalHour
from gateway.domain.reservation import Account
from gateway.domain.stores import EventStore
from gateway.flow.local_routes import Balance
from gateway.ledger.client.errors import LedgerUnavailable

REFUSAL_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class ShownKey:
    """One API key of the customer. Times in Unix ms; None where that is not known.

    shown: its prefix and last four characters, as far as they are known
    ended: why it is not valid any more; "" while it is
    """

    key_id: str
    shown: str = ""
    name: str | None = None
    project_id: str | None = None
    created_at_ms: int | None = None
    last_used_ms: int | None = None
    expires_at_ms: int | None = None
    ended: str = ""


@dataclass(frozen=True, slots=True)
class ShownRefusal:
    """Refused requests of the last days for one reason. last_hour_ms: the latest hour with one"""

    reason: str
    model: str
    count: int
    last_hour_ms: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A customer, as its key holders see it. days: from the first to the last day, gaps included"""

    customer_id: str
    is_test: bool
    balance: Balance
    by_day: Used
    by_model: Used
    keys: Sequence[ShownKey]
    refusals: Sequence[ShownRefusal]


ListKeys = Callable[[str], Awaitable[Sequence[ShownKey]]]
"""Customer id → its keys."""


@dataclass(frozen=True, slots=True)
class HolderReader:
    """Gathers what the page shows."""

    balance: Callable[[Account], Awaitable[Balance | None]]
    usage: UsageReader
    reads: StoreReads
    list_keys: ListKeys

    async def read(self, account: Account) -> Holder:
        """Everything about one account. Raises LedgerUnavailable, Refused."""
        balance = await self.balance(account)
        if balance is None:
            raise LedgerUnavailable(f"the ledger has no wallet of {account.customer_id}")
        by_day = await self.usage.read(account, "day", None, None)
        by_model = await self.usage.read(account, "model", None, None)
        customer_id, purpose = customer_of(account.customer_id)
        return Holder(
            customer_id,
            purpose == "test",
            balance,
            by_day,
            by_model,
            await self.list_keys(customer_id),
            await self._refusals(account.customer_id),
        )

    async def _refusals(self, customer_id: str) -> list[ShownRefusal]:
        since_ms = time.time_ns() // 1_000_000 - REFUSAL_DAYS * DAY_MS

        def ask(store: EventStore) -> list[RefusalHour]:
            return list(store.refusals(since_ms, None, customer_id))

        found: dict[tuple[str, str], ShownRefusal] = {}
        for hour in await self.reads.ask(customer_id, ask):
            at = hour.reason, hour.model
            before = found.get(at)
            count = hour.count + (before.count if before else 0)
            found[at] = ShownRefusal(hour.reason, hour.model, count, hour.hour_ms)
        return sorted(found.values(), key=lambda each: -each.last_hour_ms)
