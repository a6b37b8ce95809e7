"""What a gate's processes need as things grow: memory of a worker by idle streams and by customers,
CPU by workers, and the walk over all wallets.

Memory is what a process has for itself (USS). Streams are idle when their first token has come and
no other does: a connection from the client, one to the provider, a hold in the ledger.
"""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil
import redis
import redis.asyncio
import uvloop

from gateway.flow.sweeper import Sweeper
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.reservations import Reservations
from gateway.ledger.shards import Shards
from loadtest import children
from loadtest import gate as gates
from loadtest.generator import Load
from loadtest.growth.chart import Line, Panel
from loadtest.growth.places import Server, fill_customers, names_of
from loadtest.measure import cpu_s, redis_cost
from loadtest.requests import CLIENT_HEADERS, Shot, chat_body, http_request, same
from loadtest.tls import make_tls_files

KEY: Final = "sk-load"
KIB: Final = 1024
MIB: Final = 1024 * 1024
STREAMS: Final = (0, 250, 500, 1000, 2000)
CUSTOMERS: Final = (10, 1000, 10_000, 100_000)
WORKERS: Final = (1, 2, 4)
WALLETS: Final = (1000, 10**5, 10**6)
ROUNDS: Final = 7
_SAMPLE_S: Final = 2.0
_IDLE_MS: Final = 900_000
_OPENED_AT_ONCE: Final = 50
_TRIES: Final = 30
START_WITHIN_S: Final = 1800.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """What was found: for the JSON, the chart, and the table."""

    report: dict[str, Any]
    panels: Sequence[Panel]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def uss_bytes(pid: int) -> int:
    """Memory that a process has for itself."""
    return int(psutil.Process(pid).memory_full_info().uss)


# -- idle streams


def streams(most: float, tell: Tell) -> Found:
    """A worker's memory by idle streams, to a plain and to a TLS upstream."""
    counts = [count for count in STREAMS if count <= most]
    uss: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="growth-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        tls = make_tls_files(folder)
        plain = stack.enter_context(children.provider())
        secure = stack.enter_context(children.provider(tls))
        store = stack.enter_context(children.valkey(folder))
        for upstream, model in (("plain", gates.MODEL), ("TLS", gates.TLS_MODEL)):
            tell(f"streams to a {upstream} upstream")
            own = folder / upstream
            own.mkdir()
            config = gates.write_config(
                own,
                plain.url,
                tls_upstream=(secure.url, tls.authority),
                redis_url=f"unix://{store.socket}",
                keys=(KEY,),
            )
            with gates.serving(config, ready_s=START_WITHIN_S) as gate:
                uss[upstream] = uvloop.run(_idle(gate, model, counts))
    each = {upstream: statistics.linear_regression(counts, y).slope for upstream, y in uss.items()}
    columns = ("idle streams", *(f"worker, {upstream} upstream, MiB" for upstream in uss))
    rows = [
        (f"{count:,}", *(f"{values[number] / MIB:.1f}" for values in uss.values()))
        for number, count in enumerate(counts)
    ]
    rows.append(("KiB a stream", *(f"{slope / KIB:.1f}" for slope in each.values())))
    lines = [
        Line(
            f"{upstream} upstream: {each[upstream] / KIB:.1f} KiB a stream", counts, in_mib(values)
        )
        for upstream, values in uss.items()
    ]
    panel = Panel("Idle streams of a worker", "open streams", "memory, MiB", lines, log=False)
    report = {"streams": counts, "uss_bytes": uss, "bytes_a_stream": each}
    return Found(report, [panel], columns, rows)


def in_mib(values: Sequence[float]) -> list[float]:
    """Bytes as MiB."""
    return [value / MIB for value in values]


async def _idle(gate: gates.Gate, model: str, counts: Sequence[int]) -> list[int]:
    """The worker's memory with so many streams open."""
    body = chat_body(model, stream=True, line=f"sim: tokens=2 itl_ms={_IDLE_MS}")
    headers = {**CLIENT_HEADERS, "authorization": f"Bearer {KEY}"}
    request = http_request("/v1/chat/completions", body, headers)
    (pid,) = gate.pids("worker")
    uss: list[int] = []
    async with _opened(gate.url) as more:
        await more(_OPENED_AT_ONCE, request)  # what is made once, is made by these
        for before, count in zip([0, *counts], counts, strict=False):
            await more(count - before, request)
            await asyncio.sleep(1)
            uss.append(uss_bytes(pid))
    return uss


