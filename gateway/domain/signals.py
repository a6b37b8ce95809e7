"""Signals: what a script noticed of a wallet in the step that moved its balance.

A signal travels in the stamp of that step's outbox entry, as a list of its name and the numbers
that `FIELDS` names, in that order. So it is decided once, by the ledger, and its id follows from
the entry's: however often an entry is read or a webhook sent, one crossing has one id.
"""

import hashlib
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
        """Its id for ever: letters and digits, so that it fits into a header."""
        first = next(iter(self.numbers.values()), 0)
        digest = hashlib.sha256(f"{event_id}\0{self.name}\0{first}".encode()).hexdigest()
        return f"sig_{digest[:32]}"


def read_signals(stamped: Iterable[Sequence[Any]]) -> tuple[Signal, ...]:
    """The signals of a stamp. Raises ValueError or KeyError for what is none."""
    signals = []
    for name, *numbers in stamped:
        if not all(type(number) is int for number in numbers):
            raise ValueError(f"a number of the signal {name} is none")
        signals.append(Signal(name, dict(zip(FIELDS[name], numbers, strict=True))))
    return tuple(signals)
