"""Statements: one customer's billing period, equal to the ledger to the unit."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query
from pydantic import Field, StringConstraints

from gateway.admin.api.errors import ApiError
from gateway.admin.api.models import Body, ListOf, Model, Moment, Paging, RecordId
from gateway.admin.api.routing import WriteKey, api_router
from gateway.admin.auth.guard import Session, require
from gateway.domain.stores import ClosedStatement
from gateway.operations.documents import timestamp
from gateway.operations.statements.closing import (
    close_statements,
    list_closed_statements,
    show_statement,
)

router = api_router("Statements")

PeriodLabel = Annotated[
    str,
    StringConstraints(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$"),
    Field(description="The month in which the period begins.", examples=["2027-01"]),
]


class ClosedPeriod(Model):
    """A closed period. Its statement never changes again."""

    object: Literal["closed_statement"] = "closed_statement"
    customer_id: str
    period: str
    closed_at: Moment
    sha256: Annotated[str, Field(description="Of the document's text as it is kept.")]


class Statement(Model):
    """A statement. closed_at and sha256 are null while its period is open."""

    object: Literal["statement"] = "statement"
    customer_id: str
    period: str
    closed_at: Moment | None
    sha256: str | None
    document: Annotated[Mapping[str, Any], Field(description="See the reference of statements.")]


class ClosingBody(Body):
    """The period to close. It must have ended."""

    customer_id: RecordId
    period: PeriodLabel


class StatementsQuery(Paging):
    """Whose statements are wanted."""

    customer_id: RecordId


@router.get("/statements", summary="List a customer's closed statements, the latest first")
async def list_statements(
    query: Annotated[StatementsQuery, Query()],
    session: Annotated[Session, Depends(require("statements.read"))],
) -> ListOf[ClosedPeriod]:
    found = await asyncio.to_thread(
        list_closed_statements, session.backend.store, query.customer_id
    )
    return ListOf[ClosedPeriod].page([_closed(each) for each in found], query, _period)


@router.post("/statements", summary="Close a customer's period", status_code=201)
async def close_statement(
    body: ClosingBody,
    _: WriteKey,
    session: Annotated[Session, Depends(require("statements.write"))],
) -> ClosedPeriod:
    [closing] = await close_statements(session.backend, body.period, [body.customer_id])
    if closing.closed is None:
        raise ApiError("conflict", closing.problem)
    return _closed(closing.closed)


@router.get("/statements/{customer_id}/{period}", summary="Retrieve a statement, closed or not")
async def retrieve_statement(
    customer_id: Annotated[RecordId, Path()],
    period: Annotated[PeriodLabel, Path()],
    session: Annotated[Session, Depends(require("statements.read"))],
) -> Statement:
    shown = await show_statement(session.backend, customer_id, period)
    closed = shown.closed
    return Statement(
        customer_id=customer_id,
        period=period,
        closed_at=None if closed is None else timestamp(closed.closed_at_ms),
        sha256=None if closed is None else closed.sha256,
        document=shown.document,
    )


def _closed(kept: ClosedStatement) -> ClosedPeriod:
    return ClosedPeriod(
        customer_id=kept.customer_id,
        period=kept.period,
        closed_at=timestamp(kept.closed_at_ms),
        sha256=kept.sha256,
    )


def _period(closed: ClosedPeriod) -> str:
    return closed.period
