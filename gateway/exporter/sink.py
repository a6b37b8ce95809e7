"""The interface of a sink: three methods. The pump does the rest.

The pump owns batching, retry, dead letters, gap detection and the acknowledgement to the
ledger. A sink owns one thing: after `write` returned without failures, everything in the
batch, with the cursors it carries, survives a crash of this process and of the machine.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gateway.domain.delivery import Anomaly, DeadLetter, Place
from gateway.domain.event_rows import EventRow, SignalRow


class SinkUnavailable(Exception):
    """The sink cannot accept anything now (connection, disk, lock). The pump waits and retries."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is delivered at once.

    ends:       shard → place of its last entry in this batch; the sink's cursors once it is written
    dead:       entries that were given up, to be kept with their reason
    anomalies:  what the numbering has shown
    signals:    of the rows, for a store that keeps them for the webhook
    """

    rows: Sequence[EventRow] = ()
    ends: Mapping[int, Place] = field(default_factory=dict)
    dead: Sequence[DeadLetter] = ()
    anomalies: Sequence[Anomaly] = ()
    signals: Sequence[SignalRow] = ()


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


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: stored + duplicates + failed = rows."""

    stored: int
    duplicates: int
    failed: Sequence[Failure] = ()


class Sink(ABC):
    """One delivery target."""

    name: ClassVar[str]
    max_replay_age_ms: int | None = None
    """Older events become dead letters, because the receiver would no longer recognise
    duplicates. None: it always recognises them."""

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
        """Permanent random id of this store, made with its tables. Known once it has been opened."""

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
