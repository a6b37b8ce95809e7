"""The exporter on a cluster: shards of a node that is away wait, and a failover loses and doubles nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.delivery import START
from gateway.exporter.pacing import PumpOptions
from gateway.exporter.pump import Pump
from gateway.exporter.sharing import Sharing
from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from gateway.ledger.exporters import Leases
from gateway.ledger.outbox import Outbox
from gateway.ledger.shards import Shards
from loadtest.topology.cluster import Cluster
from tests.support.clusters import KEYS, away, ordinary
from tests.support.outbox_writer import OutboxWriter
from tests.support.stores import cursors_at, sqlite_access, sqlite_sink
from tests.support.until import until

QUICK = PumpOptions(
    batch_limit=64, linger_s=0.01, backoff_s=0.05, backoff_max_s=0.1, block_ms=100, watch_s=0.1
)
TTL_MS = 1000


@pytest.fixture
def writer(client: Any) -> OutboxWriter:
    return OutboxWriter(client, KEYS.shard_count)


@asynccontextmanager
async def pumping(endpoint: ClusterEndpoint, path: Path) -> AsyncIterator[Pump]:
    """As a gate's exporter is put together, with clients of its own."""
    client: Any = endpoint.client(name="exporter", timeout_s=1.0)
    async with endpoint.runner(name="exporter-ack") as runner:
        pump = Pump(
            Outbox(client, KEYS.shard_count),
            Shards(runner, KEYS),
            sqlite_sink(path),
            options=QUICK,
            sharing=Sharing(Leases(runner, KEYS, "one", ttl_ms=TTL_MS)),
        )
        running = asyncio.create_task(pump.run())
        try:
            yield pump
        finally:
            pump.stop(grace_s=2.0)
            await running
    await client.aclose()


def stored(path: Path) -> list[str]:
    with sqlite_access(path).open_or_empty() as store:
        return [event.event_id for n in range(KEYS.shard_count) for event in events(store, n)]


def has(path: Path, count: int) -> bool:
    return len(stored(path)) > count


def events(store: Any, shard: int) -> Iterator[Any]:
    yield from store.events_beyond(shard, START)


async def test_shards_of_a_node_that_is_away_wait_and_the_others_are_exported(
    cluster: Cluster, client: Any, endpoint: ClusterEndpoint, writer: OutboxWriter, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    await writer.write_many(16)
    async with pumping(endpoint, path) as pump:
        await until(lambda: len(stored(path)) == 16)
        async with away(cluster, ordinary(cluster), client) as shards:
            for shard in set(range(KEYS.shard_count)) - shards:
                await writer.write(shard)
                await writer.write(shard)
            there = set(range(KEYS.shard_count)) - shards
            await until(lambda: len(stored(path)) == 16 + 2 * len(there), 20)

            async def acknowledged() -> bool:
                heads = [await writer.head(shard) for shard in there]
                return all(head.acked == head.last for head in heads)

            await until(acknowledged)
            assert pump.tally.shards_held == KEYS.shard_count
        for shard in shards:
            await writer.write(shard)
        await until(lambda: sorted(stored(path)) == sorted(writer.written), 20)
        assert pump.tally.anomalies == pump.tally.dead_letters == 0
        await until(lambda: pump.tally.lag_events == 0)


async def test_an_exporter_begins_while_a_node_is_away(
    cluster: Cluster, client: Any, endpoint: ClusterEndpoint, writer: OutboxWriter, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    written = await writer.write_many(KEYS.shard_count)
    async with away(cluster, ordinary(cluster), client) as shards:
        async with pumping(endpoint, path):
            await until(lambda: len(stored(path)) == KEYS.shard_count - len(shards), 20)
        assert cursors_at(path).keys() == set(range(KEYS.shard_count)) - shards
    async with pumping(endpoint, path):
        await until(lambda: sorted(stored(path)) == sorted(written), 20)


async def test_exports_stop_when_the_lease_ends_while_its_node_is_away(
    cluster: Cluster, client: Any, endpoint: ClusterEndpoint, writer: OutboxWriter, tmp_path: Path
) -> None:
    path, node = tmp_path / "events.db", cluster.primary_of(KEYS.common("exporters"))
    await writer.write_many(8)
    async with pumping(endpoint, path) as pump:
        await until(lambda: len(stored(path)) == 8)
        async with away(cluster, node, client) as shards:
            await until(lambda: not pump._progress.held)
            await writer.write(min(set(range(KEYS.shard_count)) - shards))
            await asyncio.sleep(0.5)
            assert len(stored(path)) == 8
        await until(lambda: sorted(stored(path)) == sorted(writer.written), 20)


async def test_a_failover_while_it_reads_and_acknowledges_loses_and_doubles_nothing(
    cluster: Cluster, client: Any, endpoint: ClusterEndpoint, writer: OutboxWriter, tmp_path: Path
) -> None:
    path, stop = tmp_path / "events.db", asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            for shard in range(KEYS.shard_count):
                try:
                    await writer.write(shard, event_id=f"e{shard}-{len(writer.written)}:settled")
                except Exception:  # it may have been written: what counts is what the ledger has
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0)

    async with pumping(endpoint, path) as pump:
        writing = asyncio.create_task(write())
        await until(lambda: len(stored(path)) > 50)
        for _ in range(2):
            replica = await asyncio.to_thread(lambda: cluster.replicas(ordinary(cluster))[0])
            await asyncio.to_thread(cluster.failover, replica)
            await until(partial(has, path, len(stored(path)) + 50), 20)
        stop.set()
        await writing
        heads = await Outbox(client, KEYS.shard_count).heads()

        async def all_of_it() -> bool:
            return {n: head.last for n, head in enumerate(heads)} == cursors_at(path)

        await until(all_of_it, 20)
        assert pump.tally.anomalies == pump.tally.dead_letters == 0
    ids = stored(path)
    assert len(ids) == len(set(ids)) == sum(head.last.seq + 1 for head in heads)
    assert set(writer.written) <= set(ids)
