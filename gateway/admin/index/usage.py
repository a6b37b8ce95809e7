"""Sums of usage from the index, in the report's own form."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.admin.index.filling import HOUR_MS
from gateway.admin.index.tables import AMOUNTS, SUMS, UNITS
from gateway.operations.report import Report, ReportRequest, Sums, day_of, hour_of

IndexDimension = Literal["customer", "project", "key", "model", "livemode", "mode", "day", "hour"]

_LABELS: Final[Mapping[str, str]] = {
    "customer": "series.customer_id",
    "project": "series.project_id",
    "key": "series.key_id",
    "model": "series.model",
    "livemode": "series.livemode",
    "mode": "series.mode",
}
_TIMES: Final = ("day", "hour")
_ALWAYS_MS: Final = HOUR_MS * 24 * 3_000_000
"""Later than any event."""


@dataclass(frozen=True, slots=True)
class UsageAsked:
    """Which sums. What is None does not matter.

    since_ms, until_ms: Unix ms, from the one on and before the other; both begin an hour
    customer_id:        one account; None is all of them but shadow wallets
    """

    by: tuple[IndexDimension, ...]
    since_ms: int | None = None
    until_ms: int | None = None
    customer_id: str | None = None
    project_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    livemode: bool | None = None
    mode: str | None = None


def indexed(request: ReportRequest) -> UsageAsked | None:
    """The same question to the index; None for one that only the rows can answer."""
    by: list[IndexDimension] = []
    for name in request.by:
        if name not in ("customer", "project", "key", "model", "day", "hour"):
            return None
        by.append(name)  # type: ignore[arg-type]
    if any(bound is not None and bound % HOUR_MS for bound in (request.since_ms, request.until_ms)):
        return None
    return UsageAsked(tuple(by), request.since_ms, request.until_ms, request.customer_id)


def usage(connection: sqlite3.Connection, asked: UsageAsked) -> Report:
    """Sum up. Quantities of zero are left out. Raises sqlite3.Error, ValueError for a time within an
    hour."""
    lines: dict[tuple[str, ...], Sums] = {}
    rows = 0
    connection.execute("BEGIN")  # all parts of one moment
    try:
        for size, first, end in _parts(asked):
            rows += _add(connection, asked, lines, (size, first, end))
    finally:
        connection.execute("COMMIT")
    total = Sums()
    for line in lines.values():
        line.usage = {unit: quantity for unit, quantity in line.usage.items() if quantity}
        total.add(line)
    return Report(asked.by, dict(sorted(lines.items())), total, rows)


def _parts(asked: UsageAsked) -> list[tuple[str, int, int]]:
    """Whole days, and the hours before and after them."""
    since_ms = 0 if asked.since_ms is None else max(0, asked.since_ms)
    until_ms = _ALWAYS_MS if asked.until_ms is None else min(asked.until_ms, _ALWAYS_MS)
    if since_ms % HOUR_MS or until_ms % HOUR_MS:
        raise ValueError("a period of the index begins and ends with an hour")
    first, end = since_ms // HOUR_MS, until_ms // HOUR_MS
    first_day, end_day = -(-first // 24), end // 24
    if "hour" in asked.by or first_day >= end_day:
        return [("hour", first, end)]
    parts = [
        ("day", first_day, end_day),
        ("hour", first, first_day * 24),
        ("hour", end_day * 24, end),
    ]
    return [part for part in parts if part[1] < part[2]]


def _add(
    connection: sqlite3.Connection,
    asked: UsageAsked,
    lines: dict[tuple[str, ...], Sums],
    part: tuple[str, int, int],
) -> int:
    """Add one part to the lines; return the number of events."""
    size, first, end = part
    labels = [_LABELS.get(name) or _time(size, name) for name in asked.by]
    shown = [_SHOWN.get(name, str) for name in asked.by]
    conditions, values = _conditions(asked)
    where = f"WHERE cells.{size} >= ? AND cells.{size} < ?{conditions}"
    group = f" GROUP BY {', '.join(labels) or 'NULL'}"  # by nothing: no line where there is no cell
    count = 0

    def ask(table: str, columns: Sequence[str], group: str) -> list[tuple[Any, ...]]:
        # CROSS JOIN: the cells of the period first, each with its series.
        question = (
            f"SELECT {', '.join([*labels, *columns])} FROM {table} AS cells"  # noqa: S608 - names
            f" CROSS JOIN series ON series.id = cells.series {where}{group}"
        )
        return connection.execute(question, (first, end, *values)).fetchall()

    width = len(labels)
    for found in ask(f"{size}s", [f"sum(cells.{name})" for name in SUMS], group):
        key = tuple(show(value) for show, value in zip(shown, found[:width], strict=True))
        line = lines.setdefault(key, Sums())
        amounts = dict(zip(AMOUNTS, found[width:], strict=False))
        count += amounts["events"]
        line.requests += amounts["requests"]
        line.charged_nano += amounts["charged_nano"]
        line.corrected_nano += amounts["corrected_nano"]
        line.cost_nano += amounts["cost_nano"]
        line.uncosted_nano += amounts["uncosted_nano"]
        line.use(dict(zip(UNITS, found[width + len(AMOUNTS) :], strict=True)))
    grouped = f" GROUP BY {', '.join([*labels, 'cells.unit'])}"
    for found in ask(f"{size}_units", ["cells.unit", "sum(cells.quantity)"], grouped):
        key = tuple(show(value) for show, value in zip(shown, found[:width], strict=True))
        lines[key].use({found[width]: found[width + 1]})
    return count


def _time(size: str, name: str) -> str:
    return "cells.hour / 24" if (size, name) == ("hour", "day") else f"cells.{name}"


def _conditions(asked: UsageAsked) -> tuple[str, list[Any]]:
    wanted = {
        "customer_id": asked.customer_id,
        "project_id": asked.project_id,
        "key_id": asked.key_id,
        "model": asked.model,
        "livemode": asked.livemode,
        "mode": asked.mode,
        "shadow": False if asked.customer_id is None else None,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    return "".join(f" AND series.{name} = ?" for name in given), list(given.values())


_SHOWN: Final[Mapping[str, Callable[[Any], str]]] = {
    "day": day_of,
    "hour": hour_of,
    "livemode": lambda value: {0: "false", 1: "true"}.get(value, ""),
}
