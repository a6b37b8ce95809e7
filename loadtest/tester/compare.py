"""Two reports side by side: what the second one changed.

Invariants: figures are compared, never judged to be noise; what only one report has is left blank.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from loadtest.tester.live import SERIES_NAMES
from loadtest.tester.report import Report, Stage
from loadtest.tester.targets import show_ms


def rows(before: Report, after: Report) -> Iterator[tuple[str, float | None, float | None, str]]:
    """Name, both values and their unit (ms, share, number), figure by figure."""
    old, new = before.headline, after.headline
    if "search" in (before.shape, after.shape):
        yield "highest rate that meets the targets", before.found_rate, after.found_rate, "number"
    yield "answers a second", old.gate.per_second, new.gate.per_second, "number"
    yield "errors", _share(old, "errors"), _share(new, "errors"), "share"
    yield "refused", _share(old, "refused"), _share(new, "refused"), "share"
    for series, name in SERIES_NAMES.items():
        for percent in ("p50", "p99", "p99.9"):
            values = [_latency(one, series, percent) for one in (old, new)]
            yield f"{name} {percent}", values[0], values[1], "ms"
        for percent in ("p50", "p99"):
            added = [one.added_ms.get(series, {}).get(percent) for one in (old, new)]
            yield f"{name} {percent}, added", added[0], added[1], "ms"
    ours, theirs = ({one.name: one for one in stage.processes} for stage in (old, new))
    for name in dict.fromkeys([*ours, *theirs]):
        costs = [found[name].per_answer_us if name in found else None for found in (ours, theirs)]
        costs_ms = [None if cost is None else cost / 1e3 for cost in costs]
        yield f"CPU of {name} for an answer", costs_ms[0], costs_ms[1], "ms"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of both reports, as people read it."""

    name: str
    before: str
    after: str
    change: str


def shown(before: Report, after: Report) -> list[Row]:
    """The figures that at least one of them has."""
    return [
        Row(name, _show(old, unit), _show(new, unit), change(old, new))
        for name, old, new, unit in rows(before, after)
        if old is not None or new is not None
    ]


def unlike(before: Report, after: Report) -> list[str]:
    """In what the two were not alike, so that a change may be due to that."""
    found = [
        name
        for name in ("rate", "until_rate", "connections", "seconds")
        if getattr(before.headline, name) != getattr(after.headline, name)
    ]
    return [*found, "machine"] if before.machine != after.machine else found


def comparison(before: Report, after: Report) -> Group:
    """The two as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("figure", "before", "after", "change"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for row in shown(before, after):
        table.add_row(row.name, row.before, row.after, row.change)
    heads = [
        Text(f"{what}: {report.title}, {report.at}, {report.headline.name}, {report.url}", "dim")
        for what, report in (("before", before), ("after", after))
    ]
    differ = unlike(before, after)
    notes = [Text(f"! they differ in {', '.join(differ)}", "yellow")] if differ else []
    return Group(*heads, *notes, Text(), table)


def change(old: float | None, new: float | None) -> str:
    """By how much the second differs."""
    if old is None or new is None:
        return ""
    if old == new:
        return "="
    return f"{(new - old) / old:+.0%}" if old > 0 else ""


def _share(stage: Stage, kind: str) -> float | None:
    count: int = getattr(stage.gate, kind)
    return count / stage.gate.ended if stage.gate.ended else None


def _latency(stage: Stage, series: str, percent: str) -> float | None:
    found = stage.gate.latencies.get(series)
    return found.percentiles_ms[percent] if found else None


def _show(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "ms":
        return show_ms(value)
    return f"{value:.2%}" if unit == "share" else f"{value:,.1f}"
