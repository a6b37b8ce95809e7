"""A process learns from the store what the ledger should have, before it trusts the ledger."""

import struct
from pathlib import Path

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from gateway.app.ledger_server import RemoteServer, Where
from gateway.app.shards import KeyDirectory, ShardWatch
from gateway.domain.delivery import Place
from gateway.domain.stores import StoreMissing
from gateway.exporter.sink import Batch
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable, ShardClosed
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.outbox import Outbox
from tests.support.loose_ledger import LooseLedger
from tests.support.stores import cursors_at, sqlite_access, sqlite_sink


async def store_at(path: Path, ends: dict[int, Place]) -> None:
    sink = sqlite_sink(path)
    await sink.open()
    await sink.write(Batch(ends=ends))
    await sink.close()


def watch_on(valkey: redis.asyncio.Redis, path: Path) -> tuple[LooseLedger, ShardWatch]:
    ledger = LooseLedger(RedisRunner(valkey), shard_count=4)
    return ledger, ShardWatch(ledger.shards, Outbox(valkey, 4), sqlite_access(path))


async def test_a_shard_that_has_less_than_the_store_is_frozen_and_others_are_not(
    valkey: redis.asyncio.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    ledger, watch = watch_on(valkey, path)
    shard = ledger.keys.shard_of("acme")
    await ledger.account("acme", account_rev=1)
    assert await watch.look() == frozenset()
    await store_at(path, {shard: Place(1, 0)})
    assert await watch.look() == frozenset()
    await store_at(path, {shard: Place(1, 1)})
    fresh, watch = watch_on(valkey, path)
    assert await watch.look() == {shard}
    with pytest.raises(ShardClosed):
        await fresh.grant("acme", "g1", 5)
    path.unlink()
    _, unknowing = watch_on(valkey, path)
    assert await unknowing.look() == {shard}, "the finding is in the shard's own record"


async def test_an_emptied_shard_is_frozen_too(valkey: redis.asyncio.Redis, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    await store_at(path, {3: Place(1, 7)})
    _, watch = watch_on(valkey, path)
    assert await watch.look() == {3}


async def test_a_store_that_cannot_be_read_is_not_an_empty_one(
    valkey: redis.asyncio.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    assert cursors_at(path) == {}
    path.mkdir()
    with pytest.raises(StoreMissing):
        cursors_at(path)
    _, watch = watch_on(valkey, path)
    with pytest.raises(LedgerUnavailable) as caught:
        await watch.look()
    assert caught.value.code == "STORE"


async def test_an_unknown_key_is_no_bad_key_while_entries_are_lost(
    valkey: redis.asyncio.Redis,
) -> None:
    store = AccountStore(valkey, shard_count=4)
    await store.creation.record()
    closed: set[int] = set()
    directory = KeyDirectory(store, lambda: frozenset(closed))
    assert await directory.find_key("d" * 64) is None
    closed.add(1)
    with pytest.raises(LedgerUnavailable, match="may have lost this key"):
        await directory.find_key("d" * 64)


async def test_the_supervisor_sees_frozen_shards_and_says_each_change_once(
    valkey: redis.asyncio.Redis, valkey_socket: Path, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    await store_at(path, {3: Place(1, 7)})
    remote = RemoteServer(f"unix://{valkey_socket}", "none", Where("cg", 4, sqlite_access(path)))
    await remote.start()
    with capture_logs() as logs:
        assert [(await remote.look()).frozen for _ in range(2)] == [(3,), (3,)]
        await valkey.set("{cg:3}:meta", struct.pack("<BBHdddd", 1, 0, 0, 2, -1, 7, 1))
        assert [(await remote.look()).frozen for _ in range(2)] == [(), ()]
    assert [(line["event"], line["shard"]) for line in logs] == [
        ("shard_frozen", 3),
        ("shard_reopened", 3),
    ]
    await remote.stop()


async def test_the_supervisor_says_what_is_wrong_with_the_server(
    valkey: redis.asyncio.Redis, valkey_socket: Path, tmp_path: Path
) -> None:
    remote = RemoteServer(
        f"unix://{valkey_socket}", "none", Where("cg", 4, sqlite_access(tmp_path / "none.db"))
    )
    await remote.start()
    await valkey.config_set("maxmemory-policy", "allkeys-lru")
    try:
        state = await remote.look()
    finally:
        await valkey.config_set("maxmemory-policy", "noeviction")
    assert state.problem == "ledger_evicts"
    assert "set it to noeviction" in state.detail
    assert (await remote.look()).problem is None
    await remote.stop()


async def test_a_store_that_lacks_what_was_trimmed_is_not_believed(
    valkey: redis.asyncio.Redis, tmp_path: Path
) -> None:
    """Another gate's store is the required one."""
    ledger, watch = watch_on(valkey, tmp_path / "events.db")
    shard = ledger.keys.shard_of("acme")
    await ledger.account("acme", account_rev=1)
    await watch.look()
    await ledger.shards.ack(shard, 1, 0)
    found = []
    for _ in range(2):
        await watch.look()
        found.append(watch.store_has_all)
    assert found == [True, False], "at first the store may have committed it since it was read"
    await store_at(tmp_path / "events.db", {shard: Place(1, 0)})
    await watch.look()
    assert watch.store_has_all
