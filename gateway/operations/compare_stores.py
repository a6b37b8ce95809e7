"""Whether a sink that can be read back has what the required store has: by ids, amounts and places.

Both are compared up to where the sink has been fed; what is on its way is no difference.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gateway.domain.delivery import START, Place
from gateway.domain.event_rows import EventRow, row_of
from gateway.domain.stores import EventStore

CHUNK: Final = 5_000
"""Places that are compared at once."""
SHOWN: Final = 20
"""Event ids that a comparison names."""


@dataclass(slots=True)
class SinkComparison:
    """What one sink differs in.

    compared:  events of the required store that the sink should have
    missing:   of these, how many it lacks; `given_up` of them are dead letters of the sink
    different: events at a place where the required store has another one, or the same one with another amount
    extra:     events at a place where the required store has none
    shards:    where something differs
    since_ms:  when the earliest event that differs occurred; None where nothing does
    examples:  ids of events that differ
    """

    sink: str
    compared: int = 0
    missing: int = 0
    given_up: int = 0
    different: int = 0
    extra: int = 0
    shards: tuple[int, ...] = ()
    since_ms: int | None = None
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether the sink has everything, and nothing else."""
        return not (self.missing or self.different or self.extra)


def compare_stores(
    name: str, required: EventStore, sink: EventStore, report: Callable[[str, int, int], None]
) -> SinkComparison:
    """Compare a sink with the required store. Synchronous. Raises StoreMissing."""
    found = SinkComparison(name)
    fed = required.sink_cursors(name)
    for done, (shard, end) in enumerate(sorted(fed.items())):
        report(f"{name}: shards", done, len(fed))
        _compare_shard(found, required, sink, (shard, end))
    report(f"{name}: shards", len(fed), len(fed))
    letters = required.dead_letters(1_000_000, sink=name)
    found.given_up = min(found.missing, len({letter.event_id for letter in letters}))
    return found


def missing_rows(name: str, required: EventStore, sink: EventStore) -> Iterator[EventRow]:
    """The rows of the required store that a sink lacks, up to where it has been fed."""
    for shard, end in sorted(required.sink_cursors(name).items()):
        for epoch, seqs in _chunks(required, shard, end):
            wanted = required.at_places(shard, epoch, seqs)
            there = sink.at_places(shard, epoch, seqs)
            for seq in sorted(wanted.keys() - there.keys()):
                stored = required.event(wanted[seq][0])
                if stored is not None:
                    yield row_of(stored.event)


def _compare_shard(
    found: SinkComparison, required: EventStore, sink: EventStore, fed: tuple[int, Place]
) -> None:
    shard, end = fed
    bad: list[str] = []
    for epoch, seqs in _chunks(required, shard, end):
        wanted, there = (store.at_places(shard, epoch, seqs) for store in (required, sink))
        found.compared += len(wanted)
        missing = [seq for seq in wanted if seq not in there]
        different = [seq for seq in wanted if seq in there and there[seq] != wanted[seq]]
        extra = [seq for seq in there if seq not in wanted]
        found.missing += len(missing)
        found.different += len(different)
        found.extra += len(extra)
        bad += [wanted[seq][0] for seq in (*missing, *different)] + [there[s][0] for s in extra]
    if not bad:
        return
    found.shards = (*found.shards, shard)
    found.examples = (*found.examples, *bad)[:SHOWN]
    for event_id in bad[:SHOWN]:
        stored = required.event(event_id) or sink.event(event_id)
        if stored is not None:
            at = stored.event.occurred_at_ms
            found.since_ms = at if found.since_ms is None else min(found.since_ms, at)


def _chunks(store: EventStore, shard: int, end: Place) -> Iterator[tuple[int, list[int]]]:
    """The places of a shard up to `end`, as (epoch, seqs)."""
    if end == START:
        return
    for span in store.shard_contents(shard, end).spans:
        if span.epoch > end.epoch:
            continue
        last = min(span.last_seq, end.seq) if span.epoch == end.epoch else span.last_seq
        for first in range(0, last + 1, CHUNK):
            yield span.epoch, list(range(first, min(first + CHUNK, last + 1)))
