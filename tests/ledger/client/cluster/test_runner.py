"""Scripts on a real cluster whose slots move, and whose nodes die."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from gateway.ledger.client.cluster.runner import ClusterRunner
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import Script
from gateway.ledger.codec.key_names import Keys
from loadtest.topology.cluster import Cluster, slot_of
from loadtest.topology.moves import ClassicMove, move_atomic
from loadtest.topology.node import Node
from tests.support.until import until

SHARDS = range(64)
NAMES = Keys()


def script(name: str, body: str) -> Script:
    source = body.encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


ADD = script("add", "#!lua\nreturn {'ok', redis.call('INCRBY', KEYS[1], ARGV[1])}")
ADD_BOTH = script(
    "add_both",
    "#!lua\nredis.call('INCRBY', KEYS[2], 1) return {'ok', redis.call('INCRBY', KEYS[1], 1)}",
)
BROKEN = script("broken", "#!lua\nreturn {'ok', redis.call('GET')}")


def other_than(cluster: Cluster, node: Node) -> Node:
    return next(each for each in cluster.primaries() if each is not node)


async def add(runner: ClusterRunner, shard: int, amount: int = 1) -> int:
    reply = await runner.run(ADD, [NAMES.meta(shard)], [b"%d" % amount])
    return int(reply[1])


async def refused(call: Callable[[], Awaitable[object]]) -> LedgerUnavailable | None:
    try:
        await call()
    except LedgerUnavailable as error:
        return error
    return None


async def test_each_shard_is_served_by_its_node(runner: ClusterRunner, cluster: Cluster) -> None:
    await asyncio.gather(*(add(runner, shard, shard) for shard in SHARDS))
    for shard in SHARDS:
        node = cluster.primary_of(NAMES.meta(shard))
        assert node.ask("GET", NAMES.meta(shard)) == str(shard)
    assert runner.connected
    assert runner.down == ()


async def test_a_script_that_fails_is_a_bug(runner: ClusterRunner) -> None:
    with pytest.raises(LedgerBug, match="script broken failed"):
        await runner.run(BROKEN, [NAMES.meta(1)], [])


async def test_keys_of_two_shards_are_a_bug(runner: ClusterRunner) -> None:
    with pytest.raises(LedgerBug, match="CROSSSLOT"):
        await runner.run(ADD_BOTH, [NAMES.meta(1), NAMES.meta(2)], [])


async def test_a_shard_that_has_moved_is_followed_without_a_failure(
    runner: ClusterRunner, cluster: Cluster
) -> None:
    assert await add(runner, 5) == 1
    source = cluster.primary_of(NAMES.meta(5))
    slot = runner._map.slot_of(NAMES.meta(5))
    move_atomic(cluster, slot, slot, other_than(cluster, source))
    assert await add(runner, 5) == 2
    assert cluster.primary_of(NAMES.meta(5)) is not source


async def test_a_script_that_speaks_of_what_a_node_has_is_not_sent_on_to_another(
    runner: ClusterRunner, client: Any, cluster: Cluster
) -> None:
    stays = replace(ADD, sent_on=False)
    for key, run in ((NAMES.meta(20), runner.run), (NAMES.meta(21), RedisRunner(client).run)):
        assert await run(stays, [key], [b"1"]) == [b"ok", 1]
        source = cluster.primary_of(key)
        target = next(node for node in cluster.primaries() if node is not source)
        move_atomic(cluster, slot_of(key), slot_of(key), target)
        with pytest.raises(LedgerUnavailable, match="MOVED") as caught:
            await run(stays, [key], [b"1"])
        assert not caught.value.unknown
        assert await run(stays, [key], [b"1"]) == [b"ok", 2]


async def test_a_script_is_loaded_where_it_is_asked_for(
    runner: ClusterRunner, cluster: Cluster
) -> None:
    await add(runner, 6)
    source = cluster.primary_of(NAMES.meta(6))
    target = other_than(cluster, source)
    target.ask("SCRIPT", "FLUSH")
    move = ClassicMove(cluster, runner._map.slot_of(NAMES.meta(6)), target)
    move.begin()
    while move.move_page():
        pass
    assert await add(runner, 6) == 2  # ASK, then NOSCRIPT, and ASKING again
    assert cluster.primary_of(NAMES.meta(6)) is source
    move.finish()
    assert await add(runner, 6) == 3
    assert cluster.primary_of(NAMES.meta(6)) is target


async def test_a_shard_in_the_middle_of_its_move_is_unavailable_and_the_others_are_served(
    runner: ClusterRunner, cluster: Cluster
) -> None:
    keys = [NAMES.meta(7), NAMES.out(7)]
    await runner.run(ADD_BOTH, keys, [])
    source = cluster.primary_of(keys[0])
    move = ClassicMove(cluster, runner._map.slot_of(keys[0]), other_than(cluster, source), page=1)
    move.begin()
    assert move.move_page() == 1
    caught = await refused(lambda: runner.run(ADD_BOTH, keys, []))
    assert caught is not None
    assert (caught.code, caught.unknown) == ("TRYAGAIN", False)
    await asyncio.gather(*(add(runner, shard) for shard in SHARDS if shard != 7))
    assert runner.refusal is None
    while move.move_page():
        pass
    move.finish()
    assert (await runner.run(ADD_BOTH, keys, []))[1] == 2


async def test_a_node_that_dies_takes_its_shards_alone_until_another_is_elected(
    runner: ClusterRunner, cluster: Cluster
) -> None:
    await asyncio.gather(*(add(runner, shard) for shard in SHARDS))
    victim = cluster.primaries()[0]
    its_own = {s for s in SHARDS if cluster.primary_of(NAMES.meta(s)) is victim}
    assert its_own
    victim.kill9()
    results = await asyncio.gather(*(refused(lambda s=s: add(runner, s)) for s in SHARDS))  # type: ignore[misc]
    assert {shard for shard, error in enumerate(results) if error} == its_own
    assert runner.connected
    await until(lambda: runner.down == (f"{victim.address.host}:{victim.address.port}",))

    async def all_are_served() -> bool:
        errors = [await refused(lambda s=s: add(runner, s)) for s in its_own]  # type: ignore[misc]
        return not any(errors)

    await until(all_are_served, 20)
    assert runner.down == ()
    cluster.rejoin(victim)
    assert not any([await refused(lambda s=s: add(runner, s)) for s in SHARDS])  # type: ignore[misc]


async def test_an_orderly_failover_is_followed(runner: ClusterRunner, cluster: Cluster) -> None:
    before = await asyncio.gather(*(add(runner, shard) for shard in SHARDS))
    cluster.failover(cluster.replicas(cluster.primaries()[0])[0])
    after = await asyncio.gather(*(add(runner, shard) for shard in SHARDS))
    assert [count - 1 for count in after] == before


async def test_a_frozen_node_is_left_for_the_one_that_was_elected(
    runner: ClusterRunner, cluster: Cluster
) -> None:
    victim = cluster.primaries()[0]
    shard = next(s for s in SHARDS if cluster.primary_of(NAMES.meta(s)) is victim)
    await add(runner, shard)
    cluster.freeze(victim)

    async def is_served() -> bool:
        return await refused(lambda: add(runner, shard)) is None

    await until(is_served, 20)
    assert cluster.primary_of(NAMES.meta(shard)) is not victim
    cluster.rejoin(victim)


async def test_it_starts_while_a_node_is_away(
    endpoint: ClusterEndpoint, client: ClusterClient, cluster: Cluster
) -> None:
    victim = cluster.primaries()[0]
    shard = next(s for s in SHARDS if cluster.primary_of(NAMES.meta(s)) is victim)
    other = next(s for s in SHARDS if cluster.primary_of(NAMES.meta(s)) is not victim)
    victim.freeze()
    async with endpoint.runner(name="test", connect_timeout_s=0.3) as runner:
        await add(runner, other)
        assert runner.connected
        victim.thaw()

        async def is_served() -> bool:
            return await refused(lambda: add(runner, shard)) is None

        await until(is_served, 20)
    cluster.wait_agreed()


async def test_it_does_not_start_where_nobody_answers() -> None:
    endpoint = ClusterEndpoint.from_url("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    runner = endpoint.runner(name="test")
    with pytest.raises(LedgerUnavailable):
        await runner.start()
    await runner.close()


async def test_a_barred_node_runs_nothing_and_the_others_do(
    runner: ClusterRunner, cluster: Cluster
) -> None:
    node = cluster.primaries()[0]
    sick = f"{node.address.host}:{node.address.port}"
    runner.bar(sick, "it evicts")
    for shard in SHARDS:
        error = await refused(lambda s=shard: add(runner, s))  # type: ignore[misc]
        barred = cluster.primary_of(NAMES.meta(shard)) is node
        assert (str(error) == "it evicts") == barred
    runner.bar(sick, None)
    await asyncio.gather(*(add(runner, shard) for shard in SHARDS))
