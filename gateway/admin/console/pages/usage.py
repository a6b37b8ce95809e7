"""Usage and margin by customer, model, key, project or day, as a table, a chart and CSV."""

import csv
import datetime as dt
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console import text
from gateway.admin.console.charts import Drawn, Frame, bar_chart
from gateway.admin.console.rendering import PREFIX, page
from gateway.admin.context import context_of
from gateway.admin.index.filling import HOUR_MS
from gateway.domain.money import NANO_PER_CREDIT
from gateway.domain.stores import StoreMissing
from gateway.operations.report import (
    Report,
    ReportRequest,
    Sums,
    day_of,
    hour_of,
    margin_sheet,
    usage_sheet,
)
from gateway.operations.sheets import Sheet, csv_cell

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Viewer = Annotated[Session, Depends(require("usage.read"))]

PERIODS: Final = {
    "24h": "Last 24 hours",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "month": "This month",
    "custom": "From … until",
}
GROUPS: Final = ("customer", "model", "key", "project", "day")
SORTS: Final = ("label", "requests", "charged", "cost", "margin", "percent")
SHOWN: Final = 200
BARS_MOST: Final = 400
_DAY_MS: Final = 86_400_000


class UsageForm(BaseModel):
    """The form."""

    by: Literal["customer", "model", "key", "project", "day"] = "customer"
    period: Literal["24h", "7d", "30d", "month", "custom"] = "7d"
    since: Annotated[str, Field(max_length=10)] = ""
    until: Annotated[str, Field(max_length=10)] = ""
    customer: Annotated[str, Field(max_length=200)] = ""
    sort: Literal["label", "requests", "charged", "cost", "margin", "percent"] | None = None
    order: Literal["asc", "desc"] | None = None

    def bounds(self, now_ms: int) -> tuple[int, int]:
        """From when on and before when, Unix ms; both begin an hour."""
        end_ms = (now_ms // HOUR_MS + 1) * HOUR_MS
        if self.period == "custom":
            since, until = _day_ms(self.since), _day_ms(self.until)
            return since or 0, until + _DAY_MS if until is not None else end_ms
        if self.period == "month":
            now = dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)
            first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            return int(first.timestamp() * 1000), end_ms
        days = {"24h": 1, "7d": 7, "30d": 30}[self.period]
        return end_ms - days * _DAY_MS, end_ms

    def query(self, **changes: str) -> str:
        """The form as a query string."""
        said = {**self.model_dump(exclude_none=True), **changes}
        return urlencode({name: value for name, value in said.items() if value})


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    label: str
    sums: Sums


@dataclass(frozen=True, slots=True)
class Heading:
    """A column that the table can be sorted by. sorted: `ascending`, `descending` or "" """

    name: str
    label: str
    query: str
    sorted: str


@dataclass(frozen=True, slots=True)
class UsageView:
    """The page. problem: why the store cannot be read"""

    form: UsageForm
    lines: Sequence[Line]
    total: Sums
    headings: Sequence[Heading]
    chart: Drawn | None
    chart_of: str
    csv_query: str
    left_out: int
    problem: str = ""
    section: str = "usage"


@router.get("/usage")
async def show(request: Request, session: Viewer, form: Annotated[UsageForm, Query()]) -> Response:
    """The page."""
    try:
        made, daily = await _read(request, form)
    except StoreMissing as missing:
        empty = UsageView(form, (), Sums(), (), None, "", "", 0, str(missing))
        return page(request, session, "usage.html", empty)
    lines = _sorted(made, form)
    hourly = form.period == "24h"
    values = [
        (label[11:16] if hourly else label[5:], charged_nano / NANO_PER_CREDIT)
        for label, charged_nano in _without_gaps(daily, hourly)
    ]
    view = UsageView(
        form,
        lines[:SHOWN],
        made.total,
        _headings(form),
        bar_chart(values, Frame(text.rounded, height=180)),
        "hour" if hourly else "day",
        form.query(),
        max(0, len(lines) - SHOWN),
        context_of(request).index.problem,
    )
    return page(request, session, "usage.html", view)


@router.get("/usage.csv")
async def download(
    request: Request,
    _: Viewer,
    form: Annotated[UsageForm, Query()],
    sheet: Literal["usage", "margin"] = "margin",
) -> Response:
    """The same as CSV, with every line; amounts as exact decimals."""
    made, _daily = await _read(request, form)
    chosen = usage_sheet(made) if sheet == "usage" else margin_sheet(made)
    name = f"{sheet}-by-{form.by}.csv"
    return Response(
        _csv(chosen),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


async def _read(request: Request, form: UsageForm) -> tuple[Report, Report]:
    """By the chosen dimension, and over time. Raises StoreMissing, OperationError."""
    index = context_of(request).index
    since_ms, until_ms = form.bounds(time.time_ns() // 1_000_000)
    customer_id = form.customer.strip() or None
    over = "hour" if form.period == "24h" else "day"
    made, timed = [
        await index.report(ReportRequest((by,), since_ms, until_ms, customer_id))
        for by in (form.by, over)
    ]
    return made, timed


def _without_gaps(over: Report, hourly: bool) -> list[tuple[str, int]]:
    """What was charged in each hour or day from the first to the last, those without sales too."""
    if not over.lines:
        return []
    name, size_s = (hour_of, 3600) if hourly else (day_of, 86_400)
    labels = [label for (label,) in over.lines]
    first, last = (
        int(dt.datetime.fromisoformat(label).replace(tzinfo=dt.UTC).timestamp()) // size_s
        for label in (labels[0], labels[-1])
    )
    if last - first > BARS_MOST:
        return [(label, over.lines[(label,)].charged_nano) for label in labels]
    none = Sums()
    return [
        (name(number), over.lines.get((name(number),), none).charged_nano)
        for number in range(first, last + 1)
    ]


def _sorted(made: Report, form: UsageForm) -> list[Line]:
    lines = [Line(label, sums) for (label,), sums in made.lines.items()]
    by, order = _order(form)
    keys = {
        "label": lambda line: line.label,
        "requests": lambda line: line.sums.requests,
        "charged": lambda line: line.sums.charged_nano + line.sums.corrected_nano,
        "cost": lambda line: line.sums.cost_nano,
        "margin": lambda line: line.sums.margin_nano,
        "percent": lambda line: line.sums.margin_percent or 0,
    }
    return sorted(lines, key=keys[by], reverse=order == "desc")


def _order(form: UsageForm) -> tuple[str, str]:
    """Days in their order, everything else by what it sold."""
    by = form.sort or ("label" if form.by == "day" else "charged")
    return by, form.order or ("asc" if by == "label" and form.by != "day" else "desc")


def _headings(form: UsageForm) -> list[Heading]:
    by, order = _order(form)
    labels = {
        "label": form.by.capitalize(),
        "requests": "Requests",
        "charged": "Charged",
        "cost": "Cost",
        "margin": "Margin",
        "percent": "Margin %",
    }
    headings = []
    for name, label in labels.items():
        here = name == by
        turned = "asc" if here and order == "desc" else "desc"
        state = ("ascending" if order == "asc" else "descending") if here else ""
        headings.append(Heading(name, label, form.query(sort=name, order=turned), state))
    return headings


def _csv(sheet: Sheet) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([column.name for column in sheet.columns])
    for row in sheet.rows:
        pairs = zip(row, sheet.columns, strict=True)
        writer.writerow([csv_cell(value, column.kind) for value, column in pairs])
    return out.getvalue()


def _day_ms(written: str) -> int | None:
    try:
        day = dt.date.fromisoformat(written)
    except ValueError:
        return None
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp() * 1000)
