"""`refund`: give back what an event charged, once per idempotency key.

Rules:
- what an event charged is its amount; for an expiry, less what its late settlement gave back;
- an expiry is refunded once no late settlement can come any more (an hour), or when it has come:
  otherwise the two together could give back more than was charged;
- a late settlement is refunded by itself, and one that gave back charged nothing;
- what a re-rate has given back of it is no part of the charge any more.
"""

from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.events import Event
from gateway.domain.money import format_amount
from gateway.domain.stores import EventStore
from gateway.domain.wallet_history import RERATE_PREFIX
from gateway.ledger.client.errors import LedgerRefusal
from gateway.ledger.codec.operations import Refund
from gateway.operations.audit import signed
from gateway.operations.backend import Backend
from gateway.operations.errors import Conflict, NotFound
from gateway.operations.idempotency import Change

LATE_SETTLE_MS: Final = 3_600_000
CHARGING_KINDS: Final = frozenset({"settle", "expire", "settle_late"})

_REFUSALS: Final = {
    "exists_with_different_parameters": (
        "the key {key} was used to refund another amount of {subject}. Nothing was changed. Repeat"
        " its amount, or use another key"
    ),
    "too_many_grants": (
        "the wallet has 64 grants with something left in them; there is room for the refund when"
        " one of them is used up or has expired"
    ),
    "total_too_large": "all corrections of this wallet together would exceed 9,000,000 credits",
}


class NotRefundable(Conflict):
    """The event cannot be refunded, or not by this amount."""


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """A refund to make.

    key:         the idempotency key, unique per event
    amount_nano: None for all that is left of the charge
    """

    event_id: str
    key: str
    reason: str
    amount_nano: int | None = None


@dataclass(frozen=True, slots=True)
class RefundMade:
    """A refund that is made now.

    left_nano: what is left to refund of the event
    replayed:  an earlier call with this key had made it already
    """

    event: Event
    key: str
    amount_nano: int
    left_nano: int
    balance_nano: int
    replayed: bool


async def refund(backend: Backend, request: RefundRequest) -> RefundMade:
    """Give back a charge, or a part of it, to the grants that paid.

    Raises NotFound, NotRefundable, Conflict, OutcomeUnknown, LedgerUnavailable.
    """
    event_id, audit = request.event_id, backend.audit
    stored = backend.store.event(event_id)
    if stored is None:
        raise NotFound(
            f"there is no event {event_id} in the store. If its request ended just now, the event is"
            " still being delivered: retry in a moment"
        )
    event = stored.event
    charged_nano = charged_by(event, backend.store, await backend.accounts.now_ms())
    operation_id = refund_operation_id(event_id, request.key)
    amount_nano = request.amount_nano
    if amount_nano is None:
        amount_nano = await audit.refund_of(event.customer_id, operation_id)
    if amount_nano is None:
        amount_nano = await _left_nano(backend, event, charged_nano)
    if amount_nano == 0:
        raise NotRefundable(f"nothing is left to refund of {event_id}")
    try:
        with Change(request.key, "refunded", event_id, _REFUSALS).explained():
            done = await backend.corrections.refund(
                event.customer_id,
                operation_id,
                Refund(
                    event_id,
                    amount_nano,
                    charged_nano,
                    request.reason,
                    event.allocations,
                    await audit.grant_terms(event.customer_id),
                ),
                {**signed(backend, "refund.create", request.reason), **_facts(event)},
            )
    except LedgerRefusal as refused:
        if refused.word != "more_than_charged":
            raise
        left = format_amount(await _left_nano(backend, event, charged_nano))
        raise NotRefundable(f"{left} credits are left to refund of {event_id}") from refused
    return RefundMade(
        event, request.key, amount_nano, done.left_nano, done.balance_nano, done.replayed
    )


def charged_by(event: Event, store: EventStore, now_ms: int) -> int:
    """What the event finally charged, in nano-credits. now_ms: Unix ms. Raises NotRefundable."""
    if event.kind not in CHARGING_KINDS or event.amount_nano <= 0:
        raise NotRefundable(f"{event.event_id} charged nothing: it is a {event.kind}")
    rerated_nano = _rerated_nano(event, store)
    if event.kind == "settle":
        return max(0, event.amount_nano - rerated_nano)
    if event.kind == "settle_late":
        expired = store.event(f"{event.reservation_id}:expired")
        of_expiry_nano = expired.event.amount_nano if expired else 0
        return max(0, event.amount_nano - max(0, rerated_nano - of_expiry_nano))
    late = store.event(f"{event.reservation_id}:settled_late")
    if late is None and now_ms - event.occurred_at_ms < LATE_SETTLE_MS:
        raise NotRefundable(
            f"{event.event_id} charged what an expired request had used so far, and its late"
            " settlement can still come. Retry when an hour has passed"
        )
    late_nano = min(0, late.event.amount_nano if late else 0)
    return max(0, event.amount_nano + late_nano - rerated_nano)


def _rerated_nano(event: Event, store: EventStore) -> int:
    """What re-rates have given back of an event's request. What they charged is not refunded with it."""
    request_id = event.facts.get("request_id")
    related = store.of_request(request_id) if isinstance(request_id, str) else []
    prefix = f"{RERATE_PREFIX}{event.reservation_id}:"
    amounts = (each.event.amount_nano for each in related if each.event.event_id.startswith(prefix))
    return max(0, sum(amounts))


def refund_operation_id(event_id: str, key: str) -> str:
    """The operation id of a refund, and the id of its event."""
    return f"refund:{event_id}:{key}"


def refund_document(made: RefundMade) -> dict[str, Any]:
    """The refund as a JSON document."""
    return {
        "event_id": made.event.event_id,
        "customer_id": made.event.customer_id,
        "amount": format_amount(made.amount_nano),
        "left": format_amount(made.left_nano),
        "balance": format_amount(made.balance_nano),
        "replayed": made.replayed,
        "key": made.key,
    }


async def _left_nano(backend: Backend, event: Event, charged_nano: int) -> int:
    refunded_nano = await backend.audit.refunded_nano(event.customer_id, event.event_id)
    return max(0, charged_nano - refunded_nano)


def _facts(event: Event) -> dict[str, str]:
    request_id = event.facts.get("request_id")
    return {"request_id": request_id} if isinstance(request_id, str) else {}
