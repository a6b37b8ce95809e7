"""The gate beside its peers, in one run: `make bench` (docs/explanation/benchmark.md).

    python -m loadtest.bench [--quick] [--target gate --target nginx+lua] [--cell "JSON c=32"]

Invariants: every figure is compared with what ran in the same minutes: contenders take turns in every
round, medians over quiet samples, ratios first.
"""

import argparse
import contextlib
import resource
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson
import redis
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest import figures as judged
from loadtest import gate, ledger_cost
from loadtest.bench import idle, report
from loadtest.bench.cells import CELLS, Cell
from loadtest.bench.figures import Run, figures
from loadtest.bench.report import Report
from loadtest.bench.sampling import Bench, GateFails
from loadtest.bench.stage import (
    Cores,
    Ground,
    Installed,
    Start,
    ground,
    on_cores,
    started,
    starters,
    world,
)
from loadtest.children import NotStarted
from loadtest.nginx import NginxFailed, NginxMissing
from loadtest.peers import hardcap, nginx_lua, ours
from loadtest.peers.target import Missing, Target, World

_WEIGHED: Final = (ours.NAME, nginx_lua.NAME, hardcap.NAME)
"""Contenders whose waiting streams are weighed."""
_DESCRIPTORS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. streams: that wait while memory is read; pairs: of the ledger's cost."""

    rounds: int
    seconds: float
    warm_s: float
    streams: int
    pairs: int
    ledger_rounds: int


FULL: Final = Size(5, 1.5, 0.5, 2000, 1024, 5)
QUICK: Final = Size(1, 0.3, 0.2, 64, 64, 1)


class Watch:
    """The progress bar, one step for whatever was announced."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(
            *columns, TextColumn("{task.description}"), console=console, transient=True
        )
        self._task = self.progress.add_task("", total=0)
        self._steps = 0

    def expect(self, steps: int) -> None:
        """So many more steps will be told."""
        self._steps += steps
        self.progress.update(self._task, total=self._steps)

    def tell(self, what: str) -> None:
        """A step begins."""
        self.progress.update(self._task, description=what, advance=1)


def measure(
    folder: Path,
    *,
    cells: Sequence[Cell],
    targets: Sequence[str],
    size: Size,
    installed: Installed,
    gate_command: Sequence[str],
    watch: Watch,
) -> Run:
    """Everything of a run, in this empty folder. Raises GateFails, GateFailed."""
    cores = Cores.of_this_process()
    with on_cores(cores.rest), ground(folder) as on:
        every = starters(cores, on, installed, gate_command)
        chosen = {name: start for name, start in every.items() if not targets or name in targets}
        weighed = {name: chosen[name] for name in _WEIGHED if name in chosen}
        watch.expect(len(weighed) * 2 * bool(size.streams) + len(chosen))
        run = _loaded(folder, on, cores, chosen, cells, size, watch)
        if size.streams:
            _weigh(run, folder, on, cores, weighed, size.streams, watch)
    if size.pairs:
        binaries = ledger_cost.servers()
        watch.expect(len(binaries) * len(ledger_cost.CASES) * size.ledger_rounds)
        run.costs = ledger_cost.measure_all(
            binaries,
            pairs=size.pairs,
            rounds=size.ledger_rounds,
            depths=[8],
            on_sample=lambda: watch.tell("the ledger's cost"),
        )
    return run


def _loaded(
    folder: Path,
    on: Ground,
    cores: Cores,
    chosen: Mapping[str, Start],
    cells: Sequence[Cell],
    size: Size,
    watch: Watch,
) -> Run:
    with (
        world(folder / "load", on) as (stand, store_pid),
        started(stand, cores, chosen, lambda name: watch.tell(f"starting {name}")) as (
            targets,
            missing,
        ),
        redis.Redis(unix_socket_path=str(stand.redis)) as client,
    ):
        bench = Bench(size.seconds, client, [*on.pids, store_pid], targets, ours.NAME)
        watch.expect(len(cells) * len(targets) * (size.rounds + 1))

        async def all_rounds() -> None:
            await bench.warm(cells, size.warm_s, watch.tell)
            for number in range(size.rounds):
                await bench.round(cells, number, watch.tell)

        uvloop.run(all_rounds())
    names = [target.name for target in targets]
    about = {target.name: target.about for target in targets}
    return Run(Report(cells, names, bench.samples, missing, bench.failed, about))


def _weigh(
    run: Run,
    folder: Path,
    on: Ground,
    cores: Cores,
    weighed: Mapping[str, Start],
    streams: int,
    watch: Watch,
) -> None:
    idles: list[idle.Idle] = []
    for name, start in weighed.items():
        for upstream in on.upstreams:
            watch.tell(f"waiting streams: {name}, {upstream} upstream")
            home = folder / f"idle-{len(idles)}-{upstream}-{name}"
            try:
                with world(home, on) as (stand, _), _on_proxy(start, stand, cores) as target:
                    idles.append(uvloop.run(idle.measure(target, upstream, streams)))
            except (
                Missing,
                NginxMissing,
                NginxFailed,
                NotStarted,
                OSError,
                TimeoutError,
                EOFError,
            ) as error:
                run.idle_faults[name, upstream] = repr(error)
    run.idles = idles


@contextlib.contextmanager
def _on_proxy(start: Start, stand: World, cores: Cores) -> Iterator[Target]:
    """This contender on the contenders' cores."""
    with contextlib.ExitStack() as stack:
        with on_cores(cores.proxy):
            target = stack.enter_context(start(stand))
        yield target


