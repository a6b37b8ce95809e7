"""Requests: why one was admitted or refused, and what it cost; and the latest refusals."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query
from pydantic import Field

from gateway.admin.api.errors import ApiError
from gateway.admin.api.events import Allocation, Event, event_of
from gateway.admin.api.models import (
    Amount,
    KeyId,
    Line,
    ListOf,
    Model,
    Moment,
    Paging,
    RequestId,
    WalletId,
)
from gateway.admin.api.routing import api_router
from gateway.admin.auth.guard import Session, require
from gateway.domain.customers import Mode
from gateway.domain.event_rows import row_of
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.decisions import RefusalFilter, recent_refusals, remedies
from gateway.operations.documents import line_amounts, refusal_document, story_document
from gateway.operations.why import EventTrace, why

router = api_router("Requests and decisions")

REFUSALS_MOST = 1000


class Decision(Model):
    """A refusal. Those of the last days are kept."""

    object: Literal["decision"] = "decision"
    request_id: str
    at: Moment
    reason: str
    status: Annotated[int, Field(description="The HTTP status that was answered.")]
    message: str
    customer_id: str | None
    key_id: str | None
    route: str | None
    model: str | None
    mode: Annotated[
        Mode, Field(description="shadow: it would have been refused, and was let through.")
    ]
    limit: Annotated[str | None, Field(description="Which limit refused.")]
    estimate: Amount | None
    available: Amount | None
    balance: Amount | None
    remedies: Annotated[
        list[str], Field(description="What would have let it through: any one of these.")
    ]


class RequestHold(Model):
    """What is held for a request that runs."""

    customer_id: str
    key_id: str
    held: Amount
    reserved_at: Moment
    deadline: Moment
    extended: int
    estimate: Mapping[str, int]
    checkpoint: Mapping[str, int]
    allocations: list[Allocation]


class RequestEnd(Model):
    """How a request ended, for an hour after."""

    outcome: str
    charged: Amount
    held: Amount
    reserved_at: Moment
    ended_at: Moment


class PriceLine(Model):
    """One unit of a usage at its price. null where tiers decide."""

    unit: str
    quantity: int
    rate: str | None
    amount: str | None


class RequestEvent(Event):
    """An event of a request with the lines of its charge."""

    delivered: Annotated[bool, Field(description="Whether the required store has it.")]
    adds_up: Annotated[bool | None, Field(description="Whether the lines are the charge.")]
    lines: list[PriceLine]


class RequestStory(Model):
    """Everything that is known about one request."""

    object: Literal["request"] = "request"
    id: str
    decision: Literal["allowed", "refused", "unknown"]
    charged: Annotated[Amount, Field(description="So far, less refunds.")]
    refusal: Decision | None
    hold: RequestHold | None
    end: RequestEnd | None
    grants: Annotated[
        Mapping[str, str], Field(description="Number → name of the grants that paid.")
    ]
    events: list[RequestEvent]


class DecisionsQuery(Paging):
    """Which refusals are wanted."""

    customer_id: WalletId | None = None
    key_id: KeyId | None = None
    model: Line | None = None
    reason: Line | None = None
    status: Annotated[int, Field(ge=400, le=599)] | None = None


@router.get("/requests/{request_id}", summary="Explain a request")
async def retrieve_request(
    request_id: Annotated[RequestId, Path()],
    session: Annotated[Session, Depends(require("requests.read"))],
) -> RequestStory:
    story = await why(session.backend, request_id)
    if story.decision == "unknown":
        raise ApiError(
            "not_found",
            f"Nothing is known of a request {request_id}. Refusals are kept for some days.",
            param="request_id",
        )
    document: dict[str, Any] = story_document(story) | {
        "id": request_id,
        "refusal": decision_of(story.refused) if story.refused else None,
        "events": [_event(trace) for trace in story.events],
    }
    return RequestStory(**document)


@router.get("/decisions", summary="List the latest refusals, the latest first")
async def list_decisions(
    query: Annotated[DecisionsQuery, Query()],
    session: Annotated[Session, Depends(require("decisions.read"))],
) -> ListOf[Decision]:
    wanted = RefusalFilter(query.customer_id, query.key_id, query.model, query.reason, query.status)
    noted = await recent_refusals(session.backend, wanted, REFUSALS_MOST)
    found = [decision_of(each) for each in noted]
    return ListOf[Decision].page(found, query, lambda each: each.request_id)


def decision_of(noted: NotedRefusal) -> Decision:
    """A refusal as the API answers it."""
    refused = noted.refused
    return Decision(
        **refusal_document(noted), request_id=refused.request_id, remedies=remedies(refused)
    )


def _event(trace: EventTrace) -> RequestEvent:
    event = event_of(row_of(trace.event), trace.stored_at_ms)
    lines = [
        PriceLine(unit=line.unit, quantity=line.quantity, **line_amounts(line))
        for line in trace.lines
    ]
    return RequestEvent(
        **event.model_dump(),
        delivered=trace.stored_at_ms is not None,
        adds_up=trace.adds_up,
        lines=lines,
    )
