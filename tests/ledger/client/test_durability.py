"""What is promised for each server, read from real ones; what is refused."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.ledger.client.durability import (
    PROMISES,
    Durability,
    Persistence,
    UnfitServer,
    WaitAof,
    read_durability,
)
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from tests.ledger.servers import server

NO_CONFIG = ("--user", "gate", "on", "nopass", "~*", "+@all", "-config")


async def read(
    folder: Path, *settings: str, user: str = "default", declared: Persistence | None = None
) -> Durability:
    with server(folder, *settings) as own:
        async with client_of(Endpoint.from_url(f"unix://{user}:x@{own.socket}")) as client:
            return await read_durability(client, declared=declared)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def client_of(endpoint: Endpoint) -> AsyncIterator[redis.asyncio.Redis]:
    client = endpoint.client(name="test")
    yield client
    await client.aclose()


@pytest.mark.parametrize(
    ("settings", "persistence"),
    [
        (("--appendonly", "no"), "none"),
        (("--appendonly", "no", "--save", "900", "1"), "rdb"),
        (("--appendonly", "yes", "--appendfsync", "no"), "aof_os"),
        (("--appendonly", "yes", "--appendfsync", "everysec"), "aof_everysec"),
        (("--appendonly", "yes", "--appendfsync", "always"), "aof_always"),
    ],
)
async def test_each_configuration_is_told_from_the_others(
    tmp_path: Path, settings: tuple[str, ...], persistence: Persistence
) -> None:
    found = await read(tmp_path, *settings, "--maxmemory", "100mb")
    assert found.persistence == persistence
    assert found.promise == PROMISES[persistence]
    assert found.verified
    assert found.warnings == ()
    assert found.server.startswith("Valkey 9.")


async def test_bytes_or_text_the_answer_is_the_same(
    valkey_socket: Path, valkey: redis.asyncio.Redis
) -> None:
    text = redis.asyncio.Redis(unix_socket_path=str(valkey_socket), decode_responses=True)
    assert await read_durability(text) == await read_durability(valkey)
    await text.aclose()


async def test_a_server_that_may_evict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnfitServer, match="maxmemory-policy is allkeys-lru"):
        await read(tmp_path, "--maxmemory-policy", "allkeys-lru")
    with pytest.raises(UnfitServer, match="volatile-ttl"):  # a declaration does not help
        await read(tmp_path, "--maxmemory-policy", "volatile-ttl", declared="aof_always")


async def test_a_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnfitServer, match="cluster"):
        await read(
            tmp_path,
            *("--cluster-enabled", "yes", "--bind", "127.0.0.1"),
            *("--port", str(free_port()), "--cluster-port", str(free_port())),
        )


async def test_a_replica_is_refused(tmp_path: Path) -> None:
    with server(tmp_path) as own:
        async with client_of(Endpoint.from_socket(own.socket)) as client:
            await client.replicaof("127.0.0.1", "1")
            with pytest.raises(UnfitServer, match="is a replica"):
                await read_durability(client)


async def test_without_config_nothing_is_assumed_but_the_weakest(tmp_path: Path) -> None:
    blocked = await read(tmp_path / "a", *NO_CONFIG, user="gate")
    assert (blocked.persistence, blocked.verified) == ("none", False)
    aof = await read(tmp_path / "b", *NO_CONFIG, "--appendonly", "yes", user="gate")
    assert (aof.persistence, aof.verified) == ("aof_os", False)
    assert any("assumed, not verified" in warning for warning in aof.warnings)


async def test_a_declaration_fills_what_cannot_be_read_and_shows_as_unverified(
    tmp_path: Path,
) -> None:
    found = await read(
        tmp_path, *NO_CONFIG, "--appendonly", "yes", user="gate", declared="aof_everysec"
    )
    assert (found.persistence, found.verified) == ("aof_everysec", False)
    assert any("declared, not verified" in warning for warning in found.warnings)


async def test_a_declaration_never_outweighs_what_was_read(tmp_path: Path) -> None:
    found = await read(tmp_path, "--appendonly", "no", declared="aof_always")
    assert (found.persistence, found.verified) == ("none", True)
    assert any("Declared is aof_always" in warning for warning in found.warnings)


async def test_a_loophole_of_always_and_unbounded_memory_are_warned_of(tmp_path: Path) -> None:
    always = ("--appendonly", "yes", "--appendfsync", "always")
    found = await read(tmp_path, *always, "--no-appendfsync-on-rewrite", "yes")
    assert any("no-appendfsync-on-rewrite" in warning for warning in found.warnings)
    assert any("maxmemory is not set" in warning for warning in found.warnings)


async def test_waiting_for_the_disk_needs_always(tmp_path: Path) -> None:
    everysec = await read(tmp_path / "a", "--appendonly", "yes", "--appendfsync", "everysec")
    with pytest.raises(UnfitServer, match="needs appendfsync always"):
        everysec.waitaof(100)
    always = await read(tmp_path / "b", "--appendonly", "yes", "--appendfsync", "always")
    assert always.waitaof(100) == WaitAof(100)
    with pytest.raises(ValueError, match="outside"):
        always.waitaof(0)


async def test_a_server_that_is_away_is_unavailable(tmp_path: Path) -> None:
    async with client_of(Endpoint.from_socket(tmp_path / "nothing")) as client:
        with pytest.raises(LedgerUnavailable):
            await read_durability(client)


class Answers:
    """A server of a kind that is not to be had here, by what it answers."""

    def __init__(self, **info: Any) -> None:
        self._info = {"redis_version": "7.2.0", "maxmemory_policy": "noeviction"} | info

    async def info(self, section: str) -> dict[str, Any]:
        return {name: value for name, value in self._info.items() if value is not None}

    async def config_get(self, *names: str) -> dict[str, str]:
        raise redis.ResponseError("unknown command 'CONFIG'")


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"redis_version": "6.2.14"}, "Redis 6.2.14 is too old"),
        ({"redis_version": None}, "does not say its version"),
        ({"redis_version": "new"}, "does not say its version"),
        ({"redis_mode": "sentinel"}, "is a Sentinel"),
        ({"redis_mode": "cluster"}, r"write redis\+cluster://"),
        ({"maxmemory_policy": None}, "does not say its maxmemory-policy"),
    ],
)
async def test_an_unfit_server_is_told_why(info: dict[str, Any], says: str) -> None:
    with pytest.raises(UnfitServer, match=says):
        await read_durability(Answers(**info))  # type: ignore[arg-type]


async def test_a_managed_service_may_be_vouched_for() -> None:
    found = await read_durability(
        Answers(maxmemory_policy=None),  # type: ignore[arg-type]
        declared="aof_always",
    )
    assert (found.persistence, found.verified) == ("aof_always", False)
    assert any("nothing is evicted is declared" in warning for warning in found.warnings)


async def test_replicas_add_what_a_failover_may_lose_and_old_servers_have_no_waitaof() -> None:
    found = await read_durability(
        Answers(redis_version="7.0.15", aof_enabled=1, connected_slaves=1),  # type: ignore[arg-type]
        declared="aof_always",
    )
    assert "failover" in found.promise
    with pytest.raises(UnfitServer, match=r"needs Redis 7\.2"):
        found.waitaof(100)
