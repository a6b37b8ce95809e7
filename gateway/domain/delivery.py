"""Values of event delivery: places, dead letters, anomalies, contents of a store.

The exporter writes these, the operations (`why`, `verify`) read them. Neither imports the other,
so the shared types are here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from gateway.domain.events import Event


class Place(NamedTuple):
    """Place of an entry in its shard's outbox. Ordered; seq −1 precedes an epoch's first entry."""

    epoch: int
    seq: int

    def follows(self, previous: "Place") -> bool:
        """Say whether no entry can lie between `previous` and this place."""
        if self.epoch == previous.epoch:
            return self.seq == previous.seq + 1
        return self.epoch > previous.epoch and self.seq == 0


START = Place(1, -1)
"""Before the first entry of a new shard."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that cannot be delivered, with its reason. `payload` is what could be preserved."""

    shard: int
    epoch: int
    seq: int
    event_id: str | None
    reason: str
    payload: bytes = field(repr=False)


AnomalyKind = Literal["gap", "store_behind", "ledger_behind"]


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something that the numbering of events has shown and that nobody may overlook.

    gap:            entries between `after` and `found` never came
    store_behind:   the ledger trimmed up to `found`, the store ends at `after`: it was restored or replaced
    ledger_behind:  the store has events up to `after`, the ledger's last is `found`: it lost a tail
    """

    kind: AnomalyKind
    shard: int
    after: Place
    found: Place


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event read from a store. `position` grows in order of arrival."""

    event: Event
    stored_at_ms: int
    position: int


SignalState = Literal["waiting", "delivered", "dead"]


@dataclass(frozen=True, slots=True)
class StoredSignal:
    """A signal read from a store. `ended_at_ms`: when it was delivered or given up; `reason`: why
    the last attempt failed. Amounts in nano-credits, times in Unix ms."""

    signal_id: str
    name: str
    customer_id: str
    event_id: str
    occurred_at_ms: int
    balance_nano: int
    numbers: Mapping[str, int]
    state: SignalState
    attempts: int
    ended_at_ms: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Span:
    """Contents of one epoch of one shard in a store: entries and dead letters together."""

    epoch: int
    first_seq: int
    last_seq: int
    count: int


@dataclass(frozen=True, slots=True)
class ShardContents:
    """One shard of a store, read in one transaction, up to the place that was asked for.

    totals_nano: customer → kind → sum of amounts
    """

    cursor: Place | None
    totals_nano: Mapping[str, Mapping[str, int]]
    spans: Sequence[Span]
