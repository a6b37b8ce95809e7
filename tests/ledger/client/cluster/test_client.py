"""redis-py's commands on a real cluster, each at the node of its key."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import ResponseError, WatchError

from gateway.ledger.client.cluster.client import nodes_of
from gateway.ledger.client.cluster.commands import key_of
from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import Script
from gateway.ledger.codec.key_names import Keys
from loadtest.topology.cluster import Cluster, slot_of
from loadtest.topology.moves import ClassicMove, move_atomic
from loadtest.topology.node import Node
from tests.ledger.client.cluster.test_runner import ADD
from tests.support.until import until

NAMES = Keys()
KEYS = [NAMES.meta(shard) for shard in range(64)]


def moved_away(cluster: Cluster, key: bytes) -> tuple[int, Node]:
    source = cluster.primary_of(key)
    return slot_of(key), next(node for node in cluster.primaries() if node is not source)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", b"{cg:1}:a"), b"{cg:1}:a"),
        ((b"XRANGE", b"{cg:1}:out", b"-", b"+"), b"{cg:1}:out"),
        ((b"XREAD", b"COUNT", 5, b"STREAMS", b"{cg:1}:out", b"0"), b"{cg:1}:out"),
        (("EVALSHA", b"sha", 2, b"{cg:1}:a", b"{cg:1}:b"), b"{cg:1}:a"),
        (("HGETALL", "{cg}:keys"), b"{cg}:keys"),
    ],
)
def test_the_key_of_a_command_is_found(command: tuple[Any, ...], key: bytes) -> None:
    assert key_of(command) == key


@pytest.mark.parametrize("command", [("SCAN", 0), ("GET", b"plain"), ("KEYS", "*")])
def test_a_command_that_names_no_key_of_the_ledger_is_a_fault(command: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="names no key"):
        key_of(command)


async def test_commands_go_to_the_nodes_of_their_keys(client: Any) -> None:
    for at, key in enumerate(KEYS):
        await client.set(key, at)
    assert [int(await client.get(key)) for key in KEYS] == list(range(64))
    by_node = [await node.dbsize() for _, node in await client.nodes()]
    assert sum(by_node) == 64
    assert all(by_node)


async def test_a_pipeline_answers_in_the_order_of_its_commands(client: Any) -> None:
    async with client.pipeline(transaction=False) as pipe:
        for at, key in enumerate(KEYS):
            pipe.set(key, at)
            pipe.incrby(key, 100)
        replies = await pipe.execute()
    assert replies == [reply for at in range(64) for reply in (True, 100 + at)]


async def test_a_pipeline_raises_the_first_error_or_keeps_them_in_their_places(
    client: Any,
) -> None:
    await client.set(KEYS[1], "text")
    for raises in (True, False):
        async with client.pipeline(transaction=False) as pipe:
            pipe.set(KEYS[0], 1)
            pipe.incr(KEYS[1])
            pipe.set(KEYS[2], 2)
            if raises:
                with pytest.raises(ResponseError, match="not an integer"):
                    await pipe.execute()
            else:
                first, error, last = await pipe.execute(raise_on_error=False)
                assert (first, last) == (True, True)
                assert isinstance(error, ResponseError)


async def test_what_has_moved_is_followed(client: Any, cluster: Cluster) -> None:
    await client.set(KEYS[3], 1)
    await client.set(KEYS[4], 1)
    for key in KEYS[3:5]:
        slot, target = moved_away(cluster, key)
        move_atomic(cluster, slot, slot, target)
    assert await client.incr(KEYS[3]) == 2
    async with client.pipeline(transaction=False) as pipe:
        pipe.incr(KEYS[3])
        pipe.incr(KEYS[4])
        assert await pipe.execute() == [3, 2]


async def test_no_connection_is_left_to_a_node_that_owns_nothing_any_more(
    client: Any, cluster: Cluster
) -> None:
    old = cluster.primary_of(KEYS[5])
    await client.set(KEYS[5], 1)

    def is_connected() -> bool:
        return "name=test " in old.ask("CLIENT", "LIST")

    assert is_connected()
    await asyncio.to_thread(cluster.failover, cluster.replicas(old)[0])
    assert await client.incr(KEYS[5]) == 2
    await until(lambda: not is_connected())


async def test_what_is_moving_is_asked_for_where_it_is(client: Any, cluster: Cluster) -> None:
    await client.set(KEYS[8], 1)
    slot, target = moved_away(cluster, KEYS[8])
    move = ClassicMove(cluster, slot, target)
    move.begin()
    while move.move_page():
        pass
    assert await client.incr(KEYS[8]) == 2
    async with client.pipeline(transaction=False) as pipe:
        pipe.incr(KEYS[8])
        assert await pipe.execute() == [3]
    move.finish()
    assert await client.incr(KEYS[8]) == 4


async def test_a_transaction_is_all_or_nothing(client: Any) -> None:
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch(KEYS[9])
        assert await pipe.get(KEYS[9]) is None
        pipe.multi()
        pipe.set(KEYS[9], 1)
        await client.set(KEYS[9], 5)
        with pytest.raises(WatchError):
            await pipe.execute()
    assert await client.get(KEYS[9]) == b"5"


@pytest.mark.parametrize("watched", [True, False])
async def test_a_transaction_follows_what_has_moved(
    client: Any, cluster: Cluster, watched: bool
) -> None:
    await client.set(KEYS[10], 1)
    slot, target = moved_away(cluster, KEYS[10])
    move_atomic(cluster, slot, slot, target)
    async with client.pipeline(transaction=True) as pipe:
        if watched:
            await pipe.watch(KEYS[10])
            pipe.multi()
        pipe.incr(KEYS[10])
        pipe.get(KEYS[10])
        assert await pipe.execute() == [2, b"2"]


async def test_a_node_that_is_away_fails_its_own_commands_alone(
    client: Any, cluster: Cluster
) -> None:
    for key in KEYS:
        await client.set(key, 1)
    victim = cluster.primaries()[0]
    its_own = {at for at, key in enumerate(KEYS) if cluster.primary_of(key) is victim}
    victim.freeze()
    try:
        async with client.pipeline(transaction=False) as pipe:
            for key in KEYS:
                pipe.get(key)
            replies = await pipe.execute(raise_on_error=False)
        failed = {at for at, reply in enumerate(replies) if isinstance(reply, Exception)}
        assert failed == its_own
        assert await client.time()  # of whoever answers
    finally:
        victim.thaw()
        cluster.wait_agreed()

    async def all_answer() -> bool:
        async with client.pipeline(transaction=False) as pipe:
            for key in KEYS:
                pipe.get(key)
            return not any(
                isinstance(r, Exception) for r in await pipe.execute(raise_on_error=False)
            )

    await until(all_answer, 20)


async def test_a_script_is_loaded_on_every_node(client: Any) -> None:
    runner = RedisRunner(client)
    for key in KEYS:
        assert (await runner.run(ADD, [key], [b"1"]))[1] == 1


async def test_a_message_is_heard_wherever_it_is_published(client: Any) -> None:
    await client.ready()
    async with client.pubsub() as channel:
        await channel.subscribe(NAMES.common("changes"))
        for _, node in await client.nodes():
            await node.publish(NAMES.common("changes"), "c1")
        heard = 0
        while heard < 3:
            message = await channel.get_message(timeout=5)
            assert message is not None
            heard += message["type"] == "message"


async def test_a_lone_server_is_its_only_node(valkey: Any) -> None:
    assert await nodes_of(valkey) == [("", valkey)]


async def test_where_nobody_answers_it_is_not_connected() -> None:
    client = ClusterEndpoint.from_url("redis+cluster://127.0.0.1:1").client(name="test")
    with pytest.raises(NotConnected):
        await client.get("{cg}:x")
    runner = RedisRunner(client)
    with pytest.raises(LedgerUnavailable):
        await runner.run(Script("x", b"", b"0" * 40), [b"{cg}:x"], [])
    await client.aclose()
