"""Events as rows: what the exporter reads from the outbox and every store keeps, one column per name.

An `Event` is for reasoning about one record; a row is for moving tens of thousands of them a second.
Maps and lists are JSON text already, so that no sink encodes them again. The columns have these names and
meanings in every store (`docs/reference/stores.md`).
"""

from collections.abc import Iterable
from typing import Final, NamedTuple, cast

import orjson

from gateway.domain.delivery import Place
from gateway.domain.events import Event, EventKind


class EventRow(NamedTuple):
    """One record of the outbox. Amounts in nano-credits, times in Unix ms; see `Event` for each field.

    project_id … livemode: None where the record is not about a request
    usage:       JSON object of quantities by unit
    allocations: JSON array of [grant_no, nano]
    facts:       JSON object of everything else that the gate knew, the columns above included,
                 except customer_id and price_version
    """

    event_id: str
    shard: int
    epoch: int
    seq: int
    kind: EventKind
    occurred_at_ms: int
    customer_id: str
    project_id: str | None
    key_id: str | None
    request_id: str | None
    route: str | None
    model: str | None
    upstream: str | None
    livemode: bool | None
    price_version: str | None
    amount_nano: int
    estimated_amount_nano: int
    cost_nano: int | None
    balance_nano: int
    usage: str
    allocations: str
    facts: str

    @property
    def place(self) -> Place:
        """Its place in the outbox."""
        return Place(self.epoch, self.seq)


COLUMNS: Final = EventRow._fields
"""The columns, in order."""


class SignalRow(NamedTuple):
    """One signal of one event (`gateway/domain/signals.py`). numbers: JSON object."""

    signal_id: str
    name: str
    customer_id: str
    event_id: str
    occurred_at_ms: int
    balance_nano: int
    numbers: str


def row_of(event: Event) -> EventRow:
    """The row of an event. Raises TypeError for facts that JSON cannot say."""
    facts = event.facts

    def text(name: str) -> str | None:
        value = facts.get(name)
        return value if type(value) is str else None

    livemode = facts.get("livemode")
    return EventRow(
        event.event_id,
        event.shard,
        event.epoch,
        event.seq,
        event.kind,
        event.occurred_at_ms,
        event.customer_id,
        text("project_id"),
        text("key_id"),
        text("request_id"),
        text("route"),
        text("model"),
        text("upstream"),
        livemode if type(livemode) is bool else None,
        event.price_version,
        event.amount_nano,
        event.estimated_amount_nano,
        event.cost_nano,
        event.balance_nano,
        orjson.dumps(event.usage).decode(),
        orjson.dumps(event.allocations).decode(),
        orjson.dumps(facts).decode(),
    )


def event_of(row: EventRow) -> Event:
    """The event of a row, without its signals, which have rows of their own."""
    pairs = cast(Iterable[tuple[int, int]], orjson.loads(row.allocations))
    return Event(
        row.kind,
        row.event_id,
        row.shard,
        row.epoch,
        row.seq,
        row.occurred_at_ms,
        row.customer_id,
        row.amount_nano,
        row.balance_nano,
        row.estimated_amount_nano,
        row.cost_nano,
        tuple((grant_no, nano) for grant_no, nano in pairs),
        orjson.loads(row.usage),
        row.price_version,
        orjson.loads(row.facts),
    )


def signal_rows(event: Event) -> list[SignalRow]:
    """The rows of an event's signals."""
    return [
        SignalRow(
            signal.id(event.event_id),
            signal.name,
            event.customer_id,
            event.event_id,
            event.occurred_at_ms,
            event.balance_nano,
            orjson.dumps(signal.numbers).decode(),
        )
        for signal in event.signals
    ]
