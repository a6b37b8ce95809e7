"""A statement as values: one customer's billing period, equal to the ledger to the unit."""

from dataclasses import dataclass
from typing import Final, Literal

from gateway.domain.billing_periods import BillingPeriod
from gateway.domain.delivery import Place
from gateway.domain.wallet_history import (
    CreditCategory,
    LastEvent,
    Movement,
    PastGrant,
    WalletHistory,
)
from gateway.operations.backend import Subscription
from gateway.operations.errors import OperationError
from gateway.operations.statements.lines import UsageLines

Part = Literal[
    "granted", "usage", "refunds", "adjustments", "corrections", "expired", "voided", "none"
]
PARTS: Final[tuple[Part, ...]] = (
    "granted",
    "usage",
    "refunds",
    "adjustments",
    "corrections",
    "expired",
    "voided",
)
"""What a balance is made of, in the order in which a statement adds it up."""
EntryKind = Literal[
    "refund", "adjustment", "rerate", "volume_credit", "late_settlement", "late_event"
]


class StatementDiffers(OperationError):
    """The events do not add up to the ledger's balances, so there is no statement."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event that a statement names: a refund, an adjustment, or a correction of an earlier period.

    amount_nano: signed, as it moved the credit
    corrects:    id of the event that it corrects
    period:      of what it corrects, such as 2027-01; None for this period
    """

    event_id: str
    kind: EntryKind
    occurred_at_ms: int
    amount_nano: int
    corrects: str | None
    reason: str | None
    period: str | None


@dataclass(frozen=True, slots=True)
class GrantLine:
    """One grant over the period: what it had, what moved, and (in `grant`) what is left."""

    grant: PastGrant
    opening_nano: int
    moved: dict[Movement, int]


@dataclass(frozen=True, slots=True)
class Statement:
    """One customer's period. Amounts in nano-credits.

    parts:        signed; opening_nano + their sum = closing_nano
    credit:       category → movement → amount; of each category opening + movements = closing
    history:      the wallet at the end, with the last event and its place
    """

    customer_id: str
    period: BillingPeriod
    subscription: Subscription | None
    usage: UsageLines
    opening_nano: int
    closing_nano: int
    parts: dict[Part, int]
    opening: dict[CreditCategory, int]
    credit: dict[CreditCategory, dict[Movement, int]]
    grants: tuple[GrantLine, ...]
    entries: tuple[Entry, ...]
    history: WalletHistory

    @property
    def last(self) -> LastEvent | None:
        """The last event, whose balance the closing balance is; None before the first."""
        return self.history.last

    @property
    def end(self) -> Place | None:
        """The last place that is included; None before the first."""
        return self.history.place

    @property
    def not_effective_nano(self) -> int:
        """What the credit has in grants that were not effective yet at the last event."""
        at_ms = self.last.occurred_at_ms if self.last else 0
        grants = self.history.grants.values()
        return sum(g.remaining_nano for g in grants if g.effective_at_ms > at_ms)

    @property
    def balance_nano(self) -> int:
        """The ledger's balance after the last event."""
        return self.last.balance_nano if self.last else 0

    @property
    def held_nano(self) -> int:
        """What running requests held at the last event of grants that had expired."""
        return self.closing_nano - self.not_effective_nano - self.balance_nano


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a statement begins, if an earlier one was closed.

    period:  of that statement
    history: the wallet at its end
    """

    period: BillingPeriod
    history: WalletHistory
