"""What a gate asks of the servers of a cluster before it starts on them, and while it runs."""

from pathlib import Path
from typing import Any

import pytest

from gateway.app.ledger_server import RemoteServer, Where
from gateway.app.parts import CannotStart
from gateway.ledger.client.cluster.durability import read_promises
from gateway.ledger.client.durability import FAILOVER, PROMISES, UnfitServer
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.fitness import common_trouble, find_troubles
from gateway.ledger.client.rights import CLUSTER_COMMANDS, NAMES, missing_rights
from gateway.ledger.client.servers import locate
from loadtest.topology.cluster import Cluster
from tests.ledger.servers import free_port, server
from tests.support.clusters import KEYS, away, ordinary
from tests.support.stores import sqlite_access


def where(folder: Path) -> Where:
    return Where(KEYS.namespace, KEYS.shard_count, sqlite_access(folder / "events.db"))


async def user(client: Any, *rules: str, only: int | None = None) -> None:
    """Make a user with what is needed and these rules: at every node, or the rules at one only."""
    needed = [f"+{name.lower()}" for name in sorted(NAMES)]
    needed += ["+" + "|".join(words).lower() for words in CLUSTER_COMMANDS]
    for at, (_, node) in enumerate(await client.nodes()):
        extra = rules if only in (None, at) else ()
        await node.execute_command(
            "ACL", "SETUSER", "gate", "reset", "on", ">secret", "~{cg*", "&{cg}:*", *needed, *extra
        )


async def missing(url: str) -> list[str]:
    client = locate(url.replace("//", "//gate:secret@")).client(name="test")
    try:
        return await missing_rights(client, "cg")
    finally:
        await client.aclose()


async def test_nothing_more_is_needed_than_what_is_asked_for(client: Any, url: str) -> None:
    await user(client)
    assert await missing(url) == []
    await user(client, "-hset", "-asking")
    assert await missing(url) == ["ASKING", "HSET"]
    server_name = [name for name, _ in await client.nodes()][1]
    await user(client, "-xadd", only=1)
    assert await missing(url) == [f"XADD at {server_name}"]


async def test_a_user_that_may_not_ask_for_the_slots_is_refused_with_that(
    client: Any, url: str
) -> None:
    await user(client, "-cluster")
    with pytest.raises(LedgerUnavailable, match=r"NOPERM.*cluster"):
        await missing(url)


async def test_the_weakest_promise_counts_and_warnings_name_their_node(client: Any) -> None:
    nodes = await client.nodes()
    every = await read_promises(client)
    assert every.persistence == "aof_everysec"
    assert every.promise == f"{PROMISES['aof_everysec']} {FAILOVER}"
    assert every.verified
    server_name, node = nodes[0]
    try:
        await node.config_set("appendonly", "no")
        await node.config_set("save", "")
        weaker = await read_promises(client)
        assert weaker.persistence == "none"
        await node.config_set("cluster-require-full-coverage", "yes")
        (coverage,) = [w for w in (await read_promises(client)).warnings if "coverage" in w]
        assert coverage.startswith(f"{server_name}: cluster-require-full-coverage is yes")
        await node.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(UnfitServer, match=f"node {server_name}: maxmemory-policy is allkeys"):
            await read_promises(client)
    finally:
        await node.config_set("maxmemory-policy", "noeviction")
        await node.config_set("cluster-require-full-coverage", "no")
        await node.config_set("appendonly", "yes")


async def test_a_node_that_is_away_is_named_and_the_others_serve(
    cluster: Cluster, client: Any, url: str, tmp_path: Path
) -> None:
    node = ordinary(cluster)
    name = str(node.address)
    remote = RemoteServer(url, None, where(tmp_path))
    async with away(cluster, node, client):
        found = await read_promises(client)
        assert not found.verified
        assert any(name in warning and "cannot be asked" in warning for warning in found.warnings)
        troubles = await find_troubles(client)
        assert [who for who, trouble in troubles.items() if trouble] == [name]
        assert common_trouble(troubles) is None
        assert await remote.start() == url
        state = await remote.look()
        assert (state.problem, list(state.nodes)) == (None, [f"{name}_unreachable"])
        assert name in state.nodes[f"{name}_unreachable"]
    state = await remote.look()
    assert (state.problem, state.nodes) == (None, {})
    await remote.stop()


async def test_the_url_of_one_server_that_is_a_node_of_a_cluster_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    remote = RemoteServer(f"redis://{cluster.addresses[0]}", None, where(tmp_path))
    with pytest.raises(CannotStart, match=r"a node of a cluster: write redis\+cluster://HOST:PORT"):
        await remote.start()
    await remote.stop()


async def test_the_url_of_a_cluster_that_is_one_server_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.app.ledger_server.WAIT_FOR_SERVER_S", 0.0)
    port = free_port()
    with server(tmp_path / "own", "--port", str(port)):
        remote = RemoteServer(f"redis+cluster://127.0.0.1:{port}", None, where(tmp_path))
        with pytest.raises(CannotStart, match="is in no cluster: write redis://"):
            await remote.start()
        await remote.stop()
