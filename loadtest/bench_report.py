"""What a bench run says: a table with the ratios first, and JSON with every sample.

Law: a target is a ratio to what ran in the same minutes, or a cost inside Redis; a figure
from another day never decides. The gate's peer is nginx with a Lua gate. Where that is not
installed the ratio to plain nginx is judged by how far above it such a peer stood when both were
measured together (`_LUA_OVER_PLAIN`).
"""

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtest.measure import Sample, median, quiet

WIDTH: Final = 128
"""Columns of a terminal, or of a file, that the tables need."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One column: a workload and the upstream behind it ("plain" or "tls")."""

    name: str
    upstream: str
    stream: bool
    connections: int
    itl_ms: int


_LUA_OVER_PLAIN: Final[Mapping[str, float]] = {
    "JSON c=32": 138 / 24,
    "JSON c=256": 154 / 36,
    "SSE burst c=32": 207 / 67,
    "paced SSE c=100": 1719 / 1406,
}
"""CPU per request of nginx with a Lua gate (its best variant) over plain nginx's, one run."""

_OF_LUA: Final[Mapping[str, tuple[float, float]]] = {
    "JSON c=32": (1.0, 0.65),
    "JSON c=256": (1.0, 0.65),
    "SSE burst c=32": (1.0, 0.85),
    "paced SSE c=100": (1.6, 1.1),
}
"""The gate's CPU per request over nginx with Lua's: at most (must, aim)."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One judged figure; lower is better. verdict: "aim met", "must met" or "missed"."""

    name: str
    value: float
    must: float
    aim: float

    @property
    def verdict(self) -> str:
        """How the figure stands."""
        if self.value <= self.aim:
            return "aim met"
        return "must met" if self.value <= self.must else "missed"


@dataclass(slots=True)
class Report:
    """The samples of a run, by cell and target."""

    cells: list[Cell]
    targets: list[str]
    samples: dict[tuple[str, str], list[Sample]]

    def believed(self, cell: Cell, target: str) -> tuple[list[Sample], bool]:
        """The quiet samples, and whether there were enough of them."""
        return quiet(self.samples.get((cell.name, target), []))

    def cpu_us(self, cell: Cell, target: str) -> float:
        """Median CPU microseconds per answer."""
        return median(self.believed(cell, target)[0], attrgetter("cpu_us"))

    def ratio(self, cell: Cell, peer: str = "nginx") -> float | None:
        """The gate's CPU per answer over a peer's; None where that did not run."""
        if peer not in self.targets or not self.cpu_us(cell, peer):
            return None
        return self.cpu_us(cell, "gate") / self.cpu_us(cell, peer)

    def figures(self) -> list[Figure]:
        """What the performance targets say of this run."""
        found = []
        for cell in self.cells:
            workload = cell.name.partition(",")[0]
            to_lua, to_plain = self.ratio(cell, "nginx+lua"), self.ratio(cell)
            must, aim = _OF_LUA[workload]
            if to_lua is not None and cell.upstream == "plain":
                name = f"gateway CPU over nginx with Lua's, {workload}"
                found.append(Figure(name, to_lua, must, aim))
            elif to_plain is not None and cell.upstream == "plain":
                name, above = (
                    f"gateway CPU over plain nginx's, {workload}",
                    _LUA_OVER_PLAIN[workload],
                )
                found.append(Figure(name, to_plain, must * above, aim * above))
            if workload == "JSON c=256":
                samples, _ = self.believed(cell, "gate")
                value = median(samples, attrgetter("redis_us"))
                name = f"Redis CPU µs per reserve+settle pair, one scope, one grant; {cell.name}"
                found.append(Figure(name, value, 65, 50))
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "system": platform.platform(),
                "python": platform.python_version(),
                "cores": os.cpu_count(),
            },
            "figures": [
                {**dataclasses.asdict(figure), "verdict": figure.verdict}
                for figure in self.figures()
            ],
            "cells": [
                {
                    "cell": cell.name,
                    "target": target,
                    "gate_over_nginx": self.ratio(cell) if target == "gate" else None,
                    "quiet": self.believed(cell, target)[1],
                    "medians": _medians(self.believed(cell, target)[0]),
                    "samples": [
                        dataclasses.asdict(sample)
                        for sample in self.samples.get((cell.name, target), [])
                    ],
                }
                for cell in self.cells
                for target in self.targets
            ],
        }


def _medians(samples: Sequence[Sample]) -> dict[str, float]:
    return {
        figure.name: median(samples, attrgetter(figure.name))
        for figure in dataclasses.fields(Sample)
    }


def show(report: Report, console: Console) -> None:
    """Print the tables."""
    judged = Table("figure (lower is better)", "here", "must", "aim", "", title="Targets")
    for figure in report.figures():
        colour = {"aim met": "green", "must met": "yellow"}.get(figure.verdict, "red")
        judged.add_row(
            figure.name,
            f"{figure.value:.2f}",
            f"≤ {figure.must:.2f}",
            f"≤ {figure.aim:.2f}",
            f"[{colour}]{figure.verdict}",
        )
    console.print(judged)
    title = "Medians of quiet samples, per answer; compare inside one workload only"
    table = Table(title=title, caption="CPU, others, Redis, scripts in µs; the rest in ms")
    table.add_column("workload and target", no_wrap=True, min_width=31)
    for name in ("× nginx", "CPU", "others", "Redis", "scripts"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("a second", "p50", "p99", "first byte", "quiet"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in report.cells:
        table.add_row(f"[bold]{cell.name}")
        for target in report.targets:
            table.add_row(*_row(report, cell, target), end_section=target == report.targets[-1])
    console.print(table)


def _row(report: Report, cell: Cell, target: str) -> list[str]:
    samples, calm = report.believed(cell, target)
    figures = _medians(samples)
    ratio = report.ratio(cell) if target == "gate" else None
    all_samples = report.samples.get((cell.name, target), [])
    return [
        f"  {target}",
        "" if ratio is None else f"{ratio:.2f}",
        _cost(figures["cpu_us"]),
        _cost(figures["other_cpu_us"]),
        _cost(figures["redis_us"]),
        _cost(figures["scripts_us"]),
        f"{figures['per_second']:,.0f}",
        f"{figures['p50_ms']:.2f}",
        f"{figures['p99_ms']:.2f}",
        f"{figures['first_byte_p50_ms']:.2f}",
        f"{len(samples)}/{len(all_samples)}" if calm else "[red]noisy",
    ]


def _cost(value: float) -> str:
    return f"{value:,.0f}" if value else "–"
