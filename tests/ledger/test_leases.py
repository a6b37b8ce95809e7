"""Exporters share the shards, take over from a dead one, and write to one store."""

import struct
from typing import Any

import pytest
import redis.asyncio

from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.scripts import load_scripts
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.exporters import Leases, OtherStore, StoreInUse, list_exporters

KEYS = Keys("cg", 8)
ALL = set(range(8))


class Ledger:
    """The script by a clock that the test moves."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self.now_ms = 1_000_000

    async def run(
        self,
        member: str,
        *,
        store: str = "s1",
        wish: int = 0,
        ttl_ms: float = 5000,
        shards: float = 8,
    ) -> list[Any]:
        terms = struct.pack("<dddB", self.now_ms, ttl_ms, shards, wish)
        args = (member.encode(), store.encode(), b"events", terms)
        runner = RedisRunner(self.client)
        return await runner.run(load_scripts()["lease"], (KEYS.common("exporters"),), args)

    async def shards(self, member: str) -> set[Any]:
        word, _, *shards = await self.run(member)
        assert word == b"leased"
        return set(shards)


@pytest.fixture
def ledger(valkey: redis.asyncio.Redis) -> Ledger:
    return Ledger(valkey)


async def test_the_only_exporter_holds_every_shard(ledger: Ledger) -> None:
    assert await ledger.shards("a") == ALL
    assert await ledger.run("a") == [b"leased", 1, *range(8)]


async def test_a_second_one_gets_half_at_the_first_one_s_next_renewal(ledger: Ledger) -> None:
    await ledger.shards("a")
    assert await ledger.shards("b") == set(), "nothing is free yet"
    assert await ledger.shards("a") == {0, 1, 2, 3}
    assert await ledger.shards("b") == {4, 5, 6, 7}
    assert await ledger.shards("a") == {0, 1, 2, 3}


async def test_three_share_so_that_no_shard_is_left_out_and_none_is_held_twice(
    ledger: Ledger,
) -> None:
    for _ in range(4):
        held = [await ledger.shards(member) for member in "abc"]
    assert sorted(shard for shards in held for shard in shards) == sorted(ALL)
    assert max(len(shards) for shards in held) == 3


async def test_a_dead_one_s_shards_are_free_when_its_time_is_over_and_not_before(
    ledger: Ledger,
) -> None:
    await ledger.shards("a")
    await ledger.shards("b")
    await ledger.shards("a")
    await ledger.shards("b")
    ledger.now_ms += 4999
    assert await ledger.shards("b") == {4, 5, 6, 7}
    ledger.now_ms += 1
    assert await ledger.shards("b") == ALL
    found = await list_exporters(ledger.client, KEYS)
    assert set(found.expires_at_ms) == {"b"}, "the dead one is forgotten"


async def test_one_that_leaves_frees_its_shards_at_once(ledger: Ledger) -> None:
    await ledger.shards("a")
    await ledger.shards("b")
    await ledger.shards("a")
    assert await ledger.run("a", wish=1) == [b"left"]
    assert await ledger.shards("b") == ALL


async def test_a_restarted_one_goes_on_at_once(ledger: Ledger) -> None:
    assert await ledger.shards("a") == ALL
    assert await ledger.shards("a") == ALL


async def test_an_exporter_of_another_store_holds_nothing(ledger: Ledger) -> None:
    await ledger.shards("a")
    assert await ledger.run("b", store="s2") == [b"other_store", b"s1", b"events"]
    assert await ledger.shards("a") == ALL
    ledger.now_ms += 10_000
    assert (await ledger.run("b", store="s2"))[0] == b"other_store", "the record stays"


async def test_another_store_is_adopted_only_when_nobody_exports(ledger: Ledger) -> None:
    await ledger.shards("a")
    assert await ledger.run("b", store="s2", wish=2) == [b"in_use", 1]
    assert await ledger.run("a", wish=2) == [b"left"], "the same store can be"
    await ledger.shards("a")
    ledger.now_ms += 5000
    assert await ledger.run("b", store="s2", wish=2) == [b"left"]
    assert await ledger.run("b", store="s2") == [b"leased", 1, *range(8)]
    assert (await ledger.run("a"))[0] == b"other_store"


@pytest.mark.parametrize(
    "bad",
    [{"shards": 0}, {"shards": 1025}, {"shards": 1.5}, {"ttl_ms": -1}, {"wish": 3}],
)
async def test_bad_arguments_change_nothing(ledger: Ledger, bad: dict[str, Any]) -> None:
    assert await ledger.run("a", **bad) == [b"bad_arguments"]
    assert await ledger.client.exists(KEYS.common("exporters")) == 0


async def test_the_bounds_themselves_are_good(ledger: Ledger) -> None:
    assert await ledger.run("a", shards=1) == [b"leased", 1, 0]
    assert len(await ledger.run("a", shards=1024)) == 2 + 1024


async def test_by_the_ledger_s_clock(valkey: redis.asyncio.Redis) -> None:
    runner = RedisRunner(valkey)
    one, two = (Leases(runner, KEYS, name, ttl_ms=60_000) for name in ("one", "two"))
    await one.leave()  # before it has begun: nothing
    assert (await one.lease("s1", "events")).shards == ALL
    with pytest.raises(OtherStore, match="events"):
        await two.lease("s2", "warehouse")
    with pytest.raises(StoreInUse):
        await two.adopt("s2", "warehouse")
    found = await list_exporters(valkey, KEYS)
    assert (found.store_id, found.store_name) == ("s1", "events")
    assert found.owners == dict.fromkeys(range(8), "one")
    seconds, micros = await valkey.time()
    left_ms = found.expires_at_ms["one"] - (seconds * 1000 + micros // 1000)
    assert 50_000 < left_ms <= 60_000
    await one.leave()
    await two.adopt("s2", "warehouse")
    assert (await two.lease("s2", "warehouse")).shards == ALL


async def test_of_what_a_dead_one_leaves_each_takes_its_share_and_no_more(ledger: Ledger) -> None:
    await ledger.shards("a")
    assert await ledger.shards("b") == await ledger.shards("c") == set()
    ledger.now_ms += 4999
    await ledger.shards("b")
    await ledger.shards("c")
    ledger.now_ms += 1
    assert await ledger.shards("b") == {0, 1, 2, 3}
    assert await ledger.shards("c") == {4, 5, 6, 7}


async def test_a_store_may_be_called_like_a_field(valkey: redis.asyncio.Redis) -> None:
    for name in ("m:ghost", "s:3", "store_id"):
        await valkey.flushall()
        leases = Leases(RedisRunner(valkey), KEYS, "a")
        for _ in range(2):
            assert (await leases.lease("s1", name)).shards == ALL
        found = await list_exporters(valkey, KEYS)
        assert (found.store_name, set(found.expires_at_ms)) == (name, {"a"})
