"""One request's story as steps, in the order in which they happened: what `why` knows, for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.admin.console import text
from gateway.domain.money import format_amount, format_rate
from gateway.ledger.codec.reservation_records import Reservation
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.documents import usage_text
from gateway.operations.why import EventTrace, Story

Tone = Literal["", "ok", "warn", "bad"]

_SOURCES: Final = {
    "provider_reported": "as the provider reported it",
    "counted": "as the gate counted it",
    "estimated": "as estimated before the request ran",
}
_ENDS: Final[Mapping[str, tuple[str, Tone]]] = {
    "settle": ("Settled", "ok"),
    "release": ("Released: nothing was charged", ""),
    "expire": ("Expired: the last checkpoint was charged", "warn"),
    "settle_late": ("Settled late: the difference was charged", "warn"),
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """Whether one sink has one event. dead: why it will not get it"""

    sink: str
    state: Literal["delivered", "waiting", "dead", "unknown"]
    at_ms: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BillLine:
    """One line of a charge."""

    unit: str
    quantity: int
    rate: str
    amount: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step. at_ms: None for one whose moment is not known

    facts: (label, value), without those that are empty
    paid:  (grant, amount): which grants were touched
    """

    at_ms: int | None
    title: str
    tone: Tone = ""
    message: str = ""
    facts: Sequence[tuple[str, str]] = ()
    bill: Sequence[BillLine] = ()
    total: str = ""
    adds_up: bool | None = None
    paid: Sequence[tuple[str, str]] = ()
    deliveries: Sequence[Delivery] = ()
    event_id: str = ""
    refundable: bool = False


def steps_of(story: Story, deliveries: Mapping[str, Sequence[Delivery]]) -> list[Step]:
    """The steps. deliveries: by event id"""
    steps = []
    if story.refused is not None:
        steps.append(_refused(story.refused))
    if story.hold is not None:
        steps += _running(story, story.hold)
    first = next((each for each in story.events if each.event.kind != "adjust"), None)
    if story.hold is None and first is not None:
        steps.append(_reserved(story, first))
        steps.append(_upstream(first))
    elif story.ended is not None and story.hold is None:
        held = format_amount(story.ended.held_nano)
        steps.append(Step(story.ended.reserved_at_ms, f"Held {held} credits", "ok"))
        steps.append(Step(story.ended.ended_at_ms, f"Ended: {text.words(story.ended.outcome)}"))
    for trace in story.events:
        given = deliveries.get(trace.event.event_id, ())
        steps.append(
            _corrected(story, trace, given)
            if trace.event.kind == "adjust"
            else _ended(story, trace, given)
        )
    return steps


def _refused(noted: NotedRefusal) -> Step:
    refused = noted.refused
    amounts = (
        ("could cost up to", refused.estimate_nano),
        ("available", refused.available_nano),
        ("balance", refused.balance_nano),
    )
    facts: list[tuple[str, Any]] = [
        ("answered", refused.status),
        *((label, text.amount(nano)) for label, nano in amounts if nano is not None),
        ("limit", refused.limit if refused.limit != "balance" else None),
        ("route", refused.route),
        ("model", refused.model),
        ("customer", refused.customer_id),
        ("key", refused.key_id),
    ]
    title = f"Refused: {text.words(refused.reason)}"
    return Step(noted.noted_at_ms, title, "bad", refused.message, _filled(facts))


def _reserved(story: Story, first: EventTrace) -> Step:
    event, ended = first.event, story.ended
    at_ms = ended.reserved_at_ms if ended else _id_moment(story.request_id)
    facts: list[tuple[str, Any]] = [
        ("key", event.facts.get("key_id")),
        ("project", event.facts.get("project_id")),
        ("route", event.facts.get("route")),
        ("price", event.price_version),
        ("retry of", event.facts.get("retry_of")),
    ]
    held = format_amount(event.estimated_amount_nano)
    return Step(
        at_ms,
        f"Allowed: {held} credits held",
        "ok",
        "The estimate is the most that this request could have cost.",
        _filled(facts),
    )


