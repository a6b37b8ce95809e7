"""The usage event, one per transition of a reservation, and the entries of other changes.

An event is written by the script that moves the balance, in two parts: the *facts*, a
msgpack map that the gate made (`usage_facts.py`), carried as they are, and the
*stamp*, what the ledger alone knows. `gateway/ledger/codec/outbox_entries.py` joins the two.

EVENT_VERSION changes when a field's meaning changes; adding a field does not change it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gateway.domain.signals import Signal
from gateway.domain.usage import Usage

EVENT_VERSION: Final = 1

EventKind = Literal[
    "settle",
    "release",
    "expire",
    "settle_late",
    "grant",
    "expire_grant",
    "void",
    "adjust",
    "allowance",
    "signals",
    "account",
    "audit",
]
CHANGE_KINDS: Final[tuple[EventKind, ...]] = (
    "grant",
    "void",
    "adjust",
    "allowance",
    "signals",
    "account",
    "audit",
)
"""Kinds that somebody's change may have written; `actor` in the facts says who. Stores index these: a
kind that is added needs a migration."""
USAGE_KINDS: Final = frozenset({"settle", "release", "expire", "settle_late"})


@dataclass(frozen=True, slots=True)
class Event:
    """One record of the outbox, joined. Amounts in nano-credits, times in Unix ms.

    kind:             settle | release | expire | settle_late | grant | expire_grant | void |
                      adjust (a refund too) | allowance (its terms; what it gives is a grant) |
                      signals (moves nothing) | account |
                      audit (moves nothing: a change that no wallet shows, such as a new key)
    event_id:         `reservation_id:outcome`; the operation's id for grant, void, adjust and audit;
                      `account:CUSTOMER:REVISION`; for what time does, see `lua/README.md`
    shard, epoch, seq: place in the outbox; seq has no gap within (shard, epoch)
    amount_nano:      what was charged (settle, expire; for settle_late the difference), granted,
                      expired or voided of a grant, or adjusted (signed)
    estimated_amount_nano: what was held
    cost_nano:        what the provider bills the operator; None when unknown
    balance_nano:     the wallet's balance after this record; 0 of an audit, which asks for no wallet
    allocations:      ((grant_no, nano), …): which grants paid, or were credited; grant 0 is the overdraft
    usage:            quantities per unit that were rated
    facts: what the gate knew of the request: see `usage_facts.py`; of other kinds the terms, and who
           did it, what and why: `actor`, `action`, `reason`
    signals: what the script noticed about the wallet in the same step
    """

    kind: EventKind
    event_id: str
    shard: int
    epoch: int
    seq: int
    occurred_at_ms: int
    customer_id: str
    amount_nano: int
    balance_nano: int
    estimated_amount_nano: int = 0
    cost_nano: int | None = None
    allocations: tuple[tuple[int, int], ...] = ()
    usage: Usage = field(default_factory=dict)
    price_version: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    signals: tuple[Signal, ...] = ()

    @property
    def reservation_id(self) -> str | None:
        """The reservation that this record ends; None if it ends none."""
        return self.event_id.rpartition(":")[0] if self.kind in USAGE_KINDS else None
