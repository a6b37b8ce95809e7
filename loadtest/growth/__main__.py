"""`make growth`: what a pair costs the ledger's server as each thing grows, and a worker's memory.

    python -m loadtest.growth [--only customers] [--rounds 7] [--most 100000]

Writes `reports/growth/NAME.json` and a chart each. The charts of the documentation are made with
`--charts docs/charts`.
"""

import argparse
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from loadtest.growth import chart, gate
from loadtest.growth.ledger import DEPTH, Point, measure
from loadtest.growth.places import DIMENSIONS, Dimension
from loadtest.measure import machine_busy_s


def machine() -> dict[str, Any]:
    """Where and when it was measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "busy_s": machine_busy_s(),
    }


def per_tenfold_us(points: Sequence[Point]) -> float | None:
    """µs that a pair costs more for each ten times more: least squares over the least costs."""
    if len(points) < 2:
        return None
    x = [math.log10(point.size) for point in points]
    return statistics.linear_regression(x, [point.least_us for point in points]).slope


def times_first(points: Sequence[Point]) -> list[float]:
    """What each size costs in terms of the first: the median of the rounds' ratios."""
    return [
        statistics.median(
            cost / first for cost, first in zip(point.cpu_us, points[0].cpu_us, strict=True)
        )
        for point in points
    ]


def write(report: dict[str, Any], name: str, folder: Path) -> None:
    """Write a report's JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), **report}
    (folder / f"{name}.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def panels(dimension: Dimension, points: Sequence[Point]) -> list[chart.Panel]:
    """The chart of a dimension: one panel, the least cost, and a band up to the median."""
    sizes = [point.size for point in points]
    cost = chart.Line(
        "least of the rounds",
        sizes,
        [point.least_us for point in points],
        [point.least_us for point in points],
        [point.median_us for point in points],
    )
    return [
        chart.Panel(
            dimension.title,
            f"{dimension.axis} (band: up to the median of the rounds)",
            "CPU µs of the server, a pair",
            [cost],
        )
    ]


def show(dimension: Dimension, points: Sequence[Point], console: Console) -> None:
    """The figures of a dimension, as a table."""
    table = Table(dimension.axis, "least µs", "median µs", "× first", "p50 ms", "made in s", "MB")
    for point, times in zip(points, times_first(points), strict=True):
        table.add_row(
            f"{point.size:,}",
            f"{point.least_us:.1f}",
            f"{point.median_us:.1f}",
            f"{times:.2f}",
            f"{min(point.p50_ms):.2f}",
            f"{point.fill_s:.1f}",
            f"{point.used_bytes / 1e6:.1f}",
        )
    slope = per_tenfold_us(points)
    table.title = dimension.title
    if slope is not None:
        table.title += f": {slope:+.1f} µs for each tenfold"
    console.print(table)


def run(
    dimension: Dimension, pairs: int, rounds: int, binary: str, console: Console
) -> list[Point]:
    """Measure one dimension with its progress shown."""
    with console.status(dimension.title) as status:
        return uvloop.run(
            measure(dimension, pairs=pairs, rounds=rounds, binary=binary, on_step=status.update)
        )


def main() -> None:
    """Entry point of `python -m loadtest.growth`."""
    parser = argparse.ArgumentParser(prog="loadtest.growth", description=__doc__)
    names = [dimension.name for dimension in DIMENSIONS] + list(gate.MEASURED)
    parser.add_argument("--only", action="append", choices=names, help="these alone")
    parser.add_argument("--pairs", type=int, default=8192, help="per round and size")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--most", type=int, help="leave greater sizes out")
    parser.add_argument("--server", default="", help="another server, such as redis-server")
    parser.add_argument("--out", type=Path, default=Path("reports/growth"))
    parser.add_argument("--charts", type=Path, help="where the charts go; beside the reports")
    arguments = parser.parse_args()
    charts = arguments.charts or arguments.out
    chosen = arguments.only or names
    most = arguments.most or math.inf
    console = Console()
    console.width = max(console.width, 100)
    for dimension in DIMENSIONS:
        if dimension.name in chosen:
            sizes = tuple(size for size in dimension.sizes if size <= most)
            points = run(
                replace(dimension, sizes=sizes),
                arguments.pairs,
                arguments.rounds,
                arguments.server,
                console,
            )
            report = {
                "server": arguments.server or "valkey",
                "depth": DEPTH,
                "pairs": arguments.pairs,
                "per_tenfold_us": per_tenfold_us(points),
                "times_first": times_first(points),
                "points": [point.as_json() for point in points],
            }
            write(report, dimension.name, arguments.out)
            chart.draw(panels(dimension, points), charts / f"{dimension.name}.svg")
            show(dimension, points, console)
    for name, measured in gate.MEASURED.items():
        if name in chosen:
            with console.status(name) as status:
                found = measured(most, status.update)
            write(found.report, name, arguments.out)
            chart.draw(found.panels, charts / f"{name}.svg")
            console.print(found.table)
    console.print(f"reports: {arguments.out} · charts: {charts}")


if __name__ == "__main__":
    main()
