"""`make scale`: the ledger on one server and on clusters, in one run (docs/explanation/scale.md).

    python -m loadtest.scale [--quick] [--rounds 7] [--no-gates]

Writes `reports/growth/scale.json`, and next to it the tables that `loadtest.growth.page` puts into the page.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import orjson
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.figures import table_of
from loadtest.growth.__main__ import write
from loadtest.scale import goals, report
from loadtest.scale.drive import NotServed
from loadtest.scale.gates import Unanswered
from loadtest.scale.run import FULL, QUICK, Run, Size, Steps, measure
from loadtest.scale.servers import SHAPES
from loadtest.topology.node import NodeFailed

_BAR: Final = (
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("{task.description}"),
)


def _size(given: argparse.Namespace) -> Size:
    size = QUICK if given.quick else FULL
    if given.rounds:
        size = replace(size, rounds=given.rounds)
    return replace(size, gate_seconds=0) if given.no_gates else size


def show(run: Run, cores: int, console: Console) -> None:
    """Print the tables, the goals last, where a terminal shows them first."""
    for table in report.tables(run, cores):
        console.print(table.shown())
    for name, share in run.idle.items():
        console.print(f"{name}: {share:.1%} of a core while idle", highlight=False)
    for name, why in run.missing.items():
        last = why.rstrip().splitlines()[-1]
        console.print(f"[yellow]not measured:[/] a gate on {name}: {last}", highlight=False)
    console.print(f"{run.server}, {cores} cores; AOF flushed every second", highlight=False)
    console.print(table_of(goals.figures(run, cores)))


def save(run: Run, cores: int, folder: Path) -> None:
    """Write the JSON files."""
    judged = [figure.document() for figure in goals.figures(run, cores)]
    write({"figures": judged, **report.document(run)}, "scale", folder)
    for table in report.tables(run, cores):
        (folder / f"{table.name}.json").write_bytes(orjson.dumps(table.document()))


def main() -> None:
    """Entry point of `python -m loadtest.scale`."""
    parser = argparse.ArgumentParser(
        prog="loadtest.scale", description="Compare the ledger on one server and on clusters."
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, help="at most")
    parser.add_argument("--no-gates", action="store_true", help="the ledgers alone")
    parser.add_argument("--out", type=Path, default=Path("reports/growth"))
    given = parser.parse_args()
    size = _size(given)
    cores = len(os.sched_getaffinity(0))
    console = Console()
    console.width = max(console.width, report.WIDTH)
    with Progress(*_BAR, console=console, transient=True) as progress:
        task = progress.add_task("starting the servers", total=None)
        steps = Steps(SHAPES, size, lambda what: progress.update(task, description=what, advance=1))
        progress.update(task, total=steps.total)
        try:
            run = uvloop.run(measure(SHAPES, size, steps))
        except (NodeFailed, NotServed, Unanswered) as error:
            raise SystemExit(str(error)) from None
    save(run, cores, given.out)
    show(run, cores, console)
    console.print(f"all samples: {given.out / 'scale.json'}")


if __name__ == "__main__":
    main()
