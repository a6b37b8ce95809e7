"""Real servers, asked what they allow and keep: one, a cluster, and users that may do little."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio

from gateway.ledger.client.durability import FAILOVER, PROMISES, Persistence
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.rights import NAMES
from gateway.ledger.client.servers import locate
from gateway.ledger.client.survey.ledger import LedgerSurvey, survey_ledger, topology_of
from gateway.ledger.client.survey.node import SETTINGS, NodeReport
from gateway.ledger.codec.key_names import Keys
from loadtest.topology.cluster import Cluster
from loadtest.topology.options import Options
from tests.ledger.servers import server

KEYS = Keys("cg", 16)


async def survey(url: str, declared: Persistence | None = None) -> LedgerSurvey:
    servers = locate(url)
    client = servers.client(name="test")
    try:
        return await survey_ledger(client, servers.shown, KEYS, declared)
    finally:
        await client.aclose()


def user(*rules: str) -> list[str]:
    """Settings of a server: the user `gate`, with what the ledger needs and these rules."""
    needed = [f"+{name.lower()}" for name in sorted(NAMES)]
    return ["--user", "gate", "on", ">secret", "~{cg*", "&{cg}:*", *needed, *rules]


@asynccontextmanager
async def survey_of(folder: Path, *settings: str) -> AsyncIterator[tuple[NodeReport, Path]]:
    """The only node of a server with these settings, as its default user."""
    with server(folder, *settings) as own:
        found = await survey(f"unix://{own.socket}")
        (node,) = found.nodes
        yield node, own.socket


async def test_one_server_says_everything(tmp_path: Path) -> None:
    always = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "100mb")
    async with survey_of(tmp_path, *always) as (node, socket):
        assert (node.name, node.away) == (str(socket), None)
        assert node.server is not None
        assert node.server.startswith("Valkey 9.")
        assert (node.role, node.in_cluster, node.shards) == ("primary", False, 16)
        assert node.replicas is not None
        assert (node.replicas.count, node.replicas.lag_bytes) == (0, None)
        assert node.kept is not None
        assert (node.kept.persistence, node.kept.verified) == ("aof_always", True)
        assert node.promise == PROMISES["aof_always"]
        assert node.eviction == "noeviction"
        assert node.maxmemory_bytes == 100 * 2**20
        assert node.settings is not None
        assert node.settings.keys() == set(SETTINGS)
        assert node.waits == {"WAIT": True, "WAITAOF": True}
        assert node.scripts is None
        assert node.missing_rights == ()
        assert node.timing is not None
        assert node.timing.round_trip_ms > 0
        assert node.timing.clock_ahead_ms is not None
        assert abs(node.timing.clock_ahead_ms) < 1000  # the clock is this machine's


async def test_asking_leaves_no_key_behind(tmp_path: Path) -> None:
    async with survey_of(tmp_path) as (_, socket):
        client = redis.asyncio.Redis(unix_socket_path=str(socket))
        assert await client.dbsize() == 0
        await client.aclose()


async def test_a_server_that_evicts_and_keeps_nothing_says_so(tmp_path: Path) -> None:
    lossy = ("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
    async with survey_of(tmp_path, *lossy) as (node, _):
        assert node.eviction == "allkeys-lru"
        assert node.promise == PROMISES["none"]


async def test_a_user_without_config_is_taken_at_its_word_and_the_word_is_not_verified(
    tmp_path: Path,
) -> None:
    """As managed services block CONFIG."""
    with server(tmp_path, *user(), "--appendonly", "yes") as own:
        url = f"unix://gate:secret@{own.socket}"
        (node,) = (await survey(url)).nodes
        (declared,) = (await survey(url, "aof_always")).nodes
    assert node.settings is None
    assert node.eviction == "noeviction"  # INFO says it
    assert node.missing_rights == ()
    assert node.scripts is None
    assert node.waits == {"WAIT": False, "WAITAOF": False}
    assert node.kept is not None
    assert (node.kept.persistence, node.kept.verified) == ("aof_os", False)
    assert declared.kept is not None
    assert (declared.kept.persistence, declared.kept.verified) == ("aof_always", False)
    assert declared.promise == PROMISES["aof_always"]


async def test_a_user_without_scripts_and_clock_is_shown_what_it_lacks(tmp_path: Path) -> None:
    with server(tmp_path, *user("-evalsha", "-time", "-hset")) as own:
        (node,) = (await survey(f"unix://gate:secret@{own.socket}")).nodes
    assert node.missing_rights == ("EVALSHA", "HSET", "TIME")
    assert node.scripts is not None
    assert "evalsha" in node.scripts
    assert node.timing is not None
    assert node.timing.clock_ahead_ms is None


async def test_a_user_who_may_not_ask_is_a_server_that_cannot_be_asked(tmp_path: Path) -> None:
    with server(tmp_path, *user("-info")) as own:
        (node,) = (await survey(f"unix://gate:secret@{own.socket}")).nodes
    assert node.away is not None
    assert "NOPERM" in node.away
    assert node.server is None


async def test_a_server_that_is_not_there_cannot_be_asked(tmp_path: Path) -> None:
    (node,) = (await survey(f"unix://{tmp_path / 'nothing'}")).nodes
    assert node.away is not None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    options = Options(settings={"min-replicas-to-write": "0", "cluster-node-timeout": "60000"})
    with Cluster(tmp_path_factory.mktemp("cluster"), options=options) as started:
        yield started


def url_of(cluster: Cluster) -> str:
    return f"redis+cluster://{cluster.addresses[0]}"


async def test_every_primary_of_a_cluster_is_asked(cluster: Cluster) -> None:
    found = await survey(url_of(cluster))
    primaries = await asyncio.to_thread(cluster.primaries)
    assert found.topology == "cluster"
    assert {node.name for node in found.nodes} == {str(node.address) for node in primaries}
    assert sum(node.shards or 0 for node in found.nodes) == 16
    for node in found.nodes:
        assert (node.role, node.in_cluster, node.cluster_state) == ("primary", True, "ok")
        assert node.replicas is not None
        assert node.replicas.count == 1
        assert node.replicas.lag_bytes is not None
        assert node.promise is not None
        assert node.promise.endswith(FAILOVER)
        assert node.settings is not None
        assert node.settings["cluster-require-full-coverage"] == "no"
        assert node.settings["cluster-node-timeout"] == "60000"
        assert (node.scripts, node.missing_rights) == (None, ())
    assert found.clock_skew_ms is not None
    assert found.clock_skew_ms < 1000


async def test_a_node_that_is_away_is_named_and_the_others_are_asked(cluster: Cluster) -> None:
    frozen, *rest = await asyncio.to_thread(cluster.primaries)
    seed = next(node for node in rest)
    frozen.freeze()
    try:
        found = await survey(f"redis+cluster://{seed.address}")
    finally:
        frozen.thaw()
    by_name = {node.name: node for node in found.nodes}
    away = by_name.pop(str(frozen.address))
    assert away.away is not None
    assert away.shards
    assert [node.away for node in by_name.values()] == [None, None]


async def test_a_cluster_that_is_not_there_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        await survey("redis+cluster://127.0.0.1:1")


@pytest.mark.parametrize(
    ("url", "topology"),
    [
        ("redis://h:1/0", "single server"),
        ("unix:///run/s", "single server"),
        ("rediss+cluster://h:1,i:2", "cluster"),
        ("redis+sentinel://h:1/ledger", "server behind Sentinels"),
    ],
)
def test_the_scheme_says_how_servers_work_together(url: str, topology: str) -> None:
    assert topology_of(url) == topology


def test_a_managed_service_is_recognised_before_it_answers() -> None:
    found = LedgerSurvey.unasked("rediss://gate@ledger.westeurope.redis.azure.net:10000/0")
    assert found.managed is not None
    assert found.managed.name == "Azure Managed Redis"
