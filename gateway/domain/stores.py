"""What can be asked of a store of events, whichever database it is.

A store is written by its sink (`gateway/exporter/sinks`) and read through this interface by the
operations, the reports and the gate's local routes. Everything here is synchronous: call it off the
event loop.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from gateway.domain.delivery import (
    Anomaly,
    DeadLetter,
    Place,
    ShardContents,
    SignalState,
    StoredEvent,
    StoredSignal,
)
from gateway.domain.event_rows import EventRow
from gateway.domain.events import Event, EventKind
from gateway.domain.history import UsageHistory
from gateway.domain.refusals import RefusalHour
from gateway.domain.usage_sums import UsageQuestion, UsageSum


class StoreMissing(Exception):
    """There is no store (the exporter has never run with this configuration), or it cannot be
    read."""


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Which rows are wanted; what is None does not matter. Times are Unix ms by the ledger's clock:
    from `since_ms` on, before `until_ms`."""

    since_ms: int | None = None
    until_ms: int | None = None
    customer_id: str | None = None
    kinds: frozenset[EventKind] | None = None


class ChangePlace(NamedTuple):
    """Where an event stands among all by time. Unique, for so is its place in the outbox."""

    occurred_at_ms: int
    shard: int
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """Which events are wanted of those whose facts name an actor; what is None does not matter.

    action: an action, or the resource in front of its dot. before: only what stands before this place
    """

    since_ms: int | None = None
    until_ms: int | None = None
    customer_id: str | None = None
    actor: str | None = None
    action: str | None = None
    before: ChangePlace | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class ClosedStatement:
    """One customer's statement of one period, as it was when the period was closed.

    period:   the month in which it begins, such as 2027-01
    document: JSON text. sha256: of its bytes in UTF-8, in hex
    """

    customer_id: str
    period: str
    document: str
    sha256: str
    closed_at_ms: int


@dataclass(frozen=True, slots=True)
class ChargeSum:
    """Charges of one customer that arrived after a position.

    amount_nano:   settle, expire and settle_late together
    position, newest_ms: of the newest event that is included; 0 if none is
    last_position: of the newest event in the store, whoever's
    """

    amount_nano: int
    position: int
    newest_ms: int
    last_position: int


class EventStore(UsageHistory, Protocol):
    """Read access to a store. Usable as a context manager, which closes it."""

    def latest(
        self, count: int, *, customer_id: str | None = None, after: int = 0
    ) -> list[StoredEvent]:
        """Return the last `count` events that arrived after position `after`, oldest first."""
        ...

    def event(self, event_id: str) -> StoredEvent | None:
        """One event by id."""
        ...

    def of_request(self, request_id: str) -> list[StoredEvent]:
        """Return all events of one request, in order of arrival."""
        ...

    def dead_letters(self, limit: int = 100, *, sink: str = "") -> list[DeadLetter]:
        """The latest dead letters: of the required store itself, or of an optional sink."""
        ...

    def anomalies(self, limit: int = 100) -> list[Anomaly]:
        """The latest anomalies."""
        ...

    def shard_contents(self, shard: int, up_to: Place) -> ShardContents:
        """Return the contents of a shard; the totals exclude entries beyond `up_to`."""
        ...

    def at_places(self, shard: int, epoch: int, seqs: Sequence[int]) -> dict[int, tuple[str, int]]:
        """Return seq → (event id, amount in nano-credits) for the places that the store has."""
        ...

    def cursors(self) -> dict[int, Place]:
        """Return shard → place of the last stored entry."""
        ...

    def events_beyond(self, shard: int, place: Place, limit: int | None = None) -> list[Event]:
        """Return the events of a shard beyond a place, in order: all, or the first `limit`."""
        ...

    def dead_letters_beyond(self, shard: int, place: Place) -> list[DeadLetter]:
        """Return the dead letters of a shard beyond a place, in order."""
        ...

    def known_ids(self, event_ids: Sequence[str]) -> set[str]:
        """Return the ids that the store has, whatever their place."""
        ...

    def contradictions(self) -> list[str]:
        """Describe reservations whose events contradict each other (two terminal outcomes)."""
        ...

    def latest_named(self, prefix: str) -> StoredEvent | None:
        """Return the last event that arrived of those whose id has this prefix."""
        ...

    def signals(
        self,
        limit: int = 100,
        *,
        state: SignalState | None = None,
        customer_id: str | None = None,
    ) -> list[StoredSignal]:
        """Return the latest signals, oldest first, of one state or customer or of all."""
        ...

    def rows(self, wanted: RowFilter) -> Iterator[EventRow]:
        """Return the rows that pass, each once, by (occurred_at_ms, shard, epoch, seq)."""
        ...

    def changes(self, wanted: ChangeFilter) -> list[EventRow]:
        """Return the events of `CHANGE_KINDS` that pass, newest first, `limit` at most."""
        ...

    def charges_since(self, customer_id: str, since_ms: int, position: int) -> ChargeSum:
        """Sum a customer's charges that occurred at `since_ms` or later and arrived after
        `position`."""
        ...

    def charge_of(self, reservation_id: str) -> tuple[int, str] | None:
        """Return what a request was charged in all, and its last event's id; None if unknown."""
        ...

    def usage_by(self, question: UsageQuestion) -> list[UsageSum]:
        """Sum up one customer's usage inside the store, in order of the labels."""
        ...

    def sink_cursors(self, sink: str) -> dict[int, Place]:
        """Return how far an optional sink has been fed, by shard."""
        ...

    def store_id(self) -> str | None:
        """Return the store's permanent id; None for an empty one that is not there yet."""
        ...

    def dead_letter_counts(self) -> dict[str, int]:
        """Return the number of dead letters by sink; the required store's own under ""."""
        ...

    def refusals(
        self, since_ms: int | None, until_ms: int | None, customer_id: str | None = None
    ) -> Iterator[RefusalHour]:
        """Return the refusals of the hours that began from `since_ms` on and before `until_ms`, in
        order of (hour, customer, model, reason)."""
        ...

    def closed_statement(self, customer_id: str, period: str) -> ClosedStatement | None:
        """Return what was kept by `StoreAccess.keep_statement`."""
        ...

    def last_closed_statement(
        self, customer_id: str, before: str | None = None
    ) -> ClosedStatement | None:
        """Return the customer's closed statement with the highest period, below `before` if given."""
        ...

    def close(self) -> None:
        """Release the connection. Idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class StoreAccess(Protocol):
    """How a process comes to the required store."""

    @property
    def shown(self) -> str:
        """Where it is, for people; without secrets."""
        ...

    def open(self) -> EventStore:
        """Open it for reading. Raises StoreMissing."""
        ...

    def open_or_empty(self) -> EventStore:
        """The same, but an empty one where nothing has been exported yet. Raises StoreMissing for
        one that is there and cannot be read."""
        ...

    def cursors(self) -> Mapping[int, Place]:
        """Return how far it has each shard; nothing where there is no store yet. Keeps a connection
        between calls. Raises StoreMissing for one that is there and cannot be read."""
        ...

    def keep_statement(self, statement: ClosedStatement) -> ClosedStatement:
        """Keep a closed statement permanently, while an exporter may write to the store. Return what
        is kept for this customer and period: an earlier one, if there is one. Raises StoreMissing."""
        ...
