"""The interface of a sink: three methods. The pump does the rest.

The pump owns batching, retry, dead letters, gap detection and the acknowledgement to the
ledger. A sink owns one thing: after `write` returned without failures, everything in the
batch, with the cursors it carries, survives a crash of this process and of the machine.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from gateway.domain.delivery import Anomaly, DeadLetter, Place
from gateway.domain.event_rows import EventRow, SignalRow
from gateway.domain.refusals import RefusalHour


class SinkUnavailable(Exception):
    """The sink cannot accept anything now (connection, disk, lock). The pump waits and retries."""


class SinkInUse(SinkUnavailable):
    """Another exporter writes to it, and it takes one at a time."""


class StoreTooNew(SinkUnavailable):
    """The store was written by a newer release; it is waited for until this one is upgraded."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is delivered at once.

    ends:       shard → place of its last entry in this batch; the sink's cursors once it is written
    dead:       entries that were given up, to be kept with their reason
    anomalies:  what the numbering has shown
    signals:    of the rows, for a store that keeps them for the webhook
    begins:     shard → the place before its first entry in this batch; None where it is not the next part of
                the outbox (a replay), or the feeder does not honour `Written.reached`
    """

    rows: Sequence[EventRow] = ()
    ends: Mapping[int, Place] = field(default_factory=dict)
    dead: Sequence[DeadLetter] = ()
    anomalies: Sequence[Anomaly] = ()
    signals: Sequence[SignalRow] = ()
    begins: Mapping[int, Place] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """One event that was not taken.

    retry:       another attempt may succeed
    place_taken: the sink has another event at this place: the shard has lost entries that were
                 delivered, and gives new entries the same numbers. The ledger is wrong, not the event, so it
                 stays in the outbox
    """

    row: EventRow
    reason: str
    retry: bool = False
    place_taken: bool = False


class PlacesTaken(Exception):
    """A store has other events at the places of some rows: nothing of what is being written may stay.

    failures: these rows. What follows them in their shards belongs to another history than what is stored, and
    is written again once the shard is repaired
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(f"{len(failures)} places are taken")
        self.failures = failures

    def others(self, rows: Sequence[EventRow]) -> list[EventRow]:
        """The rows of the other shards."""
        shards = {failure.row.shard for failure in self.failures}
        return [row for row in rows if row.shard not in shards]

    @classmethod
    def check(cls, failed: Sequence[Failure]) -> None:
        """Raise it if these are some."""
        if taken := [failure for failure in failed if failure.place_taken]:
            raise cls(taken)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: stored + duplicates + skipped + failed = rows.

    skipped: rows that this sink does not send, such as grants to a billing system
    reached: how far each shard may be noted as delivered, for a sink that holds events back until it can
             aggregate them; None: to the batch's ends
    """

    stored: int
    duplicates: int
    failed: Sequence[Failure] = ()
    skipped: int = 0
    reached: Mapping[int, Place] | None = None


class Sink(ABC):
    """One delivery target."""

    name: ClassVar[str]
    starts: ClassVar[Literal["beginning", "now"]] = "beginning"
    """Where a sink that is new in the configuration begins: with everything that the required store
    has, or with what comes from then on."""
    max_replay_age_ms: int | None = None
    """Older events become dead letters, because the receiver would no longer recognise
    duplicates. None: it always recognises them."""
    batch_events: int | None = None
    """How many events this sink wants in a batch; None: any number is fine."""
    linger_ms: int | None = None
    """How long a smaller batch should wait for more; None: not longer than the feeder's interval. The events
    wait in the required store, so waiting loses none."""
    holds_back: ClassVar[bool] = False
    """Whether `write` may answer with `reached`. Such a sink needs `begins` in each batch, and a batch without
    rows now and then: its `begins` and `ends` are then the places up to which each shard was fed, and it
    means that nothing more is waiting."""

    @abstractmethod
    async def open(self) -> Mapping[int, Place]:
        """Connect, and return how far each shard has been written. Called again after a failure.

        Raises SinkUnavailable.
        """

    @abstractmethod
    async def write(self, batch: Batch) -> Written:
        """Write a batch; an event that is already there is a duplicate, not a fault.

        The cursors move to `batch.ends` in the same transaction, and only if no event failed.
        Raises SinkUnavailable when nothing can be said of the batch; it is then written again.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release all resources. Idempotent; `open` may follow."""


class Store(Sink):
    """A sink that can be read back: what `export.required` may name.

    It keeps everything that a batch carries: rows, signals, dead letters, anomalies, and its cursors,
    which `open` returns. It keeps the progress of the optional sinks, too, and feeds those that have
    fallen behind what the outbox still has. `gateway.domain.stores.EventStore` reads it.
    """

    @property
    @abstractmethod
    def store_id(self) -> str:
        """Permanent random id of this store, made with its tables. Known once it has been opened, and from
        then on: leases are renewed while the store is away."""

    @abstractmethod
    async def read_beyond(self, places: Mapping[int, Place], limit: int) -> Sequence[EventRow]:
        """Return stored rows beyond each of these places, by shard and place; at most `limit`.

        Raises SinkUnavailable.
        """

    @abstractmethod
    async def sink_cursors(self, sink: str) -> Mapping[int, Place]:
        """Return how far an optional sink has been fed, by shard. Raises SinkUnavailable."""

    @abstractmethod
    async def note_sink(
        self, sink: str, ends: Mapping[int, Place], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """Move an optional sink's cursors forward to `ends`, and keep what it could not take, in one
        transaction. A cursor never moves back. Raises SinkUnavailable."""

    @abstractmethod
    async def refusal_cursor(self) -> str:
        """Return the last entry of the stream of refusals that has been counted; `NO_ENTRY` if none
        has. Raises SinkUnavailable."""

    @abstractmethod
    async def add_refusals(self, hours: Sequence[RefusalHour], after: str, cursor: str) -> bool:
        """Add refusals to what is counted of their hours, and move the cursor from `after` to `cursor`,
        in one transaction. False, and nothing is added, if the cursor is not at `after`: another
        exporter has moved it. Raises SinkUnavailable when nothing can be said."""
