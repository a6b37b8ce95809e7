"""Shards of a real cluster, and a node that stays away for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.ledger.codec.key_names import Keys
from loadtest.topology.cluster import Cluster
from loadtest.topology.node import Node
from tests.support.until import until

KEYS = Keys("cg", 8)
"""Of the ledgers of these tests."""


def shards_of(cluster: Cluster, node: Node) -> set[int]:
    return {n for n in range(KEYS.shard_count) if cluster.primary_of(KEYS.meta(n)) is node}


def customers_of(shards: set[int], each: int = 1) -> list[str]:
    """Ids of customers of these shards, `each` of every one."""
    found: dict[int, list[str]] = {shard: [] for shard in shards}
    for number in range(10_000):
        name = f"c{number}"
        mine = found.get(KEYS.shard_of(name))
        if mine is not None and len(mine) < each:
            mine.append(name)
    return sorted(name for names in found.values() for name in names)


def ordinary(cluster: Cluster) -> Node:
    """A primary that has shards and not the keys of all shards."""
    common = cluster.primary_of(KEYS.common("keys"))
    return next(
        node for node in cluster.primaries() if node is not common and shards_of(cluster, node)
    )


@asynccontextmanager
async def away(cluster: Cluster, node: Node, client: Any = None) -> AsyncIterator[set[int]]:
    """Kill a primary for the time of the block; yields its shards. client: waits until it is back"""
    shards = await asyncio.to_thread(shards_of, cluster, node)
    await asyncio.to_thread(node.kill9)
    try:
        yield shards
    finally:
        await asyncio.to_thread(node.restart)
        await asyncio.to_thread(cluster.wait_agreed)
        if client is not None:
            await until(lambda: not client.map.away)
