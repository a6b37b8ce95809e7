"""Signals: what a script noticed about a wallet in the step that moved its balance.

A signal travels in the stamp of that step's outbox entry, as a list of its name and the numbers
that `FIELDS` names, in that order. So it is decided once, by the ledger, and its id follows from
the entry's: however often an entry is read or a webhook sent, one crossing has one id.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

SignalName = Literal[
    "low_balance", "exhausted", "recovered", "grant_expiring", "topup_wanted", "spending_fast"
]

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "low_balance": ("threshold_nano",),
    "exhausted": ("threshold_nano",),
    "recovered": ("threshold_nano",),
    "grant_expiring": ("grant", "remaining_nano", "expires_at_ms"),
    "topup_wanted": ("threshold_nano", "amount_nano", "number"),
    "spending_fast": ("spent_nano", "usual_nano", "frozen"),
}
"""Numbers of each signal, in the order of the stamp. The first tells it from others of its name in
the same entry.

low_balance:    the balance fell below the threshold
exhausted:      nothing is left to spend: the balance has reached the end of the credit limit
recovered:      the balance is back at or above a threshold that had been announced
grant_expiring: what is left of a grant will soon be gone
topup_wanted:   the operator is asked to sell or give `amount`; `number` counts within the period
spending_fast:  this hour's spending passed what the last week's median hour allows; `frozen` 1
                where the wallet was frozen for it
"""
assert set(FIELDS) == set(get_args(SignalName))


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal of one entry. Amounts in nano-credits, times in Unix ms."""

    name: SignalName
    numbers: Mapping[str, int] = field(default_factory=dict)

    def id(self, event_id: str) -> str:
        """Permanent id: letters and digits, so that it fits into a header."""
        first = next(iter(self.numbers.values()), 0)
        digest = hashlib.sha256(f"{event_id}\0{self.name}\0{first}".encode()).hexdigest()
        return f"sig_{digest[:32]}"


def read_signals(stamped: Iterable[Sequence[Any]]) -> tuple[Signal, ...]:
    """Read the signals of a stamp. Raises ValueError or KeyError for malformed ones."""
    signals = []
    for name, *numbers in stamped:
        if not all(type(number) is int for number in numbers):
            raise ValueError(f"a number of the signal {name} is none")
        signals.append(Signal(name, dict(zip(FIELDS[name], numbers, strict=True))))
    return tuple(signals)


MAX_THRESHOLDS: Final = 8
_RULES = struct.Struct("<BBddddddddd")


@dataclass(frozen=True, slots=True)
class TopUp:
    """When the operator is asked to sell more credit. `cooldown_ms`: wait between two requests
    while the balance stays below the threshold. A period starts with the first request after
    the last one ended."""

    threshold_nano: int
    amount_nano: int
    cooldown_ms: int
    max_per_period: int
    period_ms: int


@dataclass(frozen=True, slots=True)
class Velocity:
    """What counts as unusual spending in one hour: more than `factor_thousandths` of the median
    hour of the last 168, and more than `floor_nano`; not before `least_hours` of them are
    known."""

    factor_thousandths: int
    floor_nano: int
    least_hours: int
    freeze: bool


@dataclass(frozen=True, slots=True)
class SignalRules:
    """Alerts of one wallet; none by default."""

    low_balance_nano: tuple[int, ...] = ()
    exhausted: bool = False
    expiring_before_ms: int = 0
    topup: TopUp | None = None
    velocity: Velocity | None = None

    def packed(self) -> bytes:
        """Pack for the ledger: see *Signals* in `lua/README.md`."""
        levels = sorted(set(self.low_balance_nano))
        topup = self.topup or TopUp(0, 0, 0, 0, 0)
        velocity = self.velocity or Velocity(0, 0, 0, False)
        head = _RULES.pack(
            len(levels),
            self.exhausted + 2 * velocity.freeze,
            self.expiring_before_ms,
            topup.threshold_nano,
            topup.amount_nano,
            topup.cooldown_ms,
            topup.max_per_period,
            topup.period_ms,
            velocity.factor_thousandths,
            velocity.floor_nano,
            velocity.least_hours,
        )
        return head + struct.pack(f"<{len(levels)}d", *levels)
