"""Events: what the ledger has recorded, as the required store has it."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import orjson
from fastapi import Depends, Path, Query
from pydantic import Field

from gateway.admin.api.models import (
    Amount,
    EventId,
    ListOf,
    Model,
    Moment,
    MomentMs,
    PlacePaging,
    WalletId,
)
from gateway.admin.api.routing import api_router
from gateway.admin.auth.guard import Session, require
from gateway.domain.event_rows import EventRow, row_of
from gateway.domain.events import EventKind
from gateway.domain.money import format_amount
from gateway.domain.stores import RowFilter
from gateway.operations.documents import timestamp
from gateway.operations.events import list_events, place_of, show_event

router = api_router("Events")


class Allocation(Model):
    """What one grant paid. Grant 0 is the credit limit."""

    grant: int
    amount: Amount


class Event(Model):
    """One entry of the ledger."""

    object: Literal["event"] = "event"
    id: str
    kind: EventKind
    occurred_at: Moment
    stored_at: Annotated[Moment | None, Field(description="null in lists.")] = None
    shard: int
    epoch: int
    seq: int
    customer_id: str
    request_id: str | None
    model: str | None
    livemode: bool | None
    amount: Annotated[Amount, Field(description="What it charged, or moved.")]
    estimated_amount: Amount
    cost: Annotated[Amount | None, Field(description="What the provider bills, if known.")]
    balance: Annotated[Amount, Field(description="The wallet's balance after it.")]
    price_version: str | None
    usage: Mapping[str, int]
    allocations: list[Allocation]
    facts: Annotated[
        Mapping[str, Any], Field(description="What else the gate knew; see the events' reference.")
    ]


class EventsQuery(PlacePaging):
    """Which events are wanted."""

    customer_id: WalletId | None = None
    kind: EventKind | None = None
    since: MomentMs | None = None
    until: MomentMs | None = None


def event_of(row: EventRow, stored_at_ms: int | None = None) -> Event:
    """A row as the API answers it."""
    return Event(
        id=row.event_id,
        kind=row.kind,
        occurred_at=timestamp(row.occurred_at_ms),
        stored_at=None if stored_at_ms is None else timestamp(stored_at_ms),
        shard=row.shard,
        epoch=row.epoch,
        seq=row.seq,
        customer_id=row.customer_id,
        request_id=row.request_id,
        model=row.model,
        livemode=row.livemode,
        amount=format_amount(row.amount_nano),
        estimated_amount=format_amount(row.estimated_amount_nano),
        cost=None if row.cost_nano is None else format_amount(row.cost_nano),
        balance=format_amount(row.balance_nano),
        price_version=row.price_version,
        usage=orjson.loads(row.usage),
        allocations=[
            Allocation(grant=no, amount=format_amount(nano))
            for no, nano in orjson.loads(row.allocations)
        ],
        facts=orjson.loads(row.facts),
    )


@router.get("/events", summary="List events in the order of time")
async def list_all_events(
    query: Annotated[EventsQuery, Query()],
    session: Annotated[Session, Depends(require("events.read"))],
) -> ListOf[Event]:
    wanted = RowFilter(
        query.since,
        query.until,
        query.customer_id,
        frozenset({query.kind} if query.kind else get_args(EventKind)),
    )
    rows = await asyncio.to_thread(
        list_events, session.backend.store, wanted, query.place, query.limit + 1
    )
    more = len(rows) > query.limit
    data = [event_of(row) for row in rows[: query.limit]]
    cursor = ".".join(map(str, place_of(rows[query.limit - 1]))) if more else None
    return ListOf[Event](data=data, has_more=more, next_cursor=cursor)


@router.get("/events/{event_id:path}", summary="Retrieve an event")
async def retrieve_event(
    event_id: Annotated[EventId, Path()],
    session: Annotated[Session, Depends(require("events.read"))],
) -> Event:
    stored = await asyncio.to_thread(show_event, session.backend.store, event_id)
    return event_of(row_of(stored.event), stored.stored_at_ms)
