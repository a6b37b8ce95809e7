"""Open holds: credit that running requests may spend."""

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import Depends, Path, Query

from gateway.admin.api.models import (
    Amount,
    Body,
    ListOf,
    Model,
    Moment,
    Paging,
    Reason,
    RequestId,
    WalletId,
)
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.operations import holds
from gateway.operations.holds import hold_document, hold_ended_document

router = api_router("Holds")


class Hold(Model):
    """Credit that is held for one running request, whose id it has."""

    object: Literal["hold"] = "hold"
    id: str
    customer_id: str
    project_id: str | None
    key_id: str
    route: str | None
    model: str | None
    held: Amount
    reserved_at: Moment
    deadline: Moment
    extended: int
    estimate: Mapping[str, int]
    checkpoint: Mapping[str, int]


class HoldReleased(Model):
    """A hold that has ended, by this request or before it."""

    object: Literal["hold"] = "hold"
    id: str
    outcome: str
    charged: Amount
    given_back: Amount


class HoldsQuery(Paging):
    """Which holds are wanted."""

    customer_id: WalletId | None = None


class ReleaseBody(Body):
    """Why; kept in the audit log."""

    reason: Reason | None = None


@router.get("/holds", summary="List open holds, the next to expire first")
async def list_holds(
    query: Annotated[HoldsQuery, Query()],
    session: Annotated[Session, Depends(require("holds.read"))],
) -> ListOf[Hold]:
    found = await holds.list_holds(session.backend, query.customer_id)
    documents = [
        Hold(**hold_document(each.reservation_id, each.reservation), id=each.reservation_id)
        for each in found.holds
    ]
    return ListOf[Hold].page(documents, query, lambda each: each.id)


@router.post(
    "/holds/{request_id}/release",
    summary="Return a hold's credit now; a request that still runs is charged when it ends",
)
async def release_hold(
    request_id: Annotated[RequestId, Path()],
    body: ReleaseBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("holds.write"))],
) -> HoldReleased:
    ended = await holds.release_hold(session.backend, request_id, body.reason)
    return HoldReleased(**hold_ended_document(ended), id=request_id)
