"""Usage, margin and refusals of a period, by any dimensions."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic import Field
from starlette.requests import Request

from gateway.admin.api.models import Amount, ListOf, Model, MomentMs, Paging, WalletId
from gateway.admin.api.routing import api_router
from gateway.admin.auth.guard import Session, require
from gateway.admin.context import context_of
from gateway.domain.money import format_amount
from gateway.operations.refused_report import refusals_sheet
from gateway.operations.report import Dimension, ReportRequest, Sums
from gateway.operations.sheets import percent_decimal, sheet_document

router = api_router("Usage")

LINES_MOST = 1000
RefusedBy = Literal["customer", "model", "reason", "day", "hour"]


class UsageSums(Model):
    """What requests came to."""

    requests: Annotated[int, Field(description="Settled or expired, free ones included.")]
    quantities: Annotated[Mapping[str, int], Field(examples=[{"input": 8120, "output": 911}])]
    charged: Amount
    corrected: Annotated[
        Amount, Field(description="What refunds and adjustments took (or, negative, gave).")
    ]
    cost: Annotated[Amount, Field(description="Where it is known.")]
    without_cost: Annotated[Amount, Field(description="Charges whose cost is not known.")]
    margin: Amount
    margin_percent: Annotated[str | None, Field(examples=["31.50"])]


class UsageLine(UsageSums):
    """One line of usage."""

    object: Literal["usage_line"] = "usage_line"
    group: Annotated[
        Mapping[str, str],
        Field(
            description="Dimension → value; empty text for none.", examples=[{"model": "gpt-4.1"}]
        ),
    ]


class Usage(ListOf[UsageLine]):
    """Lines by the values of the dimensions, and the sum of all lines, not of this page's alone."""

    total: UsageSums


class RefusalLine(Model):
    """Refusals with these labels."""

    object: Literal["refusal_line"] = "refusal_line"
    group: Mapping[str, str]
    refused: int
    estimated: Annotated[Amount, Field(description="The most that they could have cost.")]


class _Query(Paging):
    limit: Annotated[int, Field(ge=1, le=LINES_MOST, description="Lines in one answer.")] = 100
    since: MomentMs | None = None
    until: MomentMs | None = None
    customer_id: WalletId | None = None


class UsageQuery(_Query):
    """Which usage is wanted."""

    group_by: Annotated[
        tuple[Dimension, ...],
        Field(alias="group_by[]", max_length=9, description="Dimensions, in their order."),
    ] = ()


class RefusalsQuery(_Query):
    """Which refusals are wanted."""

    group_by: Annotated[
        tuple[RefusedBy, ...],
        Field(alias="group_by[]", max_length=5, description="Dimensions, in their order."),
    ] = ("reason",)


@router.get("/usage", summary="Add up usage, charges, cost and margin")
async def query_usage(
    query: Annotated[UsageQuery, Query()],
    request: Request,
    _: Annotated[Session, Depends(require("usage.read"))],
) -> Usage:
    index = context_of(request).index
    await index.refresh()
    asked = ReportRequest(_once(query.group_by), query.since, query.until, query.customer_id)
    made = await index.report(asked)
    lines = [
        UsageLine(**_sums(sums), group=dict(zip(made.by, labels, strict=True)))
        for labels, sums in made.lines.items()
    ]
    page = ListOf[UsageLine].page(lines, query, _cursor)
    return Usage(**page.model_dump(), total=UsageSums(**_sums(made.total)))


@router.get("/usage/refusals", summary="Count refusals by the hours in which they happened")
async def query_refusals(
    query: Annotated[RefusalsQuery, Query()],
    session: Annotated[Session, Depends(require("usage.read"))],
) -> ListOf[RefusalLine]:
    by = _once(query.group_by)
    request = ReportRequest(by, query.since, query.until, query.customer_id)
    sheet = await asyncio.to_thread(refusals_sheet, session.backend.store, request)
    lines = [
        RefusalLine(group={name: line[name] for name in by}, **line)
        for line in sheet_document(sheet)["lines"]
    ]
    return ListOf[RefusalLine].page(lines, query, _cursor)


def _once(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _cursor(line: UsageLine | RefusalLine) -> str:
    return "/".join(line.group.values()) or "-"


def _sums(sums: Sums) -> dict[str, Any]:
    percent = sums.margin_percent
    return {
        "requests": sums.requests,
        "quantities": sums.usage,
        "charged": format_amount(sums.charged_nano),
        "corrected": format_amount(sums.corrected_nano),
        "cost": format_amount(sums.cost_nano),
        "without_cost": format_amount(sums.uncosted_nano),
        "margin": format_amount(sums.margin_nano),
        "margin_percent": None if percent is None else str(percent_decimal(percent)),
    }
