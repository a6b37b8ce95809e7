"""`roll-forward`: how the credit that customers hold has moved in a month, by category, over all customers.

For an accountant it is the roll-forward of deferred revenue: what was sold and not yet used. Closing of a month is
opening of the next. Months are those of the calendar (UTC), whatever the customers' billing days.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.domain.billing_periods import BillingPeriod, billing_period
from gateway.domain.customers import is_shadow
from gateway.domain.event_rows import EventRow
from gateway.domain.money import format_amount
from gateway.domain.stores import EventStore, RowFilter
from gateway.domain.wallet_history import (
    CREDIT_CATEGORIES,
    MOVEMENTS,
    CreditCategory,
    Movement,
    WalletHistory,
)
from gateway.operations.documents import timestamp
from gateway.operations.statements.reading import CLOCK_BACK_MS, in_order
from gateway.operations.statements.statement import StatementDiffers

REPORT_EVERY: Final = 1000
NAMED_MOST: Final = 5


@dataclass(frozen=True, slots=True)
class CategoryRoll:
    """One category's month, in nano-credits: opening + the movements = closing."""

    opening_nano: int
    moved: dict[Movement, int]

    @property
    def closing_nano(self) -> int:
        """What customers hold at the end; of the overdraft, negative, what they owe."""
        return self.opening_nano + sum(self.moved.values())


@dataclass(frozen=True, slots=True)
class RollForward:
    """The month of all wallets. customers: how many have had an event by its end"""

    period: BillingPeriod
    customers: int
    categories: dict[CreditCategory, CategoryRoll]

    @property
    def total(self) -> CategoryRoll:
        """All categories together: the sum of the ledger's wallets."""
        rolls = self.categories.values()
        return CategoryRoll(
            sum(roll.opening_nano for roll in rolls),
            {name: sum(roll.moved[name] for roll in rolls) for name in MOVEMENTS},
        )


@dataclass(slots=True)
class _Wallet:
    """One wallet on its way through the events."""

    history: WalletHistory = field(default_factory=WalletHistory)
    ended: bool = False
    begun: bool = False
    wrong: str | None = None


def roll_forward(
    store: EventStore, label: str, progress: Callable[[int], None] | None = None
) -> RollForward:
    """Replay every wallet up to the end of a month, such as 2027-01.

    progress: called with how many events were read
    Raises StatementDiffers if the events do not add up to the balances; ValueError for what is no month.
    """
    period = billing_period(label)
    roller = _Roller(period)
    # A little beyond the end: a clock that was set back shows there where a wallet's month ended.
    wanted = RowFilter(until_ms=period.end_ms + CLOCK_BACK_MS)
    for count, row in enumerate(in_order(store, wanted)):
        if progress is not None and count % REPORT_EVERY == 0:
            progress(count)
        roller.take(row)
    return roller.rolled()


class _Roller:
    def __init__(self, period: BillingPeriod) -> None:
        self._period = period
        self._wallets: dict[str, _Wallet] = {}
        self._opening: dict[CreditCategory, int] = dict.fromkeys(CREDIT_CATEGORIES, 0)
        self._moved: dict[CreditCategory, dict[Movement, int]] = {
            category: dict.fromkeys(MOVEMENTS, 0) for category in CREDIT_CATEGORIES
        }

    def take(self, row: EventRow) -> None:
        """Apply one event to its wallet. What shadow wallets have, no customer holds."""
        if is_shadow(row.customer_id):
            return
        wallet = self._wallets.get(row.customer_id)
        if wallet is None:
            wallet = self._wallets[row.customer_id] = _Wallet()
        if row.occurred_at_ms >= self._period.end_ms:
            wallet.ended = True
        if wallet.ended:
            return
        if row.occurred_at_ms >= self._period.start_ms:
            wallet.begun = True
        moved = wallet.history.apply(row)
        wrong = wallet.history.difference(row, moved)
        wallet.wrong = None if wrong is None else wallet.wrong or wrong
        for category, movement, nano, _ in moved:
            if wallet.begun:
                self._moved[category][movement] += nano
            else:
                self._opening[category] += nano

    def rolled(self) -> RollForward:
        """The sums. Raises StatementDiffers."""
        wrong = {name: each.wrong for name, each in self._wallets.items() if each.wrong}
        if wrong:
            named = "; ".join(f"{name}: {wrong[name]}" for name in sorted(wrong)[:NAMED_MOST])
            raise StatementDiffers(
                f"the events of {len(wrong)} wallets do not add up to the ledger's balances: {named}"
                " (nano-credits). Run `creditgate verify`"
            )
        had = [each for each in self._wallets.values() if each.history.last is not None]
        rolls = {c: CategoryRoll(self._opening[c], self._moved[c]) for c in CREDIT_CATEGORIES}
        rolled = RollForward(self._period, len(had), rolls)
        credit_nano = sum(each.history.credit_nano for each in had)
        if rolled.total.closing_nano != credit_nano:
            raise StatementDiffers(
                f"the categories close at {format_amount(rolled.total.closing_nano)}, the wallets"
                f" at {format_amount(credit_nano)}"
            )
        return rolled


def roll_forward_document(rolled: RollForward) -> dict[str, Any]:
    """The roll-forward as a JSON document."""
    return {
        "period": rolled.period.label,
        "from": timestamp(rolled.period.start_ms),
        "until": timestamp(rolled.period.end_ms),
        "customers": rolled.customers,
        "categories": {name: _roll(roll) for name, roll in rolled.categories.items()},
        "total": _roll(rolled.total),
    }


def _roll(roll: CategoryRoll) -> dict[str, str]:
    return {
        "opening": format_amount(roll.opening_nano),
        **{name: format_amount(nano) for name, nano in roll.moved.items()},
        "closing": format_amount(roll.closing_nano),
    }
