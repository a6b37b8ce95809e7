"""The outboxes of shards that live on several nodes."""

import asyncio
import time
from typing import Any

import pytest

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.outbox import Outbox
from loadtest.topology.cluster import Cluster
from tests.support.clusters import KEYS, away, ordinary
from tests.support.outbox_entries import read_entries
from tests.support.outbox_writer import OutboxWriter
from tests.support.until import until


@pytest.fixture
def writer(client: Any) -> OutboxWriter:
    return OutboxWriter(client, KEYS.shard_count)


@pytest.fixture
def outbox(client: Any) -> Outbox:
    return Outbox(client, KEYS.shard_count)


async def ids(outbox: Outbox) -> set[str]:
    return {
        event.event_id or "" for _, events in await read_entries(outbox, {}) for event in events
    }


async def test_entries_of_all_nodes_are_read(writer: OutboxWriter, outbox: Outbox) -> None:
    written = await writer.write_many(40)
    assert await ids(outbox) == set(written)
    heads = await outbox.heads()
    assert [head.last for head in heads] == [writer.last[n] for n in range(KEYS.shard_count)]
    assert await outbox.oldest_ms({}) == 1_700_000_000_000


async def test_a_read_waits_for_the_first_entry(writer: OutboxWriter, outbox: Outbox) -> None:
    reading = asyncio.create_task(outbox.read({}, block_ms=20_000))
    await asyncio.sleep(0.2)
    assert not reading.done()
    await writer.write(5)
    ((tail),) = await reading
    assert tail.shard == 5


async def test_a_read_without_news_ends_after_its_wait(client: Any, outbox: Outbox) -> None:
    async def commands() -> int:
        infos = [await node.info("stats") for _, node in await client.nodes()]
        return sum(info["total_commands_processed"] for info in infos)

    before, began = await commands(), time.monotonic()
    assert await outbox.read({}, block_ms=1500) == []
    assert time.monotonic() - began >= 1.5
    assert await commands() - before < 40 * KEYS.shard_count  # no busy loop


async def test_shards_of_a_node_that_is_away_are_left_out_and_read_later(
    cluster: Cluster, client: Any, writer: OutboxWriter, outbox: Outbox
) -> None:
    written = await writer.write_many(16)
    async with away(cluster, ordinary(cluster), client) as shards:
        there = {name for at, name in enumerate(written) if at % KEYS.shard_count not in shards}
        assert await ids(outbox) == there
        heads = await outbox.reached_heads()
        assert heads.keys() == set(range(KEYS.shard_count)) - shards
        with pytest.raises(LedgerUnavailable, match=r"node 127.0.0.1:\d+ is away"):
            await outbox.heads()
        with pytest.raises(LedgerUnavailable, match="is away"):
            await outbox.oldest_ms({})

    async def all_of_it() -> bool:
        return await ids(outbox) == set(written)

    await until(all_of_it)


async def test_a_frozen_node_holds_up_the_others_once(
    cluster: Cluster, client: Any, writer: OutboxWriter, outbox: Outbox
) -> None:
    """It takes no reply to know that it is away: only the first question waits for its timeout."""
    await writer.write_many(8)
    node = await asyncio.to_thread(ordinary, cluster)
    node.freeze()
    try:
        await until(lambda: _gone(client, outbox))
        began = time.monotonic()
        for _ in range(10):
            assert await outbox.reached_heads()
        assert time.monotonic() - began < 1.0  # the client's timeout for one of them
    finally:
        node.thaw()
    await until(lambda: not client.map.away)


async def _gone(client: Any, outbox: Outbox) -> bool:
    await outbox.reached_heads()
    return any(client.map.is_gone(address) for address in client.map.away)


async def test_no_node_at_all_is_an_error(outbox: Outbox, cluster: Cluster, client: Any) -> None:
    nodes = await asyncio.to_thread(cluster.primaries)
    for node in nodes:
        node.freeze()
    try:
        with pytest.raises(LedgerUnavailable):
            await outbox.reached_heads()
        with pytest.raises(LedgerUnavailable):
            await outbox.read({})
    finally:
        for node in nodes:
            node.thaw()
    await until(lambda: not client.map.away)
