"""Refunds: from an event's id to what the ledger needs to give its charge back.

Rules:
- what an event charged is its amount; for an expiry, less what its late settle gave back;
- an expiry is refunded once no late settle can come any more (an hour), or when it has come: else
  the two together could give back more than was charged;
- a late settle is refunded for itself, and one that gave back charged nothing.
"""

from dataclasses import dataclass
from typing import Final

from gateway.domain.delivery import EventStore
from gateway.domain.events import Event
from gateway.ledger.audit import Audit
from gateway.ledger.client.errors import LedgerRefusal
from gateway.ledger.codec.operations import Refund as RefundCall
from gateway.ledger.corrections import Corrections, Refunded

LATE_SETTLE_MS: Final = 3_600_000
CHARGING_KINDS: Final = frozenset({"settle", "expire", "settle_late"})


class NotRefundable(Exception):
    """The event cannot be refunded; the text says why."""


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund that was made, of how much."""

    event: Event
    amount_nano: int
    done: Refunded


async def refund_event(
    event_id: str,
    amount_nano: int | None,
    *,
    reason: str,
    key: str,
    ledger: Corrections,
    audit: Audit,
    store: EventStore,
    now_ms: int,
) -> Refund:
    """Refund `amount_nano` of an event, or all that is left of its charge. Once by its `key`.

    Raises NotRefundable, LedgerUnavailable, LedgerRefusal.
    """
    stored = store.event(event_id)
    if stored is None:
        raise NotRefundable(
            f"there is no event {event_id} in the store. If its request ended just now, the event"
            " is on its way: try again"
        )
    event = stored.event
    charged_nano = charged_by(event, store, now_ms)
    op_id = refund_operation_id(event_id, key)
    if amount_nano is None:
        amount_nano = await audit.refund_of(event.customer_id, op_id)
    if amount_nano is None:
        refunded_nano = await audit.refunded_nano(event.customer_id, event_id)
        amount_nano = max(0, charged_nano - refunded_nano)
    if amount_nano == 0:
        raise NotRefundable(f"nothing is left to refund of {event_id}")
    try:
        terms = await audit.grant_terms(event.customer_id)
        call = RefundCall(event_id, amount_nano, charged_nano, reason, event.allocations, terms)
        done = await ledger.refund(event.customer_id, op_id, call, _facts(event))
    except LedgerRefusal as refused:
        if refused.word != "more_than_charged":
            raise
        refunded_nano = await audit.refunded_nano(event.customer_id, event_id)
        raise TooMuch(max(0, charged_nano - refunded_nano)) from None
    return Refund(event, amount_nano, done)


class TooMuch(NotRefundable):
    """More was asked for than is left of the event's charge."""

    def __init__(self, left_nano: int) -> None:
        super().__init__("more was asked for than is left of the charge")
        self.left_nano = left_nano


def charged_by(event: Event, store: EventStore, now_ms: int) -> int:
    """What the event charged for good, in nano-credits. Raises NotRefundable."""
    if event.kind not in CHARGING_KINDS or event.amount_nano <= 0:
        raise NotRefundable(f"{event.event_id} charged nothing: it is a {event.kind}")
    if event.kind != "expire":
        return event.amount_nano
    late = store.event(f"{event.reservation_id}:settled_late")
    if late is None and now_ms - event.occurred_at_ms < LATE_SETTLE_MS:
        raise NotRefundable(
            f"{event.event_id} charged what an expired request had used so far, and its late settle"
            " can still come. Try again when an hour has passed"
        )
    return event.amount_nano + min(0, late.event.amount_nano if late else 0)


def refund_operation_id(event_id: str, key: str) -> str:
    """The operation id of a refund, and the id of its event."""
    return f"refund:{event_id}:{key}"


def _facts(event: Event) -> dict[str, str]:
    request_id = event.facts.get("request_id")
    return {"request_id": request_id} if isinstance(request_id, str) else {}
