"""CPU of the ledger's server for a reserve and a settle, at several sizes of one thing.

Invariants: all sizes of a dimension run at the same time, each on separate servers, and take turns in
every round, each time in another order; other work on the machine affects all of them. The cost is
the minimum of the rounds, because other work only ever adds; the median is reported with it. How
much more a size costs is the median of the ratios within a round.
"""

import asyncio
import contextlib
import math
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import redis.asyncio

from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.runner import CoalescingRunner
from loadtest import children
from loadtest.growth.places import Dimension, One, Server

DEPTH: Final = 8
_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Point:
    """One size.

    cpu_us:      of the servers for a pair, of each round
    p50_ms:      of the client for a pair, `depth` at once, of each round
    fill_s:      how long it took to make
    used_bytes:  of the servers' memory when it was made, less what empty ones use
    """

    size: int
    cpu_us: list[float]
    p50_ms: list[float]
    fill_s: float
    used_bytes: int

    @property
    def least_us(self) -> float:
        """Of the quietest round."""
        return min(self.cpu_us)

    @property
    def median_us(self) -> float:
        """Of all rounds."""
        return statistics.median(self.cpu_us)

    def as_json(self) -> dict[str, Any]:
        """Samples and what they come to."""
        return {**asdict(self), "least_us": self.least_us, "median_us": self.median_us}


@dataclass(frozen=True, slots=True)
class Measured:
    """All sizes of a dimension on one kind of server, named with its version and allocator."""

    server: str
    points: list[Point]

    def per_tenfold_us(self) -> float | None:
        """µs that a pair costs more for each ten times more: least squares over the least costs."""
        if len(self.points) < 2:
            return None
        x = [math.log10(point.size) for point in self.points]
        return statistics.linear_regression(x, [point.least_us for point in self.points]).slope

    def times_first(self) -> list[float]:
        """What each size costs in terms of the first: the median of the rounds' ratios."""
        first = self.points[0].cpu_us
        return [
            statistics.median(cost / of for cost, of in zip(point.cpu_us, first, strict=True))
            for point in self.points
        ]

    def as_json(self) -> dict[str, Any]:
        """Samples and what they come to."""
        return {
            "server": self.server,
            "per_tenfold_us": self.per_tenfold_us(),
            "times_first": self.times_first(),
            "points": [point.as_json() for point in self.points],
        }


@dataclass(slots=True)
class _Place:
    """A size on its servers."""

    size: int
    servers: list[Server]
    one: One
    fill_s: float
    used_bytes: int
    cpu_us: "array[float]"
    p50_ms: "array[float]"


async def measure(
    dimension: Dimension,
    *,
    pairs: int,
    rounds: int,
    binary: str = "",
    on_step: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Every size of a dimension, in turns. binary: of the server, if not Valkey's."""
    async with contextlib.AsyncExitStack() as stack:
        places = []
        for size in dimension.sizes:
            on_step(f"{dimension.name}: making {size:,}")
            places.append(await _make(stack, dimension, size, binary))
        for place in places:
            await _load(place, pairs)  # scripts loaded, connections and tables warm
        for number in range(rounds):
            on_step(f"{dimension.name}: round {number + 1}/{rounds}")
            turn = number % len(places)
            for place in places[turn:] + places[:turn]:
                before = await _cpu_us(place.servers)
                took_s = await _load(place, pairs)
                place.cpu_us.append((await _cpu_us(place.servers) - before) / len(took_s))
                place.p50_ms.append(statistics.median(took_s) * 1e3)
        server = await _name(places[0].servers[0])
    points = [
        Point(place.size, list(place.cpu_us), list(place.p50_ms), place.fill_s, place.used_bytes)
        for place in places
    ]
    return Measured(server, points)


async def _name(server: Server) -> str:
    about, memory = await server.client.info("server"), await server.client.info("memory")
    version = about.get("valkey_version") or about["redis_version"]
    return f"{about.get('server_name', 'redis')} {version}, {memory['mem_allocator']}"


async def _make(
    stack: contextlib.AsyncExitStack, dimension: Dimension, size: int, binary: str
) -> _Place:
    servers = []
    for _ in range(dimension.servers(size)):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="growth-")))
        running = stack.enter_context(children.valkey(folder, binary))
        runner = CoalescingRunner(
            Endpoint.from_socket(running.socket), name="growth", timeout_s=_TIMEOUT_S
        )
        await stack.enter_async_context(runner)
        client: Any = redis.asyncio.Redis(unix_socket_path=str(running.socket))
        stack.push_async_callback(client.aclose)
        servers.append(Server(runner, client))
    empty, started_s = await _used(servers), time.monotonic()
    one = await dimension.fill(servers, size)
    fill_s, used = time.monotonic() - started_s, await _used(servers) - empty
    return _Place(size, servers, one, fill_s, used, array("d"), array("d"))


async def _load(place: _Place, pairs: int) -> "array[float]":
    """So many pairs, `DEPTH` at once for each server; how long each took."""
    took_s, callers = array("d"), DEPTH * len(place.servers)

    async def caller() -> None:
        for _ in range(pairs // callers):
            began_s = time.perf_counter()
            await place.one()
            took_s.append(time.perf_counter() - began_s)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return took_s


async def _cpu_us(servers: Sequence[Server]) -> float:
    spent_s = 0.0
    for server in servers:
        info = await server.client.info("cpu")
        spent_s += info["used_cpu_user"] + info["used_cpu_sys"]
    return spent_s * 1e6


async def _used(servers: Sequence[Server]) -> int:
    used = [(await server.client.info("memory"))["used_memory"] for server in servers]
    return int(sum(used))
