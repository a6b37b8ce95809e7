"""Entry point of `make bench` (docs/explanation/benchmark.md): arguments, progress, tables and the JSON file.

python -m loadtest.bench [--quick] [--target gate --target nginx+lua] [--cell "JSON c=32"]
"""

import argparse
import resource
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest import figures as judged
from loadtest import gate
from loadtest.bench import report
from loadtest.bench.cells import CELLS
from loadtest.bench.figures import Run, figures
from loadtest.bench.run import FULL, QUICK, Plan, Size, Steps, measure
from loadtest.bench.sampling import GateFails
from loadtest.bench.stage import Installed, starters

_DESCRIPTORS: Final = 65_536


class Watch:
    """A progress bar that advances by one at the beginning of each step."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(
            *columns, TextColumn("{task.description}"), console=console, transient=True
        )
        self._task = self.progress.add_task("", total=0)
        self._total = 0

    def steps(self) -> Steps:
        """Where a run reports its progress."""
        return Steps(self._expect, self._begin)

    def _expect(self, steps: int) -> None:
        self._total += steps
        self.progress.update(self._task, total=self._total)

    def _begin(self, what: str) -> None:
        self.progress.update(self._task, description=what, advance=1)


def document(run: Run, size: Size) -> dict[str, Any]:
    """The complete run, as JSON values."""
    return {
        "machine": report.machine(),
        "size": asdict(size),
        "contenders": dict(run.report.about),
        "interpreters": {name: str(python) for name, python in run.report.interpreters.items()},
        "could_not": run.faults(),
        "figures": [figure.document() for figure in figures(run)],
        "idle": [asdict(one) for one in run.idles],
        "ledger": [asdict(cost) for cost in run.costs],
        "cells": run.report.document(),
    }


def show(run: Run, console: Console) -> None:
    """Print the tables, the targets last, where a terminal shows them first."""
    console.print(run.report.details())
    console.print(run.report.ratios())
    if run.idles:
        console.print(report.idle_table(run.idles))
    for name, about in run.report.about.items():
        python = run.report.interpreters.get(name)
        console.print(
            f"{name}: {about}" + (f"; runs on {python}" if python else ""), highlight=False
        )
    if warning := report.interpreter_warning(run.report.interpreters.values()):
        console.print(f"[yellow]{warning}[/]", highlight=False)
    for name, why in run.faults().items():
        console.print(f"[yellow]not measured:[/] {name}: {why}", highlight=False)
    console.print(judged.table_of(figures(run)))


def _allow_descriptors() -> None:
    """Let this process and its children open as many files as the machine permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > soft:
        wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="loadtest.bench", description="Compare the gate with its peers."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round, to see that everything runs")
    add("--rounds", type=int, help="at most")
    add("--minutes", type=float, help="begin no further round after this; at least three run")
    add("--seconds", type=float, help="length of a sample")
    add("--streams", type=int, help="idle streams while memory is read; 0 leaves it out")
    add("--pairs", type=int, help="for the ledger's cost; 0 leaves it out")
    add("--target", action="append", default=[], help="contender; all by default")
    add("--cell", action="append", default=[], help="workloads whose name contains this")
    add("--peers", type=Path, default=Path(".venv"), help="peers are in PEERS-hardcap and so on")
    add("--no-bytecodes", action="store_true", help="do not count the interpreter's work")
    add(
        "--gate-command",
        default=shlex.join(gate.GATE_COMMAND),
        help="takes a configuration and --ready-file",
    )
    add("--out", type=Path, default=Path("reports/bench/bench.json"))
    return parser.parse_args(words)


def _size(given: argparse.Namespace) -> Size:
    names = ("rounds", "minutes", "seconds", "streams", "pairs")
    asked = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    size = replace(QUICK if given.quick else FULL, **asked)
    return replace(size, bytecodes=not given.no_bytecodes)


def main() -> None:
    """Run what the arguments ask for."""
    given = _arguments()
    size = _size(given)
    cells = [cell for cell in CELLS if not given.cell or any(c in cell.name for c in given.cell)]
    _allow_descriptors()
    console = Console()
    console.width = max(console.width, report.WIDTH)
    watch = Watch(console)
    start = partial(
        starters,
        installed=Installed(given.peers.absolute()),
        gate_command=shlex.split(given.gate_command),
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as name, watch.progress:
        try:
            run = measure(Path(name), Plan(cells, given.target, size), start, watch.steps())
        except (GateFails, gate.GateFailed) as fault:
            raise SystemExit(str(fault)) from None
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(orjson.dumps(document(run, size), option=orjson.OPT_INDENT_2))
    show(run, console)
    console.print(f"all samples: {given.out}")


if __name__ == "__main__":
    main()
