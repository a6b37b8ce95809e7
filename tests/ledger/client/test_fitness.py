"""What a server that cannot hold the ledger any more is called, and what is said of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from gateway.app.ledger_server import RemoteServer, Where
from gateway.app.parts import CannotStart
from gateway.ledger import changes
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.faults import refusal_of, said_by
from gateway.ledger.client.fitness import find_trouble, read_trouble
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.creation import Creation
from tests.ledger.servers import OwnServer, server
from tests.support.loose_ledger import LooseLedger
from tests.support.stores import sqlite_access


@pytest.fixture
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnServer]:
    with server(tmp_path_factory.mktemp("own")) as started:
        yield started


@pytest.fixture
async def admin(own: OwnServer) -> AsyncIterator[Any]:
    client = redis.asyncio.Redis(unix_socket_path=str(own.socket))
    yield client
    await client.aclose()


@pytest.mark.parametrize(
    ("info", "word"),
    [
        ({"loading": 1}, "ledger_loading"),
        ({"role": "slave"}, "ledger_is_replica"),
        ({"maxmemory_policy": "allkeys-lru"}, "ledger_evicts"),
        ({"maxmemory": 10, "used_memory": 10}, "ledger_out_of_memory"),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, "ledger_disk_failed"),
        ({"min_slaves_good_slaves": 0}, "ledger_lacks_replicas"),
    ],
)
def test_each_state_has_a_word(info: dict[str, Any], word: str) -> None:
    trouble = read_trouble(info)
    assert trouble is not None
    assert trouble.word == word
    assert trouble.moved == (word in ("ledger_loading", "ledger_is_replica"))
    assert trouble.barred == (word == "ledger_evicts")


def test_a_fit_server_has_none() -> None:
    assert read_trouble({"role": "master", "maxmemory_policy": "noeviction"}) is None
    assert read_trouble({"maxmemory": 10, "used_memory": 9}) is None
    assert read_trouble({"min_slaves_good_slaves": 1}) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ReadOnlyError("You can't write against a read only replica."), "READONLY"),
        (MasterDownError("Link with MASTER is down"), "MASTERDOWN"),
        (BusyLoadingError("Redis is loading the dataset in memory"), "LOADING"),
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "OOM"),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS"),
        (NoPermissionError("User gate has no permissions to run the 'hget' command"), "NOPERM"),
    ],
)
def test_a_refusal_is_known_by_the_server_s_own_word(error: Exception, code: str) -> None:
    refusal = refusal_of(error)
    assert refusal is not None
    assert (refusal.code, refusal.unknown) == (code, False)
    assert f"({code})" in str(refusal)


async def test_a_refusal_in_a_pipeline_is_known_too(own: OwnServer, admin: Any) -> None:
    await admin.config_set("min-replicas-to-write", 1)
    with pytest.raises(LedgerUnavailable, match=r"fewer replicas than it requires") as refused:
        await Creation(admin, Keys("cg", 4)).record()
    assert refused.value.code == "NOREPLICAS"


def test_the_words_of_a_pipeline_s_error_are_the_server_s() -> None:
    for said in ("MISCONF it's full", "WRONGTYPE Operation against a key"):
        error = ResponseError(said)
        annotated = f"Command # 2 (HSET k 'f') of pipeline caused error: {error.args}"
        assert said_by(ResponseError(annotated)) == said
        assert said_by(error) == said


async def test_a_start_waits_for_replicas_and_then_says_what_is_missing(
    own: OwnServer, admin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.ledger_server.WAIT_FOR_SERVER_S", 0.0)
    await admin.config_set("min-replicas-to-write", 1)
    where = Where("cg", 4, sqlite_access(tmp_path / "events.db"))
    remote = RemoteServer(f"unix://{own.socket}", "none", where)
    with pytest.raises(CannotStart, match="min-replicas-to-write requires some"):
        await remote.start()
    await admin.config_set("min-replicas-to-write", 0)
    await remote.start()
    await remote.stop()


def test_what_is_no_refusal_stays_a_bug_or_a_lost_connection() -> None:
    assert refusal_of(ResponseError("WRONGTYPE Operation against a key")) is None
    assert refusal_of(OSError("reset")) is None


async def test_eviction_that_is_switched_on_later_is_found(own: OwnServer, admin: Any) -> None:
    assert await find_trouble(admin) is None
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    trouble = await find_trouble(admin)
    assert trouble is not None
    assert "maxmemory-policy is allkeys-lru" in trouble.sentence


async def test_a_primary_without_the_replicas_that_it_requires_says_so(
    own: OwnServer, admin: Any
) -> None:
    await admin.config_set("min-replicas-to-write", 1)
    trouble = await find_trouble(admin)
    assert trouble is not None
    assert trouble.word == "ledger_lacks_replicas"
    assert "NOREPLICAS" in trouble.sentence
    await admin.config_set("min-replicas-to-write", 0)
    assert await find_trouble(admin) is None


async def test_full_memory_refuses_a_read_s_neighbour_by_its_own_word(
    own: OwnServer, admin: Any
) -> None:
    await admin.config_set("maxmemory", "1mb")
    store = AccountStore(admin, shard_count=4)
    with pytest.raises(LedgerUnavailable, match=r"out of memory \(OOM\)"):
        await store.keys.add("d" * 64, "k1", "acme")
    trouble = await find_trouble(admin)
    assert trouble is not None
    assert trouble.word == "ledger_out_of_memory"


async def test_a_replica_says_so_to_every_kind_of_client(own: OwnServer, admin: Any) -> None:
    endpoint = Endpoint.from_socket(own.socket)
    client, other = endpoint.client(name="one"), endpoint.client(name="two")
    await other.ping()
    number = await other.client_id()
    await admin.replicaof("127.0.0.1", "1")
    with pytest.raises(LedgerUnavailable, match=r"is a replica; it takes no writes \(READONLY\)"):
        await LooseLedger(RedisRunner(client), shard_count=4).account("acme", account_rev=1)
    assert endpoint.moves.count == 1
    assert await other.client_id() != number, "it has connected anew, though it heard nothing"
    await client.aclose()
    await other.aclose()


async def test_a_connection_made_since_is_left_alone_by_older_news(own: OwnServer) -> None:
    endpoint = Endpoint.from_socket(own.socket)
    client = endpoint.client(name="one")
    endpoint.moves.moved()
    number = await client.client_id()
    endpoint.moves.moved(0)
    assert await client.client_id() == number
    await client.aclose()


async def test_a_server_that_is_away_is_unreachable(tmp_path: Path) -> None:
    client = Endpoint.from_socket(tmp_path / "none").client(name="test")
    trouble = await find_trouble(client)
    assert trouble is not None
    assert trouble.word == "ledger_unreachable"
    await client.aclose()
    await asyncio.sleep(0)


async def test_who_listens_for_changes_follows_too(
    own: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_LISTEN_S", 0.05)
    endpoint = Endpoint.from_socket(own.socket)
    client = endpoint.client(name="one")
    listening = asyncio.Event()
    following = asyncio.create_task(changes.Changes(client).follow(lambda _: None, listening.set))
    await listening.wait()
    assert not following.done()
    endpoint.moves.moved()
    with pytest.raises(LedgerUnavailable, match="the primary no more"):
        await asyncio.wait_for(following, 5)
    await client.aclose()