@contextlib.asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Callable[[int, bytes], Any]]:
    """Opens streams up to their first token, and closes all in the end."""
    parts = urlsplit(url)
    writers: list[asyncio.StreamWriter] = []

    async def one(request: bytes) -> None:
        for _ in range(_TRIES):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " in head:
                writers.append(writer)
                await reader.readuntil(b"data:")
                return
            writer.close()
            assert b" 503 " in head, head  # the ledger was late: a busy machine
            await asyncio.sleep(1)
        raise AssertionError(f"no stream in {_TRIES} tries: {head!r}")

    async def more(count: int, request: bytes) -> None:
        for start in range(0, count, _OPENED_AT_ONCE):
            await asyncio.gather(
                *(one(request) for _ in range(min(_OPENED_AT_ONCE, count - start)))
            )

    yield more
    for writer in writers:
        writer.close()


# -- customers of the configuration


def configured(most: float, tell: Tell) -> Found:
    """Time to start, and the processes' memory, by customers of the configuration."""
    counts = [count for count in CUSTOMERS if count <= most]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="growth-") as name, contextlib.ExitStack() as stack:
        plain = stack.enter_context(children.provider())
        for count in counts:
            tell(f"a configuration of {count:,} customers")
            folder = Path(name) / str(count)
            folder.mkdir()
            store = stack.enter_context(children.valkey(folder))
            keys = [f"sk-{number}" for number in range(count)]
            config = gates.write_config(
                folder, plain.url, redis_url=f"unix://{store.socket}", keys=keys
            )
            with redis.Redis(unix_socket_path=str(store.socket)) as client:
                empty = client.info("memory")["used_memory"]
                took_s = []
                for _ in ("first", "again"):
                    started_s = time.monotonic()
                    with gates.serving(config, ready_s=START_WITHIN_S) as gate:
                        took_s.append(time.monotonic() - started_s)
                        uss = {
                            role: sum(map(uss_bytes, gate.pids(role)))
                            for role in ("worker", "supervisor", "exporter")
                        }
                ledger = client.info("memory")["used_memory"] - empty
            first_s, again_s = took_s
            rows.append(
                {
                    "customers": count,
                    "first_start_s": first_s,
                    "start_s": again_s,
                    "ledger_bytes": ledger,
                    "uss_bytes": uss,
                }
            )
    columns = (
        "customers",
        "first start, s",
        "start again, s",
        "worker, MiB",
        "supervisor, MiB",
        "exporter, MiB",
        "ledger, MiB",
    )
    told = [
        (
            f"{row['customers']:,}",
            f"{row['first_start_s']:.1f}",
            f"{row['start_s']:.1f}",
            *(f"{value / MIB:.0f}" for value in row["uss_bytes"].values()),
            f"{row['ledger_bytes'] / MIB:.1f}",
        )
        for row in rows
    ]
    memory = [
        Line(role, counts, [row["uss_bytes"][role] / MIB for row in rows])
        for role in ("worker", "supervisor", "exporter")
    ]
    starts = [
        Line("first start", counts, [row["first_start_s"] for row in rows]),
        Line("start again", counts, [row["start_s"] for row in rows]),
    ]
    panels = [
        Panel("Memory", "customers in the configuration", "MiB", memory),
        Panel("Start", "customers in the configuration", "seconds until it serves", starts),
    ]
    return Found({"configurations": rows}, panels, columns, told)


# -- workers


@dataclass(slots=True)
class _Crew:
    """A gate with so many workers, and its samples by name."""

    workers: int
    gate: gates.Gate
    client: "redis.Redis"
    samples: dict[str, list[float]]


def workers(most: float, tell: Tell) -> Found:
    """CPU per request, and requests a second, by workers of one gate."""
    counts = [count for count in WORKERS if count <= most]
    with tempfile.TemporaryDirectory(prefix="growth-") as name, contextlib.ExitStack() as stack:
        plain = stack.enter_context(children.provider())
        crews = []
        for count in counts:
            folder = Path(name) / str(count)
            folder.mkdir()
            store = stack.enter_context(children.valkey(folder))
            url = f"unix://{store.socket}"
            config = gates.write_config(
                folder, plain.url, workers=count, redis_url=url, keys=(KEY,)
            )
            gate = stack.enter_context(gates.serving(config, ready_s=START_WITHIN_S))
            client = stack.enter_context(redis.Redis(unix_socket_path=str(store.socket)))
            crews.append(_Crew(count, gate, client, {}))
        for number in range(ROUNDS + 1):
            turn = number % len(crews)
            for crew in crews[turn:] + crews[:turn]:
                tell(f"{crew.workers} workers, round {number}/{ROUNDS}")
                sample = uvloop.run(_sample(crew))
                if number:  # the first only warms up
                    for figure, value in sample.items():
                        crew.samples.setdefault(figure, []).append(value)
        uss = {crew.workers: sum(map(uss_bytes, crew.gate.pids("worker"))) for crew in crews}
    best = [
        {figure: _best(figure, values) for figure, values in crew.samples.items()} for crew in crews
    ]
    columns = (
        "workers",
        "requests a second",
        "workers, µs a request",
        "ledger, µs",
        "exporter, µs",
        "workers, MiB",
    )
    rows = [
        (
            str(count),
            f"{row['per_second']:,.0f}",
            *(f"{row[figure]:.0f}" for figure in ("worker_us", "ledger_us", "exporter_us")),
            f"{uss[count] / MIB:.0f}",
        )
        for count, row in zip(counts, best, strict=True)
    ]
    cost = [
        Line(role, counts, [row[f"{role}_us"] for row in best])
        for role in ("worker", "ledger", "exporter")
    ]
    rate = [Line("requests", counts, [row["per_second"] for row in best])]
    panels = [
        Panel("CPU of a request", "workers", "µs (least of the rounds)", cost, log=False),
        Panel("Throughput on this machine", "workers", "requests a second", rate, log=False),
    ]
    report = {
        "workers": counts,
        "samples": [crew.samples for crew in crews],
        "best": best,
        "uss_bytes": list(uss.values()),
    }
    return Found(report, panels, columns, rows)


