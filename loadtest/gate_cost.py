"""What a request costs a worker of the gate: CPU µs, Python calls, and where they are.

    python -m loadtest.gate_cost [--against DIRECTORY] [--rounds 20] [--seconds 0.4] [--only JSON]
    python -m loadtest.gate_cost --calls [--only JSON]

With `--against` another checkout of this repository is measured in turns with this one, on the same
store and the same provider: on a shared machine only the ratio of the two says anything. `--calls`
serves in this process under the interpreter's own profiler: its counts are exact, and need no quiet
machine; its times are not those of a gate without a profiler. The gate's log goes to stderr.
"""

import argparse
import asyncio
import contextlib
import cProfile
import multiprocessing
import os
import pstats
import socket
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import redis
import uvloop
from rich.console import Console
from rich.table import Table

from gateway.app.roles import Resources
from gateway.app.service import GateService, build_gate
from gateway.settings.loading import load_settings
from loadtest import children, gate
from loadtest.bench import CELLS, KEY, Bench, Target, on_cores, shot
from loadtest.bench_report import Cell
from loadtest.generator import Load
from loadtest.requests import same

_WARM_UP_S: Final = 0.5
_WARM_UP_SAMPLES: Final = 2
_SETTLE_TIME_S: Final = 0.05
_CALLS_LOAD_S: Final = 2.0
_TOP: Final = 45


@contextlib.contextmanager
def set_up(folder: Path, trees: Sequence[Path], seconds: float) -> Iterator[Bench]:
    """A provider, a store, and a gate of each tree; the gates have the first core."""
    every = sorted(os.sched_getaffinity(0))
    rest = set(every[1:]) or {every[0]}
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_cores(rest))
        provider = stack.enter_context(children.provider())
        store = stack.enter_context(children.valkey(folder))
        client = redis.Redis(unix_socket_path=str(store.socket))
        stack.callback(client.close)
        bench = Bench(seconds, client, [provider.pid, store.pid])
        for number, tree in enumerate(trees):
            place = folder / f"gate-{number}"
            place.mkdir()
            config = gate.write_config(
                place,
                provider.url,
                redis_url=f"unix://{store.socket}",
                keys=(KEY,),
                changes={"redis": {"url": f"unix://{store.socket}", "namespace": f"g{number}"}},
            )
            command = ("env", "-C", str(tree), *gate.GATE_COMMAND)
            with on_cores({every[0]}):
                running = stack.enter_context(gate.serving(config, command=command))
            for pid in (*running.pids("exporter"), *running.pids("supervisor")):
                psutil.Process(pid).cpu_affinity(sorted(rest))
            bench.targets.append(
                Target(
                    str(tree),
                    lambda _, url=running.url: url,  # type: ignore[misc]
                    partial(running.pids, "worker"),
                    partial(running.pids, "exporter"),
                    ledger=True,
                )
            )
        yield bench


