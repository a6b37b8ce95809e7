"""What becomes of events after the ledger wrote them: places, dead letters, anomalies, what a store holds.

The exporter writes these, the operator's questions (`why`, `verify`) read them; neither
imports the other, so the words they share stand here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from gateway.domain.events import Event


class Place(NamedTuple):
    """Where an entry stands in its shard's outbox. Ordered; seq −1 is before an epoch's first."""

    epoch: int
    seq: int

    def follows(self, previous: "Place") -> bool:
        """Whether nothing can lie between `previous` and this place."""
        if self.epoch == previous.epoch:
            return self.seq == previous.seq + 1
        return self.epoch > previous.epoch and self.seq == 0


START = Place(1, -1)
"""Before the first entry of a new shard."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that cannot be delivered, with its reason. `payload` is what can be kept of it."""

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
    """An event as a store gives it back. `position` grows in order of arrival."""

    event: Event
    stored_at_ms: int
    position: int


SignalState = Literal["waiting", "delivered", "dead"]


@dataclass(frozen=True, slots=True)
class StoredSignal:
    """A signal as a store has it. `ended_at_ms`: when it was delivered or given up; `reason`: why
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
    """What a store holds of one epoch of one shard: entries and dead letters together."""

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


class EventStore(Protocol):
    """What the operator's questions need of a store. Synchronous; call it off the event loop."""

    def latest(
        self, count: int, *, customer_id: str | None = None, after: int = 0
    ) -> list[StoredEvent]:
        """The last `count` events that arrived beyond position `after`, oldest first."""
        ...

    def event(self, event_id: str) -> StoredEvent | None:
        """One event by id."""
        ...

    def of_request(self, request_id: str) -> list[StoredEvent]:
        """All events of one request, in order of arrival."""
        ...

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """The latest dead letters."""
        ...

    def anomalies(self, limit: int = 100) -> list[Anomaly]:
        """The latest anomalies."""
        ...

    def shard_contents(self, shard: int, up_to: Place) -> ShardContents:
        """What the store holds of a shard, entries beyond `up_to` left out of the totals."""
        ...

    def at_places(self, shard: int, epoch: int, seqs: Sequence[int]) -> dict[int, tuple[str, int]]:
        """seq → (event id, amount in nano-credits) for those of the places that the store holds."""
        ...

    def cursors(self) -> dict[int, Place]:
        """shard → place of the last entry that the store has taken."""
        ...

    def events_beyond(self, shard: int, place: Place) -> list[Event]:
        """All events of a shard beyond a place, in the order of their places."""
        ...

    def dead_letters_beyond(self, shard: int, place: Place) -> list[DeadLetter]:
        """Likewise, entries that were given up."""
        ...

    def known_ids(self, event_ids: Sequence[str]) -> set[str]:
        """Those of the events that the store has, wherever their place is."""
        ...

    def contradictions(self) -> list[str]:
        """Reservations whose events contradict each other (two terminal outcomes), as sentences."""
        ...