def _best(figure: str, values: Sequence[float]) -> float:
    return max(values) if figure == "per_second" else min(values)


async def _sample(crew: _Crew) -> Mapping[str, float]:
    roles = {role: crew.gate.pids(role) for role in ("worker", "exporter")}
    before = {role: cpu_s(pids) for role, pids in roles.items()}
    spent = redis_cost(crew.client)
    headers = {**CLIENT_HEADERS, "authorization": f"Bearer {KEY}"}
    body = chat_body(gates.MODEL, stream=False, line="sim: tokens=62")
    load = Load(
        crew.gate.url,
        same(Shot(http_request("/v1/chat/completions", body, headers))),
        connections=32,
        seconds=_SAMPLE_S,
    )
    result = await load.run()
    await asyncio.sleep(0.3)  # what is settled after the last byte counts too
    each = 1e6 / result.good
    return {
        "per_second": result.per_second,
        "ledger_us": redis_cost(crew.client).since(spent).cpu_s * each,
        **{f"{role}_us": (cpu_s(pids) - before[role]) * each for role, pids in roles.items()},
    }


# -- the walk over all wallets, once a minute


def walk(most: float, tell: Tell) -> Found:
    """CPU of a worker and of the ledger for one walk over wallets of which none is due."""
    counts = [count for count in WALLETS if count <= most]
    rows = []
    for count in counts:
        tell(f"a walk over {count:,} wallets")
        rows.append(uvloop.run(_walk(count)))
    columns = ("wallets", "worker, CPU s", "ledger, CPU s", "longest stall, ms", "more memory, MiB")
    told = [
        (
            f"{count:,}",
            f"{row['worker_s']:.2f}",
            f"{row['ledger_s']:.2f}",
            f"{row['stall_s'] * 1e3:.0f}",
            f"{row['grown_bytes'] / MIB:.1f}",
        )
        for count, row in zip(counts, rows, strict=True)
    ]
    lines = [
        Line(role, counts, [row[f"{role}_s"] for row in rows]) for role in ("worker", "ledger")
    ]
    panel = Panel("The walk over all wallets, once a minute", "customers", "CPU seconds", lines)
    return Found({"wallets": counts, "walks": rows}, [panel], columns, told)


async def _walk(count: int) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(prefix="growth-") as name,
        children.valkey(Path(name)) as store,
    ):
        client: Any = redis.asyncio.Redis(unix_socket_path=str(store.socket))
        async with CoalescingRunner(
            Endpoint.from_socket(store.socket), name="walk", timeout_s=60
        ) as runner:
            shards = Shards(runner)
            await fill_customers(Server(runner, client), shards, names_of(count))
            sweeper = Sweeper(Reservations(shards), AccountStore(client))
            await sweeper.sweep_wallets()  # connections are made, buffers have their size
            return await _walked(sweeper, store.pid)


async def _walked(sweeper: Sweeper, server: int) -> dict[str, float]:
    longest_s = 0.0

    async def look() -> None:
        nonlocal longest_s
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, time.monotonic() - began_s)

    own = psutil.Process().pid
    looking = asyncio.ensure_future(look())
    before = cpu_s([own]), cpu_s([server]), uss_bytes(own)
    await sweeper.sweep_wallets()
    after = cpu_s([own]), cpu_s([server]), uss_bytes(own)
    looking.cancel()
    worker_s, ledger_s, grown = (b - a for a, b in zip(before, after, strict=True))
    return {
        "worker_s": worker_s,
        "ledger_s": ledger_s,
        "stall_s": longest_s,
        "grown_bytes": grown,
    }


MEASURED: Final[Mapping[str, Callable[[float, Tell], Found]]] = {
    "streams": streams,
    "configured": configured,
    "workers": workers,
    "walk": walk,
}
"""By the names of their charts."""
