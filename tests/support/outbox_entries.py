"""What the exporter reads from the outbox, as events, for tests that reason about single ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import orjson

from gateway.domain.delivery import Place
from gateway.domain.event_rows import event_of
from gateway.domain.events import Event
from gateway.domain.signals import Signal, SignalName
from gateway.ledger.codec.outbox_entries import Entry
from gateway.ledger.codec.outbox_rows import Tail
from gateway.ledger.outbox import Outbox


async def read_entries(
    outbox: Outbox, after: Mapping[int, Place], *, limit: int = 8192
) -> list[tuple[int, list[Entry]]]:
    """One read of the outbox: each shard's next entries, in order."""
    return [(tail.shard, entries_of(tail)) for tail in await outbox.read(after, limit=limit)]


def entries_of(tail: Tail) -> list[Entry]:
    """The entries of a tail, each event with its signals."""
    events = {row.event_id: event_of(row) for row in tail.rows}
    for row in tail.signals:
        signal = Signal(cast(SignalName, row.name), orjson.loads(row.numbers))
        event = events[row.event_id]
        events[row.event_id] = replace(event, signals=(*event.signals, signal))
    entries: list[Event | object] = [*events.values(), *tail.dead]
    return sorted(cast(list[Entry], entries), key=lambda entry: (entry.epoch, entry.seq))
