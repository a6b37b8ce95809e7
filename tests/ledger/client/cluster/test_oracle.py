"""The oracle's walk on a cluster whose shards move and whose primaries hand over, in good order."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import Script
from gateway.ledger.codec.key_names import Keys
from loadtest.topology.cluster import Cluster, slot_of
from loadtest.topology.moves import move_atomic, move_classic
from tests.ledger import walk as walking
from tests.ledger.test_oracle import wander

STEPS = int(os.environ.get("CREDITGATE_ORACLE_STEPS", "250"))
SEED = int(os.environ.get("CREDITGATE_ORACLE_SEED", "21"))


class Persistent(RedisRunner):
    """Asks again, with the same ids, where the cluster does not answer: as the gate does."""

    unavailable = 0

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        while True:
            try:
                return await super().run(script, keys, args)
            except LedgerUnavailable:
                Persistent.unavailable += 1
                await asyncio.sleep(0.02)


async def test_random_operations_agree_with_the_model_while_shards_move(
    client: Any, cluster: Cluster, monkeypatch: Any
) -> None:
    monkeypatch.setattr(walking, "RedisRunner", Persistent)
    names, done = Keys(shard_count=walking.SHARDS), asyncio.Event()
    changes = 0

    def change() -> None:
        at = changes % (walking.SHARDS + 1)
        if at == walking.SHARDS:
            cluster.failover(cluster.replicas(cluster.primaries()[0])[0])
            return
        slot = slot_of(names.meta(at))
        source = cluster.owner(slot)
        target = next(node for node in cluster.primaries() if node is not source)
        if changes % 2:
            move_classic(cluster, [slot], target)
        else:
            move_atomic(cluster, slot, slot, target)

    async def keep_changing() -> None:
        nonlocal changes
        while not done.is_set():
            await asyncio.to_thread(change)
            changes += 1

    changing = asyncio.create_task(keep_changing())
    try:
        await wander(client, STEPS, SEED)
    finally:
        done.set()
        await changing
    assert changes > walking.SHARDS
    print(f"{changes} changes, {Persistent.unavailable} calls were repeated")
