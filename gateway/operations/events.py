"""Usage events and other ledger entries, as the event store has them."""

from collections.abc import Generator
from dataclasses import replace
from itertools import dropwhile, islice

from gateway.domain.delivery import StoredEvent
from gateway.domain.event_rows import EventRow
from gateway.domain.stores import ChangePlace, EventStore, RowFilter
from gateway.operations.errors import NotFound


def show_event(store: EventStore, event_id: str) -> StoredEvent:
    """One event. Raises NotFound."""
    stored = store.event(event_id)
    if stored is None:
        raise NotFound(f"the store has no event {event_id}")
    return stored


def list_events(
    store: EventStore, wanted: RowFilter, after: ChangePlace | None, limit: int
) -> list[EventRow]:
    """At most `limit` of the wanted events behind a place, in the order of time."""
    since_ms = wanted.since_ms
    if after is not None:
        since_ms = max(after.occurred_at_ms, since_ms or 0)
    rows = store.rows(replace(wanted, since_ms=since_ms))
    try:
        behind = dropwhile(lambda row: after is not None and place_of(row) <= after, rows)
        return list(islice(behind, limit))
    finally:
        if isinstance(rows, Generator):  # left early: it has the store's connection
            rows.close()


def place_of(row: EventRow) -> ChangePlace:
    """Where an event stands among all by time."""
    return ChangePlace(row.occurred_at_ms, row.shard, row.epoch, row.seq)
