"""Usage events and other ledger entries, as the event store has them."""

from gateway.domain.delivery import StoredEvent
from gateway.domain.stores import EventStore
from gateway.operations.errors import NotFound


def show_event(store: EventStore, event_id: str) -> StoredEvent:
    """One event. Raises NotFound."""
    stored = store.event(event_id)
    if stored is None:
        raise NotFound(f"the store has no event {event_id}")
    return stored
