"""What a request costs a worker of the gate: CPU µs, and the work of the interpreter by function.

    python -m loadtest.gate_cost [--against DIRECTORY] [--rounds 20] [--seconds 0.4] [--only JSON]
    python -m loadtest.gate_cost --bytecodes [--only JSON]

With `--against` another checkout of this repository is measured in turns with this one, on the same
store and the same provider: on a shared machine only the ratio of the two says anything.
`--bytecodes` serves in this process and counts the interpreter's instructions, which needs no quiet
machine: work in C and in the kernel is not among them. The gate's log goes to stderr.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import psutil
import redis
import uvloop
from rich.console import Console
from rich.table import Table

from gateway.app.gate import Gate, build_gate
from gateway.app.roles import Resources
from gateway.settings.loading import load_settings
from loadtest import children, gate
from loadtest.bench.cells import CELLS, KEY, Cell
from loadtest.bench.sampling import Bench
from loadtest.bench.stage import on_cores
from loadtest.generator import Load
from loadtest.peers.target import Target
from loadtest.requests import in_turn, same

_WARM_UP: Final = 64
_WARM_UP_SAMPLES: Final = 2
_SETTLE_TIME_S: Final = 0.05
_COUNTED: Final = 640
_TOP: Final = 60
_BY_REQUEST: Final = 0.1
"""What is entered more seldom than this per request runs by the clock."""

Trace = Callable[[FrameType, str, Any], Any]


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
        targets: list[Target] = []
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
            targets.append(
                Target(
                    str(tree),
                    lambda _upstream, _streams, url=running.url: url,  # type: ignore[misc]
                    serving=partial(running.pids, "worker"),
                    others=partial(running.pids, "exporter"),
                    ledger=True,
                )
            )
        yield Bench(seconds, client, [provider.pid, store.pid], targets, gate="")


def on_cpu_s(pid: int) -> float:
    """Seconds that the threads of a process have run so far, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


async def sample(cell: Cell, target: Target, seconds: float) -> float:
    """CPU µs of the worker per answer under a short load. Raises ZeroDivisionError for none."""
    [worker] = target.serving()
    url = target.url(cell.upstream, cell.stream)
    load = Load(url, same(cell.shot({})), connections=cell.connections, seconds=seconds)
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


def _load(url: str, cell: Cell, requests: int) -> None:
    """Process: the load, whose work must not be counted."""
    source = in_turn([cell.shot({})] * requests)
    load = Load(url, source, connections=cell.connections, timeout_s=120, drain_s=120)
    if uvloop.run(load.run()).good != requests:
        raise SystemExit("not every answer was good")


class Bytecodes:
    """Counts, by code object, while it is the interpreter's trace function."""

    def __init__(self) -> None:
        self.executed: Counter[CodeType] = Counter()
        self.entered: Counter[CodeType] = Counter()

    def enter(self, frame: FrameType, _event: str, _what: Any) -> Trace:
        """A function is called, or a coroutine goes on."""
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.entered[frame.f_code] += 1
        return self._step

    def _step(self, frame: FrameType, event: str, _what: Any) -> Trace:
        if event == "opcode":
            self.executed[frame.f_code] += 1
        return self._step


async def count(config: Path, cell: Cell, store_url: str) -> Bytecodes:
    """Serve in this process; what `_COUNTED` requests took. Raises RuntimeError if any failed."""
    resources = Resources(store_url, str(config.parent / "data"), "worker-1")
    service: Gate = await build_gate(load_settings(config), resources)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await service.start(sock)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    counted = Bytecodes()
    spawn = multiprocessing.get_context("spawn")
    # What runs by the clock is not a request's work, and on a busy machine there is more of it.
    await service.background.stop()
    for trace, requests in ((None, _WARM_UP), (counted.enter, _COUNTED)):
        load = spawn.Process(target=_load, args=(url, cell, requests))
        load.start()
        sys.settrace(trace)
        await asyncio.to_thread(load.join)
        sys.settrace(None)
        if load.exitcode:
            raise RuntimeError("the load failed")
    await service.drain(1.0)
    return counted


def show_bytecodes(counted: Bytecodes, cell: Cell, console: Console) -> None:
    """Per request: in all, and the functions that take the most. What runs by the clock is left out."""
    requests = _COUNTED
    table = Table("bytecodes", "entered", "function", title=f"{cell.name}: per request")
    root = f"{Path(__file__).parents[1]}/"
    each = {code: n for code, n in counted.entered.items() if n > _BY_REQUEST * requests}
    ordered = sorted(each, key=lambda code: -counted.executed[code])
    for code in ordered[:_TOP]:
        place = f"{code.co_filename.removeprefix(root)}:{code.co_firstlineno} {code.co_qualname}"
        figures = (counted.executed[code] / requests, each[code] / requests)
        table.add_row(f"{figures[0]:.0f}", f"{figures[1]:.2f}", place)
    console.print(table)
    total = sum(counted.executed[code] for code in each) / requests
    entered = sum(each.values()) / requests
    console.print(
        f"{cell.name}: {total:,.0f} bytecodes in {entered:.0f} calls and resumptions per request"
    )


def main() -> None:
    """Entry point of `python -m loadtest.gate_cost`."""
    parser = argparse.ArgumentParser(prog="loadtest.gate_cost", description="A request's cost.")
    parser.add_argument("--against", type=Path, action="append", default=[], help="a checkout")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each sample")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--bytecodes", action="store_true", help="count these instead")
    arguments = parser.parse_args()
    console = Console()
    console.width = max(console.width, 120)
    plain = [
        cell
        for cell in CELLS
        if cell.upstream == "plain" and cell.rate is None and arguments.only in cell.name
    ]
    here = Path(__file__).parents[1]
    trees = [here] if arguments.bytecodes else [here, *(p.resolve() for p in arguments.against)]
    with (
        tempfile.TemporaryDirectory(prefix="gate-cost-") as name,
        set_up(Path(name), trees, arguments.seconds) as bench,
    ):
        if not arguments.bytecodes:
            console.print(uvloop.run(compare(bench, plain, arguments.rounds, console)))
            return
        config = Path(name) / "gate-0" / "gate.yaml"
        store_url = f"unix://{Path(name) / 'valkey.sock'}"
        for cell in plain:
            show_bytecodes(uvloop.run(count(config, cell, store_url)), cell, console)


if __name__ == "__main__":
    main()
