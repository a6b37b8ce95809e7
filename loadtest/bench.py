"""CPU per request of the gate against direct and a plain nginx proxy, in one run.

    python -m loadtest.bench [--gate-command "creditgate serve"] [--rounds 5] [--seconds 2]

Law: every figure is compared inside its column only, with what ran beside it in the same
minutes: targets take turns in every round, medians over quiet samples, ratios first. The
proxy under test has core 0 for itself; load, providers, Redis and exporter share the rest.
What a figure should be is in `bench_report.TARGETS`.
"""

import argparse
import asyncio
import contextlib
import os
import shlex
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import orjson
import psutil
import redis
import uvloop
from rich.console import Console
from rich.status import Status

from loadtest import bench_report, children, gate, nginx
from loadtest.bench_report import Cell, Report
from loadtest.generator import Load, percentile
from loadtest.measure import NOTHING_SPENT, Sample, cpu_s, machine_busy_s, redis_cost
from loadtest.peers import nginx_lua
from loadtest.requests import CLIENT_HEADERS, Shot, chat_body, http_request, same
from loadtest.tls import make_tls_files

KEY: Final = "sk-load"
TOKENS: Final = 62
PACED_ITL_MS: Final = 20
_SETTLE_TIME_S: Final = 0.2

CELLS: Final = tuple(
    Cell(f"{workload}, {upstream} upstream", upstream, stream, connections, itl_ms)
    for upstream in ("plain", "tls")
    for workload, stream, connections, itl_ms in (
        ("JSON c=32", False, 32, 0),
        ("JSON c=256", False, 256, 0),
        ("SSE burst c=32", True, 32, 0),
        ("paced SSE c=100", True, 100, PACED_ITL_MS),
    )
)


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers.

    url:      where, for an upstream's name and whether it is a stream
    serving:  the processes whose CPU counts
    others:   processes that belong to it but do not serve
    ledger:   it stands on the bench's Redis
    """

    name: str
    url: Callable[[Cell], str]
    serving: Callable[[], list[int]] = list
    others: Callable[[], list[int]] = list
    tls: ssl.SSLContext | None = None
    ledger: bool = False


@dataclass(slots=True)
class Bench:
    """A set of targets, the processes around them, and the samples so far."""

    seconds: float
    redis: "redis.Redis"
    known_pids: list[int]
    targets: list[Target] = field(default_factory=list)
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)

    async def round(self, cells: Sequence[Cell], on_sample: Callable[[str], None]) -> None:
        """One sample of every target in every cell, target beside target."""
        for cell in cells:
            for target in self.targets:
                on_sample(f"{cell.name}: {target.name}")
                sample = await self.sample(cell, target, self.seconds)
                self.samples.setdefault((cell.name, target.name), []).append(sample)

    async def sample(self, cell: Cell, target: Target, seconds: float) -> Sample:
        """Load one target for so long and read the meters before and after."""
        serving, others = target.serving(), target.others()
        ours = [os.getpid(), *self.known_pids, *serving, *others]
        load = Load(
            target.url(cell),
            same(shot(cell)),
            connections=cell.connections,
            seconds=seconds,
            tls=target.tls,
        )
        before = (cpu_s(serving), cpu_s(others), cpu_s(ours), machine_busy_s())
        spent = redis_cost(self.redis)
        result = await load.run()
        await asyncio.sleep(_SETTLE_TIME_S)  # what is settled after the last byte counts too
        after = (cpu_s(serving), cpu_s(others), cpu_s(ours), machine_busy_s())
        own, other, known, busy = (b - a for a, b in zip(before, after, strict=True))
        cost = redis_cost(self.redis).since(spent) if target.ledger else NOTHING_SPENT
        each = 1e6 / max(1, result.good)
        return Sample(
            good=result.good,
            bad=result.sent - result.good,
            per_second=result.per_second,
            cpu_us=own * each,
            other_cpu_us=other * each,
            redis_us=cost.cpu_s * each,
            scripts_us=cost.script_s * each,
            p50_ms=percentile(result.total_s, 0.5) * 1e3,
            p99_ms=percentile(result.total_s, 0.99) * 1e3,
            first_byte_p50_ms=percentile(result.first_byte_s, 0.5) * 1e3,
            foreign_share=max(0.0, busy - known) / result.seconds,
        )


def shot(cell: Cell) -> Shot:
    """The request of this cell: about 950 bytes, eleven header fields."""
    line = f"sim: tokens={TOKENS}" + (f" itl_ms={cell.itl_ms}" if cell.itl_ms else "")
    model = gate.MODEL if cell.upstream == "plain" else gate.TLS_MODEL
    body = chat_body(model, stream=cell.stream, line=line)
    headers = {**CLIENT_HEADERS, "authorization": f"Bearer {KEY}"}
    return Shot(http_request("/v1/chat/completions", body, headers))


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """What is started inside runs on these cores."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


