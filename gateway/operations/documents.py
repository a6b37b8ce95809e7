"""Results as JSON documents. Amounts are decimal strings of credits, times RFC 3339 in UTC with
milliseconds."""

import datetime as dt
from typing import Any

from gateway.domain.delivery import DeadLetter, StoredSignal
from gateway.domain.events import Event
from gateway.domain.money import format_amount, format_rate
from gateway.domain.usage import Usage
from gateway.ledger.codec.reservation_records import Ended, Reservation
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.compare_stores import SinkComparison
from gateway.operations.drifts import Verified
from gateway.operations.why import EventTrace, PriceLine, Story


def timestamp(unix_ms: int) -> str:
    """RFC 3339, UTC, milliseconds: 2026-11-22T08:30:00.125Z."""
    moment = dt.datetime.fromtimestamp(unix_ms // 1000, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"


def event_document(event: Event, stored_at_ms: int | None = None) -> dict[str, Any]:
    """One event."""
    return {
        "event_id": event.event_id,
        "kind": event.kind,
        "occurred_at": timestamp(event.occurred_at_ms),
        "stored_at": None if stored_at_ms is None else timestamp(stored_at_ms),
        "shard": event.shard,
        "epoch": event.epoch,
        "seq": event.seq,
        "customer_id": event.customer_id,
        "amount": format_amount(event.amount_nano),
        "estimated_amount": format_amount(event.estimated_amount_nano),
        "cost": None if event.cost_nano is None else format_amount(event.cost_nano),
        "balance": format_amount(event.balance_nano),
        "price_version": event.price_version,
        "usage": dict(event.usage),
        "allocations": [
            {"grant": no, "amount": format_amount(nano)} for no, nano in event.allocations
        ],
        **event.facts,
    }


def dead_letter_document(letter: DeadLetter) -> dict[str, Any]:
    """One dead letter, without its payload."""
    return {
        "event_id": letter.event_id,
        "shard": letter.shard,
        "epoch": letter.epoch,
        "seq": letter.seq,
        "reason": letter.reason,
    }


def signal_document(signal: StoredSignal) -> dict[str, Any]:
    """One signal and what became of it."""
    return {
        "signal_id": signal.signal_id,
        "name": signal.name,
        "customer_id": signal.customer_id,
        "event_id": signal.event_id,
        "occurred_at": timestamp(signal.occurred_at_ms),
        "balance": format_amount(signal.balance_nano),
        **{
            name.removesuffix("_nano"): format_amount(number) if name.endswith("_nano") else number
            for name, number in signal.numbers.items()
        },
        "state": signal.state,
        "attempts": signal.attempts,
        "ended_at": None if signal.ended_at_ms is None else timestamp(signal.ended_at_ms),
        "reason": signal.reason,
    }


def story_document(story: Story) -> dict[str, Any]:
    """The answer to `why`."""
    return {
        "request_id": story.request_id,
        "decision": story.decision,
        "charged": format_amount(story.charged_nano),
        "refusal": refusal_document(story.refused) if story.refused else None,
        "hold": _hold(story.hold),
        "end": _end(story.ended),
        "grants": {str(no): name for no, name in sorted(story.grants.items())},
        "events": [_event_trace(trace) for trace in story.events],
    }


def verified_document(verified: Verified) -> dict[str, Any]:
    """The answer to `verify`."""
    return {
        "clean": verified.clean,
        "wallets": verified.wallets,
        "holds": verified.holds,
        "ended_reservations": verified.ended,
        "events_stored": verified.events_stored,
        "events_in_outbox": verified.events_in_outbox,
        "drifts": [
            {"identity": drift.identity, "subject": drift.subject, "message": drift.message}
            for drift in verified.drifts
        ],
    }


def comparison_document(found: SinkComparison) -> dict[str, Any]:
    """How one sink compares with the required store."""
    return {
        "sink": found.sink,
        "clean": found.clean,
        "compared": found.compared,
        "missing": found.missing,
        "given_up": found.given_up,
        "different": found.different,
        "extra": found.extra,
        "shards": list(found.shards),
        "since": None if found.since_ms is None else timestamp(found.since_ms),
        "examples": list(found.examples),
    }


def line_amounts(line: PriceLine) -> dict[str, str | None]:
    """Rate and amount of a line; None where tiers decide."""
    return {
        name: None if pico is None else format_rate(pico, per=1)
        for name, pico in (("rate", line.rate_pico), ("amount", line.amount_pico))
    }


def usage_text(usage: Usage) -> str:
    """Quantities in one line: `12 input, 5 output`."""
    return ", ".join(f"{quantity} {unit}" for unit, quantity in usage.items()) or "nothing"


def _event_trace(trace: EventTrace) -> dict[str, Any]:
    return {
        **event_document(trace.event, trace.stored_at_ms),
        "delivered": trace.stored_at_ms is not None,
        "adds_up": trace.adds_up,
        "lines": [
            {
                "unit": line.unit,
                "quantity": line.quantity,
                **line_amounts(line),
            }
            for line in trace.lines
        ],
    }


def refusal_document(noted: NotedRefusal) -> dict[str, Any]:
    """One refusal."""
    refused = noted.refused
    amounts = {
        "estimate": refused.estimate_nano,
        "available": refused.available_nano,
        "balance": refused.balance_nano,
    }
    return {
        "at": timestamp(noted.noted_at_ms),
        "reason": refused.reason,
        "status": refused.status,
        "message": refused.message,
        "customer_id": refused.customer_id,
        "key_id": refused.key_id,
        "route": refused.route,
        "model": refused.model,
        "mode": refused.mode,
        "limit": refused.limit,
        **{name: None if n is None else format_amount(n) for name, n in amounts.items()},
    }


def _hold(hold: Reservation | None) -> dict[str, Any] | None:
    if hold is None:
        return None
    return {
        "customer_id": hold.customer_id,
        "key_id": hold.key_id,
        "held": format_amount(hold.held_nano),
        "reserved_at": timestamp(hold.reserved_at_ms),
        "deadline": timestamp(hold.deadline_ms),
        "extended": hold.extend_no,
        "estimate": hold.estimate,
        "checkpoint": hold.checkpoint,
        "allocations": [
            {"grant": no, "amount": format_amount(nano)} for no, nano in hold.allocations
        ],
    }


def _end(ended: Ended | None) -> dict[str, Any] | None:
    if ended is None:
        return None
    return {
        "outcome": ended.outcome,
        "charged": format_amount(ended.charged_nano),
        "held": format_amount(ended.held_nano),
        "reserved_at": timestamp(ended.reserved_at_ms),
        "ended_at": timestamp(ended.ended_at_ms),
    }
