"""`why REQUEST_ID`: everything about one request, as a timeline."""

from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import AsJson, fail, moment, out, plain, print_json, row, table
from gateway.domain.money import format_amount
from gateway.ledger.codec.reservation_records import Reservation
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.documents import story_document, usage_text
from gateway.operations.price_text import price_columns
from gateway.operations.why import EventTrace, Story
from gateway.operations.why import why as explain_request

_REFUSED: Final = {
    "enforce": "refused with",
    "shadow": "ran in shadow mode; refused otherwise with",
    "bypass": "refused with",
}


@app.command()
def why(
    request_id: Annotated[str, typer.Argument(help="The response's x-request-id.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show why a request was allowed or refused, what it held, what it cost and where its event is."""

    story = on_ledger(config, lambda backend: explain_request(backend, request_id))
    if as_json:
        print_json(story_document(story))
    if story.decision == "unknown":
        raise fail(
            f"nothing is known about {request_id}: no event, no hold, and no refusal in the last days"
            " (refusals of unknown keys are not kept)"
        )
    if not as_json:
        out.print(render(story))


def render(story: Story) -> RenderableType:
    """The story as a timeline."""
    parts: list[RenderableType] = []
    if story.refused is not None:
        parts += _refused(story.refused)
    if story.hold is not None:
        parts += _running(story, story.hold)
    elif story.ended is not None:
        parts.append(_line(story.ended.reserved_at_ms, "allowed"))
        parts.append(_detail(f"held {format_amount(story.ended.held_nano)} credits"))
    elif story.events:
        event = story.events[0].event
        parts.append(plain("allowed", "bold green"))
        parts.append(_detail(f"held {format_amount(event.estimated_amount_nano)} credits"))
    for trace in story.events:
        parts += _corrected(story, trace) if trace.event.kind == "adjust" else _event(story, trace)
    if len(story.events) > 1:
        parts.append(
            plain(f"charged in total: {format_amount(story.charged_nano)} credits", "bold")
        )
    return Group(*parts)


def _refused(noted: NotedRefusal) -> list[RenderableType]:
    refused = noted.refused
    parts: list[RenderableType] = [
        _line(
            noted.noted_at_ms,
            f"{_REFUSED[refused.mode]} {refused.status}: {refused.reason}",
            "bold red",
        ),
        _detail(refused.message),
        _detail(_joined(customer=refused.customer_id, key=refused.key_id)),
        _detail(_joined(route=refused.route, model=refused.model, limit=refused.limit)),
    ]
    amounts = {
        "estimate": refused.estimate_nano,
        "available": refused.available_nano,
        "balance": refused.balance_nano,
    }
    shown = {name: format_amount(n) for name, n in amounts.items() if n is not None}
    return [*parts, _detail(_joined(**shown))]


def _running(story: Story, hold: Reservation) -> list[RenderableType]:
    until = moment(hold.deadline_ms)
    return [
        _line(hold.reserved_at_ms, "allowed"),
        _detail(_joined(customer=hold.customer_id, key=hold.key_id)),
        _detail(f"holds {format_amount(hold.held_nano)} credits for {usage_text(hold.estimate)}"),
        _detail(_parts(story, hold.allocations)),
        plain(f"still running; extended {hold.extend_no} times, held until {until}", "yellow"),
        _detail(f"if it expires it is charged for {usage_text(hold.checkpoint)}"),
    ]


def _event(story: Story, trace: EventTrace) -> list[RenderableType]:
    event, facts = trace.event, trace.event.facts
    amount = format_amount(event.amount_nano)
    parts: list[RenderableType] = [
        _line(event.occurred_at_ms, f"{event.kind}: {amount} credits", "bold"),
        _detail(_joined(customer=event.customer_id, key=facts.get("key_id"))),
        _detail(
            _joined(
                route=facts.get("route"),
                model=facts.get("model"),
                upstream=facts.get("upstream"),
                upstream_error=facts.get("upstream_error"),
                answered=facts.get("response_model"),
                upstream_request=facts.get("upstream_request_id"),
            )
        ),
        _detail(
            _joined(
                status=facts.get("http_status"),
                finish=facts.get("finish_reason"),
                duration_ms=facts.get("duration_ms"),
                usage=facts.get("usage_source"),
                service_tier=facts.get("service_tier"),
                served_in=facts.get("response_service_tier"),
                flags=" ".join(facts.get("flags") or ()) or None,
                retry_of=facts.get("retry_of"),
            )
        ),
    ]
    if trace.lines:
        parts.append(Padding(_bill(trace), (0, 0, 0, 4)))
    elif event.usage:
        parts.append(_detail(f"{usage_text(event.usage)} at price {event.price_version}"))
    if event.allocations:
        parts.append(_detail(_parts(story, event.allocations)))
    balance = format_amount(event.balance_nano)
    parts.append(_detail(f"balance afterwards {balance}; event {event.event_id}"))
    if trace.stored_at_ms is None:
        parts.append(_detail("not in the store yet: it waits in the outbox", "yellow"))
    else:
        parts.append(_detail(f"in the store since {moment(trace.stored_at_ms)}", "green"))
    return [part for part in parts if part is not _NOTHING]


def _corrected(story: Story, trace: EventTrace) -> list[RenderableType]:
    event = trace.event
    word = "refunded" if event.event_id.startswith("refund:") else "given back"
    parts = [
        _line(event.occurred_at_ms, f"{word}: {format_amount(event.amount_nano)} credits"),
        _detail(_joined(corrects=event.facts.get("corrects"), reason=event.facts.get("reason"))),
        _detail(_parts(story, event.allocations)),
        _detail(f"balance afterwards {format_amount(event.balance_nano)}; event {event.event_id}"),
    ]
    return [part for part in parts if part is not _NOTHING]


def _bill(trace: EventTrace) -> Table:
    bill = table("unit", "quantity", "price", "amount", right=["quantity", "price", "amount"])
    for line in trace.lines:
        row(bill, (line.unit, line.quantity, *price_columns(line)))
    total = format_amount(trace.event.amount_nano)
    says = {True: "", False: "  ← the lines do not add up to this", None: ""}[trace.adds_up]
    style = "bold red" if trace.adds_up is False else "bold"
    row(bill, ("charged, rounded up", "", trace.event.price_version, total + says), style)
    return bill


_NOTHING = plain("")


def _line(at_ms: int, text: str, style: str = "bold green") -> RenderableType:
    line = plain(moment(at_ms), "dim")
    return line.append("  ").append(text, style)


def _detail(text: str, style: str = "") -> RenderableType:
    return Padding(plain(text, style), (0, 0, 0, 4)) if text else _NOTHING


def _joined(**named: object) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in named.items() if value is not None
    )


def _parts(story: Story, allocations: tuple[tuple[int, int], ...]) -> str:
    named = (f"{format_amount(nano)} on {story.grants[no]}" for no, nano in allocations)
    return "; ".join(named)