def _allow_descriptors() -> None:
    """Let this process and its children open as many files as the machine permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > soft:
        wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def document(run: Run, size: Size) -> dict[str, Any]:
    """The whole run, as JSON values."""
    return {
        "machine": report.machine(),
        "size": asdict(size),
        "contenders": dict(run.report.about),
        "could_not": run.faults(),
        "figures": [figure.document() for figure in figures(run)],
        "idle": [asdict(one) for one in run.idles],
        "ledger": [asdict(cost) for cost in run.costs],
        "cells": run.report.document(),
    }


def show(run: Run, console: Console) -> None:
    """Print the tables, what is judged first."""
    console.print(judged.table_of(figures(run)))
    console.print(run.report.ratios())
    console.print(run.report.details())
    if run.idles:
        console.print(report.idle_table(run.idles))
    for name, about in run.report.about.items():
        console.print(f"{name}: {about}", highlight=False)
    for name, why in run.faults().items():
        console.print(f"[yellow]could not:[/] {name}: {why}", highlight=False)


def main() -> None:
    """Entry point of `python -m loadtest.bench`."""
    parser = argparse.ArgumentParser(
        prog="loadtest.bench", description="The gate beside its peers."
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round: to see that all runs"
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each sample")
    parser.add_argument(
        "--streams", type=int, help="that wait while memory is read; 0 leaves it out"
    )
    parser.add_argument("--pairs", type=int, help="for the ledger's cost; 0 leaves it out")
    parser.add_argument("--target", action="append", default=[], help="contender; all by default")
    parser.add_argument("--cell", action="append", default=[], help="workloads that contain this")
    parser.add_argument("--hardcap", type=Path, default=Path(".venv-hardcap/bin/python"))
    parser.add_argument("--litellm", type=Path, default=Path(".venv-litellm/bin/python"))
    parser.add_argument("--portkey", type=Path, default=Path(".venv-portkey"))
    parser.add_argument(
        "--gate-command",
        default=shlex.join(gate.GATE_COMMAND),
        help="takes a configuration and --ready-file",
    )
    parser.add_argument("--out", type=Path, default=Path("reports/bench/bench.json"))
    given = parser.parse_args()
    asked = {name: getattr(given, name) for name in ("rounds", "seconds", "streams", "pairs")}
    size = replace(
        QUICK if given.quick else FULL,
        **{name: value for name, value in asked.items() if value is not None},
    )
    cells = [cell for cell in CELLS if not given.cell or any(c in cell.name for c in given.cell)]
    installed = Installed(
        given.hardcap.absolute(), given.litellm.absolute(), given.portkey.absolute()
    )
    _allow_descriptors()
    console = Console()
    console.width = max(console.width, report.WIDTH)
    watch = Watch(console)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, watch.progress:
        try:
            run = measure(
                Path(name),
                cells=cells,
                targets=given.target,
                size=size,
                installed=installed,
                gate_command=shlex.split(given.gate_command),
                watch=watch,
            )
        except (GateFails, gate.GateFailed) as fault:
            raise SystemExit(str(fault)) from None
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(orjson.dumps(document(run, size), option=orjson.OPT_INDENT_2))
    show(run, console)
    console.print(f"all samples: {given.out}")


if __name__ == "__main__":
    main()