def on_cpu_s(pid: int) -> float:
    """Seconds that the threads of a process have run so far, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


async def sample(cell: Cell, target: Target, seconds: float) -> float:
    """CPU µs of the worker per answer under a short load. Raises ZeroDivisionError for none."""
    [worker] = target.serving()
    load = Load(target.url(cell), same(shot(cell)), connections=cell.connections, seconds=seconds)
    before = on_cpu_s(worker)
    result = await load.run()
    await asyncio.sleep(_SETTLE_TIME_S)
    return (on_cpu_s(worker) - before) * 1e6 / result.good


async def compare(bench: Bench, cells: Sequence[Cell], rounds: int, console: Console) -> Table:
    """CPU µs of the worker per answer, by workload and tree: the lower quartile of many short samples
    that take turns, for what disturbs a sample only ever adds to it. The ratio is of the first two.
    """
    names = [target.name for target in bench.targets]
    table = Table("workload", *names, "ratio")
    with console.status("") as status:
        for cell in cells:
            figures: list[list[float]] = [[] for _ in names]
            for number in range(-_WARM_UP_SAMPLES, rounds):
                status.update(f"{cell.name}: {number + 1}/{rounds}")
                for target, so_far in zip(bench.targets, figures, strict=True):
                    figure = await sample(cell, target, bench.seconds)
                    if number >= 0:
                        so_far.append(figure)
            low = [sorted(each)[len(each) // 4] for each in figures]
            ratio = f"{low[0] / low[1]:.3f}" if len(low) > 1 else ""
            table.add_row(cell.name, *(f"{figure:,.1f}" for figure in low), ratio)
    return table


def _load(url: str, cell: Cell, seconds: float) -> None:
    """Process: the load, which must not stand in the profile."""
    uvloop.run(Load(url, same(shot(cell)), connections=cell.connections, seconds=seconds).run())


async def profile(config: Path, cell: Cell, store_url: str) -> tuple[int, pstats.Stats]:
    """Serve in this process under load; how many requests, and the profile."""
    folder = config.parent
    resources = Resources(store_url, str(folder / "data"), "worker-1")
    service: GateService = await build_gate(load_settings(config), resources)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await service.start(sock)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    spawn = multiprocessing.get_context("spawn")
    profiler = cProfile.Profile()
    before = 0
    for seconds in (_WARM_UP_S, _CALLS_LOAD_S):
        load = spawn.Process(target=_load, args=(url, cell, seconds))
        before = service._server.requests_total
        load.start()
        if seconds == _CALLS_LOAD_S:
            profiler.enable()
        await asyncio.to_thread(load.join)
        profiler.disable()
    served = service._server.requests_total - before
    await service.drain(1.0)
    return served, pstats.Stats(profiler)


def show_calls(requests: int, stats: pstats.Stats, cell: Cell, console: Console) -> None:
    """Calls per request, in all and by function."""
    entries: dict[Any, Any] = stats.stats  # type: ignore[attr-defined]
    python = sum(e[1] for (file, _, _), e in entries.items() if file != "~") / requests
    native = sum(e[1] for (file, _, _), e in entries.items() if file == "~") / requests
    table = Table("calls", "own µs", "function", title=f"{cell.name}: per request")
    root = str(Path(__file__).parents[1])
    ordered = sorted(entries.items(), key=lambda item: -item[1][2])
    for (file, line, name), (_, calls, own_s, _, _) in ordered[:_TOP]:
        place = name if file == "~" else f"{file.removeprefix(root)}:{line} {name}"
        table.add_row(f"{calls / requests:.2f}", f"{own_s / requests * 1e6:.2f}", place)
    console.print(table)
    console.print(
        f"{cell.name}: {python:.0f} Python calls and {native:.0f} of built-ins per request"
        f" ({requests:,} requests)"
    )


def main() -> None:
    """Entry point of `python -m loadtest.gate_cost`."""
    parser = argparse.ArgumentParser(prog="loadtest.gate_cost", description="A request's cost.")
    parser.add_argument("--against", type=Path, action="append", default=[], help="a checkout")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each sample")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--calls", action="store_true", help="count calls instead")
    arguments = parser.parse_args()
    console = Console()
    console.width = max(console.width, 120)
    plain = [cell for cell in CELLS if cell.upstream == "plain" and arguments.only in cell.name]
    here = Path(__file__).parents[1]
    trees = [here] if arguments.calls else [here, *(p.resolve() for p in arguments.against)]
    with (
        tempfile.TemporaryDirectory(prefix="gate-cost-") as name,
        set_up(Path(name), trees, arguments.seconds) as bench,
    ):
        if not arguments.calls:
            console.print(uvloop.run(compare(bench, plain, arguments.rounds, console)))
            return
        config = Path(name) / "gate-0" / "gate.yaml"
        store_url = f"unix://{Path(name) / 'valkey.sock'}"
        for cell in plain:
            requests, stats = uvloop.run(profile(config, cell, store_url))
            show_calls(requests, stats, cell, console)


if __name__ == "__main__":
    main()