@contextlib.contextmanager
def set_up(
    folder: Path, command: Sequence[str], seconds: float, console: Console
) -> Iterator[Bench]:
    """Start providers, Redis, nginx and the gate, each on its cores; yield the bench."""
    every = sorted(os.sched_getaffinity(0))
    proxy_cores, rest = {every[0]}, set(every[1:]) or {every[0]}
    if len(every) < 2:
        console.print("One core only: the proxy shares it with the load, latencies mean little.")
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_cores(rest))
        tls = make_tls_files(folder)
        plain = stack.enter_context(children.provider())
        secure = stack.enter_context(children.provider(tls))
        store = stack.enter_context(children.valkey(folder))
        client = redis.Redis(unix_socket_path=str(store.socket))
        stack.callback(client.close)
        bench = Bench(seconds, client, [plain.pid, secure.pid, store.pid])
        trust = ssl.create_default_context(cafile=str(tls.authority))
        urls = {"plain": plain.url, "tls": secure.url}
        bench.targets.append(Target("direct", lambda cell: urls[cell.upstream], tls=trust))
        with on_cores(proxy_cores):
            upstreams = {
                "plain": nginx.Upstream(plain.url),
                "tls": nginx.Upstream(secure.url, tls.authority),
            }
            try:
                proxy = stack.enter_context(nginx.running(folder / "nginx", upstreams))
            except nginx.NginxMissing as missing:
                console.print(f"Without nginx: {missing}")
            else:
                bench.targets.append(
                    Target(
                        "nginx",
                        lambda cell: proxy.url(cell.upstream, streams=cell.stream),
                        proxy.pids,
                    )
                )
            prices = dict.fromkeys((gate.MODEL, gate.TLS_MODEL), nginx_lua.Price(500, 2000))
            try:
                peer = stack.enter_context(
                    nginx_lua.running(
                        folder / "nginx-lua",
                        upstreams,
                        redis_socket=store.socket,
                        customers={KEY: "load"},
                        prices=prices,
                    )
                )
            except (nginx.NginxMissing, nginx_lua.LuaMissing) as missing:
                console.print(f"Without nginx and Lua: {missing}")
            else:
                bench.targets.append(
                    Target(
                        "nginx+lua",
                        lambda cell: peer.url(cell.upstream, streams=cell.stream),
                        peer.pids,
                        ledger=True,
                    )
                )
            config = gate.write_config(
                folder,
                plain.url,
                tls_upstream=(secure.url, tls.authority),
                redis_url=f"unix://{store.socket}",
                keys=(KEY,),
            )
            running = stack.enter_context(gate.serving(config, command=command))
        for pid in running.pids("exporter"):
            psutil.Process(pid).cpu_affinity(sorted(rest))
        bench.targets.append(
            Target(
                "gate",
                lambda _: running.url,
                lambda: running.pids("worker"),
                lambda: [*running.pids("exporter"), *running.pids("supervisor")],
                ledger=True,
            )
        )
        yield bench


async def measure(bench: Bench, cells: Sequence[Cell], rounds: int, console: Console) -> Report:
    """Warm every target up, then sample in turns."""
    with console.status("warming up") as status:
        for cell in cells:
            for target in bench.targets:
                warm = await bench.sample(cell, target, 0.5)
                if not warm.good:
                    raise SystemExit(f"{target.name} gives no good answer in {cell.name}")
        for number in range(rounds):
            await bench.round(cells, partial(_tell, status, f"round {number + 1}/{rounds}"))
    return Report(list(cells), [target.name for target in bench.targets], bench.samples)


def _tell(status: Status, when: str, what: str) -> None:
    status.update(f"{when} · {what}")


def main() -> None:
    """Entry point of `python -m loadtest.bench`."""
    parser = argparse.ArgumentParser(prog="loadtest.bench", description="The gate's cost.")
    parser.add_argument(
        "--gate-command",
        default=shlex.join(gate.GATE_COMMAND),
        help="takes a configuration and --ready-file",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each sample")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("reports/bench.json"))
    arguments = parser.parse_args()
    console = Console()
    console.width = max(console.width, bench_report.WIDTH)
    cells = [cell for cell in CELLS if arguments.only in cell.name]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        command = shlex.split(arguments.gate_command)
        with set_up(Path(name), command, arguments.seconds, console) as bench:
            report = uvloop.run(measure(bench, cells, arguments.rounds, console))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2))
    bench_report.show(report, console)
    console.print(f"all samples: {arguments.out}")


if __name__ == "__main__":
    main()