def _upstream(trace: EventTrace) -> Step:
    facts = trace.event.facts
    error, status = facts.get("upstream_error"), facts.get("http_status")
    shown: list[tuple[str, Any]] = [
        ("upstream", facts.get("upstream")),
        ("asked for", facts.get("model")),
        ("answered as", facts.get("response_model")),
        ("status", status),
        ("finish reason", facts.get("finish_reason")),
        ("provider's request id", facts.get("upstream_request_id")),
        ("took", text.milliseconds(facts["duration_ms"]) if "duration_ms" in facts else None),
        ("service tier", facts.get("response_service_tier") or facts.get("service_tier")),
        ("failed with", error),
    ]
    if error:
        return Step(
            None, f"The upstream failed: {text.words(str(error))}", "bad", "", _filled(shown)
        )
    good = isinstance(status, int) and status < 400
    title = "Answered by the upstream" if good else "No complete response"
    return Step(None, title, "ok" if good else "warn", "", _filled(shown))


def _running(story: Story, hold: Reservation) -> list[Step]:
    held = Step(
        hold.reserved_at_ms,
        f"Allowed: {format_amount(hold.held_nano)} credits held",
        "ok",
        f"The estimate covers {usage_text(hold.estimate)}.",
        _filled(
            [("customer", hold.customer_id), ("key", hold.key_id), ("project", hold.project_id)]
        ),
        paid=_paid(story, hold.allocations),
    )
    used = usage_text(hold.checkpoint)
    now = Step(
        None,
        "Still running",
        "warn",
        f"Extended {hold.extend_no} times. If it expires, it is charged for {used}.",
        [("held until", text.moment(hold.deadline_ms))],
    )
    return [held, now]


def _ended(story: Story, trace: EventTrace, deliveries: Sequence[Delivery]) -> Step:
    event, facts = trace.event, trace.event.facts
    title, tone = _ENDS.get(event.kind, (text.words(event.kind).capitalize(), ""))
    if event.amount_nano and event.kind == "settle":
        title = f"Settled: {format_amount(event.amount_nano)} credits charged"
    source = facts.get("usage_source")
    shown: list[tuple[str, Any]] = [
        (
            "usage",
            f"{usage_text(event.usage)}, {_SOURCES.get(str(source), 'source unknown')}"
            if event.usage
            else None,
        ),
        ("flags", ", ".join(text.words(flag) for flag in facts.get("flags") or ())),
        ("cost", text.amount(event.cost_nano) if event.cost_nano is not None else None),
        ("balance after", text.amount(event.balance_nano)),
    ]
    return Step(
        event.occurred_at_ms,
        title,
        tone,
        facts=_filled(shown),
        bill=_bill(trace),
        total=format_amount(event.amount_nano),
        adds_up=trace.adds_up,
        paid=_paid(story, event.allocations),
        deliveries=deliveries,
        event_id=event.event_id,
        refundable=event.kind != "release" and event.amount_nano > 0,
    )


def _corrected(story: Story, trace: EventTrace, deliveries: Sequence[Delivery]) -> Step:
    event = trace.event
    word = "Refunded" if event.event_id.startswith("refund:") else "Given back"
    if event.amount_nano < 0:
        word = "Charged in addition"
    facts: list[tuple[str, Any]] = [
        ("corrects", event.facts.get("corrects")),
        ("reason", event.facts.get("reason")),
        ("by", event.facts.get("actor")),
        ("balance after", text.amount(event.balance_nano)),
    ]
    return Step(
        event.occurred_at_ms,
        f"{word}: {format_amount(abs(event.amount_nano))} credits",
        "",
        facts=_filled(facts),
        paid=_paid(story, event.allocations),
        deliveries=deliveries,
        event_id=event.event_id,
    )


def _bill(trace: EventTrace) -> list[BillLine]:
    return [
        BillLine(
            line.unit,
            line.quantity,
            "by tiers" if line.rate_pico is None else f"{format_rate(line.rate_pico)} per million",
            "" if (pico := line.amount_pico) is None else format_rate(pico, per=1),
        )
        for line in trace.lines
    ]


def _paid(story: Story, allocations: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    return [(story.grants[no], format_amount(nano)) for no, nano in allocations]


def _filled(facts: Sequence[tuple[str, Any]]) -> list[tuple[str, str]]:
    return [(label, str(value)) for label, value in facts if value not in (None, "")]


def _id_moment(request_id: str) -> int | None:
    """Ids of requests begin with their moment: 48 bits of Unix ms in hex."""
    try:
        return int(request_id[:12], 16) if len(request_id) == 32 else None
    except ValueError:
        return None
