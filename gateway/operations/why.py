"""`why`: everything that is known about one request, from all places, as one value.

Refusals come from the capped stream; a hold from its reservation, an end from its tombstone, an event
from the store or, if not delivered yet, from the outbox. Nothing is recomputed: the charge comes with
the quantities and prices behind it, so that anyone can add them up.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.domain.delivery import Place, StoredEvent
from gateway.domain.events import Event
from gateway.domain.pricing import Rate, rate_of
from gateway.domain.stores import EventStore
from gateway.domain.usage import DEFAULT_TIER, in_tier
from gateway.ledger.audit import Audit
from gateway.ledger.codec.reservation_records import Ended, Reservation
from gateway.ledger.outbox import Outbox
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.backend import Backend

Decision = Literal["allowed", "refused", "unknown"]
FindRefusal = Callable[[str], Awaitable[NotedRefusal | None]]
FindRates = Callable[[str], Awaitable[Mapping[str, Rate] | None]]
"""The rates of a price version by unit; None when the ledger does not have it any more."""

CHARGING: Final = frozenset({"settle", "expire"})
"""Kinds whose amount is the full charge of their usage; a late settlement's is a difference."""


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One unit of a usage at its price; quantity × rate, in pico-credits, exact.

    rate_pico: None where tiers, included units or a minimum decide: what it costs depends on what
               was used before in the period
    """

    unit: str
    quantity: int
    rate_pico: int | None

    @property
    def amount_pico(self) -> int | None:
        """What this line adds to the charge before it is rounded up."""
        return None if self.rate_pico is None else self.quantity * self.rate_pico


def price_line(unit: str, quantity: int, rates: Mapping[str, Rate]) -> PriceLine:
    """One unit at its rate, or its parent's."""
    rate = rate_of(unit, rates)
    return PriceLine(unit, quantity, rate.tiers[0].rate_pico if rate.plain else None)


@dataclass(frozen=True, slots=True)
class EventTrace:
    """One event of the request.

    stored_at_ms: when the store took it; None while it waits in the outbox
    lines:        its usage at its price, empty when the price is not known any more
    """

    event: Event
    stored_at_ms: int | None
    lines: tuple[PriceLine, ...] = ()

    @property
    def adds_up(self) -> bool | None:
        """Whether the lines, rounded up to a nano-credit, are the charge; None where there is nothing
        to add, or tiers decide what one request costs."""
        amounts = [line.amount_pico for line in self.lines]
        if not amounts or self.event.kind not in CHARGING:
            return None
        exact = [amount for amount in amounts if amount is not None]
        if len(exact) < len(amounts):
            return None
        return -(-sum(exact) // 1000) == self.event.amount_nano


@dataclass(frozen=True, slots=True)
class Story:
    """One request from decision to delivery.

    hold:   while it runs
    ended:  how it ended, for an hour after
    grants: number → name of the grants that were touched
    """

    request_id: str
    refused: NotedRefusal | None
    hold: Reservation | None
    ended: Ended | None
    events: tuple[EventTrace, ...]
    grants: Mapping[int, str]

    @property
    def decision(self) -> Decision:
        """What was decided before the request ran."""
        ran = self.refused is not None and self.refused.refused.mode == "shadow"
        if self.hold or self.ended or self.events or ran:
            return "allowed"
        return "refused" if self.refused else "unknown"

    @property
    def charged_nano(self) -> int:
        """What this request has cost so far, less refunds."""
        return sum(
            -each.event.amount_nano if each.event.kind == "adjust" else each.event.amount_nano
            for each in self.events
        )


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a request leaves traces."""

    audit: Audit
    outbox: Outbox
    store: EventStore
    find_refusal: FindRefusal
    find_rates: FindRates


async def why(backend: Backend, request_id: str) -> Story:
    """Everything that is known about a request. Raises LedgerUnavailable."""

    async def rates(price_version: str) -> Mapping[str, Rate] | None:
        found = await backend.accounts.prices.find(price_version)
        return found[0] if found else None

    sources = Sources(
        backend.audit, backend.outbox, backend.store, backend.find_refusal, find_rates=rates
    )
    return await explain(sources, request_id)


async def explain(sources: Sources, request_id: str) -> Story:
    """Gather what is known about a request. Raises LedgerUnavailable."""
    audit, store = sources.audit, sources.store
    found = await audit.find_reservation(request_id)
    record = found[1] if found else None
    # The store is asked after the tombstone was read, and the outbox after the store: what is
    # trimmed in between has been stored, so the second look at the store has it.
    events = store.of_request(request_id)
    waiting: list[Event] = []
    if found and isinstance(record, Ended) and record.epoch:
        waiting = await _undelivered(sources.outbox, found[0], record, request_id)
        events = store.of_request(request_id)
    stored = {item.event.event_id for item in events}
    found_events: list[StoredEvent | Event] = [*events]
    found_events += (event for event in waiting if event.event_id not in stored)
    story = [await trace_event(item, sources.find_rates) for item in found_events]
    touched = {no for item in story for no, _ in item.event.allocations}
    if isinstance(record, Reservation):
        touched |= {no for no, _ in record.allocations}
    customer_id = _customer(record, story)
    names = await audit.grant_names(customer_id) if customer_id and touched - {0} else {}
    return Story(
        request_id=request_id,
        refused=await sources.find_refusal(request_id),
        hold=record if isinstance(record, Reservation) else None,
        ended=record if isinstance(record, Ended) else None,
        events=tuple(story),
        grants={no: names.get(no, f"grant {no}") if no else "credit limit" for no in touched},
    )


async def _undelivered(
    outbox: Outbox, shard: int, ended: Ended, reservation_id: str
) -> list[Event]:
    entries = await outbox.scan(shard, Place(ended.epoch, ended.seq))
    return [
        entry
        for entry in entries
        if isinstance(entry, Event) and entry.reservation_id == reservation_id
    ]


async def trace_event(item: StoredEvent | Event, find_rates: FindRates) -> EventTrace:
    """An event with its usage at its price. Raises LedgerUnavailable."""
    event, stored_at_ms = (
        (item.event, item.stored_at_ms) if isinstance(item, StoredEvent) else (item, None)
    )
    rates = await find_rates(event.price_version) if event.price_version else None
    tier = event.facts.get("service_tier", DEFAULT_TIER)
    lines = tuple(
        price_line(in_tier(unit, tier), quantity, rates)
        for unit, quantity in event.usage.items()
        if rates is not None
    )
    return EventTrace(event, stored_at_ms, lines)


def _customer(record: Reservation | Ended | None, story: list[EventTrace]) -> str | None:
    if isinstance(record, Reservation):
        return record.customer_id
    return story[0].event.customer_id if story else None
