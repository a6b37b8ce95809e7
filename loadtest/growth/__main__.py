"""`make growth`: what a pair costs the ledger's server as each thing grows, and a worker's memory.

    python -m loadtest.growth [--only customers] [--rounds 7] [--most 100000]

Writes `reports/growth/NAME.json` and a chart each. The charts of the documentation are made with
`--charts docs/charts`.
"""

import argparse
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import uvloop
from rich.console import Console
from rich.table import Table

from loadtest.growth import chart, directory, gate, page
from loadtest.growth.ledger import DEPTH, Measured, measure
from loadtest.growth.places import DIMENSIONS, Dimension

OF_GATES = {**gate.MEASURED, **directory.MEASURED}


def machine() -> dict[str, Any]:
    """Where and when it was measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
    }


def write(report: dict[str, Any], name: str, folder: Path) -> None:
    """Write a report's JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), **report}
    (folder / f"{name}.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def panels(dimension: Dimension, measured: Sequence[Measured]) -> list[chart.Panel]:
    """The chart of a dimension: the least cost on each server, with a band up to the median."""
    lines = [
        chart.Line(
            of.server,
            [point.size for point in of.points],
            [point.least_us for point in of.points],
            [point.least_us for point in of.points],
            [point.median_us for point in of.points],
        )
        for of in measured
    ]
    axis = f"{dimension.axis} (band: from the least to the median of the rounds)"
    return [chart.Panel(dimension.title, axis, "CPU µs of the server, a pair", lines)]


def summary(dimension: Dimension, measured: Sequence[Measured]) -> dict[str, Any]:
    """What the documentation tells: on each server the least cost and how it compares."""
    columns = [dimension.axis]
    columns += [head for of in measured for head in (f"{of.server}: µs", "× the first")]
    sizes = [point.size for point in measured[0].points]
    rows = [
        [f"{size:,}"]
        + [
            cell
            for of in measured
            for cell in (f"{of.points[at].least_us:.0f}", f"{of.times_first()[at]:.2f}")
        ]
        for at, size in enumerate(sizes)
    ]
    return page.table(columns, rows)


def show(dimension: Dimension, measured: Sequence[Measured], console: Console) -> None:
    """The figures of a dimension, as a table."""
    table = Table(
        "server", dimension.axis, "least µs", "median µs", "× first", "p50 ms", "made, s", "MB"
    )
    for of in measured:
        table.add_section()
        for point, times in zip(of.points, of.times_first(), strict=True):
            table.add_row(
                of.server if point is of.points[0] else "",
                f"{point.size:,}",
                f"{point.least_us:.1f}",
                f"{point.median_us:.1f}",
                f"{times:.2f}",
                f"{min(point.p50_ms):.2f}",
                f"{point.fill_s:.1f}",
                f"{point.used_bytes / 1e6:.1f}",
            )
    table.title = dimension.title
    console.print(table)


def run(
    dimension: Dimension, pairs: int, rounds: int, servers: Sequence[str], console: Console
) -> list[Measured]:
    """Measure one dimension on each server with its progress shown."""
    with console.status(dimension.title) as status:
        return [
            uvloop.run(
                measure(dimension, pairs=pairs, rounds=rounds, binary=of, on_step=status.update)
            )
            for of in servers
        ]


def main() -> None:
    """Entry point of `python -m loadtest.growth`."""
    parser = argparse.ArgumentParser(prog="loadtest.growth", description=__doc__)
    names = [dimension.name for dimension in DIMENSIONS] + list(OF_GATES)
    parser.add_argument("--only", action="append", choices=names, help="these alone")
    parser.add_argument("--pairs", type=int, default=8192, help="per round and size")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--most", type=int, help="leave greater sizes out")
    parser.add_argument("--server", action="append", help="binaries; the embedded one's is empty")
    parser.add_argument("--out", type=Path, default=Path("reports/growth"))
    parser.add_argument(
        "--charts", type=Path, help="where the charts go; default: next to the reports"
    )
    arguments = parser.parse_args()
    charts = arguments.charts or arguments.out
    chosen = arguments.only or names
    most = arguments.most or math.inf
    console = Console()
    console.width = max(console.width, 100)
    for dimension in DIMENSIONS:
        if dimension.name in chosen:
            sizes = tuple(size for size in dimension.sizes if size <= most)
            measured = run(
                replace(dimension, sizes=sizes),
                arguments.pairs,
                arguments.rounds,
                arguments.server or [""],
                console,
            )
            report = {
                "depth": DEPTH,
                "pairs": arguments.pairs,
                "measured": [of.as_json() for of in measured],
                "table": summary(dimension, measured),
            }
            write(report, dimension.name, arguments.out)
            chart.draw(panels(dimension, measured), charts / f"{dimension.name}.svg")
            show(dimension, measured, console)
    for name, of_gate in OF_GATES.items():
        if name in chosen:
            with console.status(name) as status:
                found = of_gate(most, status.update)
            told = page.table(found.columns, found.rows)
            write({**found.report, "table": told}, name, arguments.out)
            chart.draw(found.panels, charts / f"{name}.svg")
            shown = Table(*found.columns)
            for row in found.rows:
                shown.add_row(*row)
            console.print(shown)
    console.print(f"reports: {arguments.out} · charts: {charts}")


if __name__ == "__main__":
    main()
