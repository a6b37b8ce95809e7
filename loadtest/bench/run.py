"""One run of the benchmark: memory and the ledger's cost first, then rounds of samples for the time left.

Invariants: what cannot be measured is kept as a fault, in words, and ends nothing but itself; a gate
that gives no good answer ends the run.
"""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis
import uvloop

from loadtest import ledger_cost
from loadtest.bench import idle
from loadtest.bench.cells import JSON_32, Cell
from loadtest.bench.figures import Run
from loadtest.bench.report import Report
from loadtest.bench.sampling import Bench
from loadtest.bench.stage import (
    PLAIN_ONLY,
    Cores,
    Ground,
    Start,
    ground,
    on_cores,
    started,
    world,
)
from loadtest.children import NotStarted
from loadtest.nginx import NginxFailed, NginxMissing
from loadtest.peers import hardcap, nginx_lua, ours
from loadtest.peers.target import Missing, Target, World

_WEIGHED: Final = (ours.NAME, nginx_lua.NAME, hardcap.NAME)
"""Contenders whose idle streams are weighed."""
_LEAST_ROUNDS: Final = 3
_LEDGER_DEPTH: Final = 8
_BYTECODES_S: Final = 300.0

Starters = Callable[[Cores, Ground], dict[str, Start]]
OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    rounds:     samples of each contender in each workload, at most
    minutes:    after which no further round begins, unless fewer than three have been measured
    seconds:    length of a sample; `warm_s` of an unmeasured one
    streams:    idle streams while memory is read; 0 leaves memory out
    pairs:      reserve+settle pairs in a round of the ledger's cost; 0 leaves it out
    bytecodes:  whether the interpreter's work per request is counted
    """

    rounds: int
    minutes: float
    seconds: float
    warm_s: float
    streams: int
    pairs: int
    ledger_rounds: int
    bytecodes: bool = True


FULL: Final = Size(5, 15, 1.0, 0.5, 2000, 1024, 5)
QUICK: Final = Size(1, 15, 0.3, 0.2, 64, 64, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. targets: names of contenders; all of them when empty."""

    cells: Sequence[Cell]
    targets: Sequence[str]
    size: Size

    def takes(self, contender: str) -> bool:
        """Whether this contender takes part."""
        return not self.targets or contender in self.targets


@dataclass(frozen=True, slots=True)
class Steps:
    """Where progress is reported: `expect` so many more steps, `begin` the next one by its name."""

    expect: Callable[[int], None] = lambda _steps: None
    begin: OnStep = lambda _what: None


def measure(
    folder: Path,
    plan: Plan,
    starters: Starters,
    steps: Steps,
) -> Run:
    """Measure everything, in this empty folder. Raises GateFails, GateFailed."""
    size = plan.size
    deadline_s = time.monotonic() + size.minutes * 60
    cores = Cores.of_this_process()
    run = Run(Report(plan.cells, ()))
    with on_cores(cores.rest), ground(folder) as on:
        every = starters(cores, on)
        chosen = {name: start for name, start in every.items() if plan.takes(name)}
        steps.expect(len(chosen))
        if size.bytecodes and ours.NAME in chosen:
            _count_bytecodes(run, steps)
        if size.pairs:
            _cost_ledger(run, size, steps)
        if size.streams:
            weighed = {name: chosen[name] for name in _WEIGHED if name in chosen}
            _weigh(run, _Place(folder, on, cores), weighed, size.streams, steps)
        run.report = _loaded(_Place(folder, on, cores), chosen, plan, deadline_s, steps)
    return run


@dataclass(frozen=True, slots=True)
class _Place:
    folder: Path
    on: Ground
    cores: Cores


def _loaded(
    place: _Place,
    chosen: Mapping[str, Start],
    plan: Plan,
    deadline_s: float,
    steps: Steps,
) -> Report:
    cells, size = plan.cells, plan.size
    with (
        world(place.folder / "load", place.on) as (stand, store_pid),
        started(stand, place.cores, chosen, lambda name: steps.begin(f"starting {name}")) as (
            targets,
            missing,
        ),
        redis.Redis(unix_socket_path=str(stand.redis)) as client,
    ):
        around = [*place.on.pids, store_pid]
        bench = Bench(size.seconds, client, around, targets, ours.NAME, PLAIN_ONLY)
        steps.expect(bench.samples_of(cells) * (size.rounds + 1))

        async def all_rounds() -> None:
            await bench.warm(cells, size.warm_s, steps.begin)
            for number in range(size.rounds):
                began_s = time.monotonic()
                await bench.round(cells, number, steps.begin)
                now_s = time.monotonic()
                if number + 1 >= _LEAST_ROUNDS and now_s + (now_s - began_s) > deadline_s:
                    return

        uvloop.run(all_rounds())
    return Report(
        cells,
        [target.name for target in targets],
        bench.samples,
        missing,
        bench.failed,
        {target.name: target.about for target in targets},
        {target.name: target.python for target in targets if target.python},
    )


def _weigh(
    run: Run, place: _Place, weighed: Mapping[str, Start], streams: int, steps: Steps
) -> None:
    steps.expect(len(weighed) * len(place.on.upstreams))
    idles: list[idle.Idle] = []
    for name, start in weighed.items():
        for upstream in place.on.upstreams:
            steps.begin(f"idle streams: {name}, {upstream} upstream")
            home = place.folder / f"idle-{upstream}-{name.replace(' ', '-')}"
            try:
                with (
                    world(home, place.on) as (stand, _),
                    _on_proxy(start, stand, place.cores) as target,
                ):
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


def _cost_ledger(run: Run, size: Size, steps: Steps) -> None:
    binaries = ledger_cost.servers()
    steps.expect(len(binaries) * len(ledger_cost.CASES) * size.ledger_rounds)
    run.costs = ledger_cost.measure_all(
        binaries,
        pairs=size.pairs,
        rounds=size.ledger_rounds,
        depths=[_LEDGER_DEPTH],
        on_sample=lambda: steps.begin("the ledger's cost"),
    )


def _count_bytecodes(run: Run, steps: Steps) -> None:
    """Run `loadtest.gate_cost` in a separate process: it serves the gate under a trace function."""
    steps.expect(1)
    steps.begin("bytecodes per request")
    command = [sys.executable, "-m", "loadtest.gate_cost", "--bytecodes", "--only", JSON_32]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BYTECODES_S)
    except subprocess.TimeoutExpired:
        run.bytecodes_fault = f"not counted within {_BYTECODES_S:g} s"
        return
    found = re.search(rf"{re.escape(JSON_32)}.*?: ([\d,]+) bytecodes in", done.stdout)
    if found is None:
        run.bytecodes_fault = f"`loadtest.gate_cost` failed: {done.stderr[-300:].strip()}"
        return
    run.bytecodes = int(found[1].replace(",", ""))
