"""A cluster that asks for a user and password, and one that speaks TLS alone."""

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.key_names import Keys
from loadtest.tls import make_tls_files
from loadtest.topology.cluster import Cluster
from loadtest.topology.options import Access, Options
from tests.ledger.client.cluster.test_runner import ADD
from tests.support.topology import Topologies, topologies  # noqa: F401

NAMES = Keys()
PASSWORD = "p@ss:w/o#rd"


def url_of(cluster: Cluster, access: Access, *, scheme: str = "redis", password: str = "") -> str:
    hosts = ",".join(map(str, cluster.addresses[:2]))
    entry = f"{access.user}:{quote(password or access.password, safe='')}"
    options = f"?ssl_ca_certs={access.tls.authority}" if access.tls else ""
    return f"{scheme}+cluster://{entry}@{hosts}/{options}"


async def works(url: str, cluster: Cluster) -> None:
    """Scripts and commands on every shard, also on the node of one that has failed over."""
    endpoint = ClusterEndpoint.from_url(url)
    client: Any = endpoint.client(name="test")
    async with endpoint.runner(name="test") as runner:
        for shard in range(64):
            assert (await runner.run(ADD, [NAMES.meta(shard)], [b"1"]))[1] == 1
        cluster.failover(cluster.replicas(cluster.primaries()[0])[0])
        for shard in range(64):
            assert (await runner.run(ADD, [NAMES.meta(shard)], [b"1"]))[1] == 2
            assert await client.get(NAMES.meta(shard)) == b"2"
    await client.aclose()
    assert PASSWORD not in repr(endpoint) + repr(runner)


async def test_every_node_is_entered_with_the_user_of_the_url(
    topologies: Topologies,  # noqa: F811
) -> None:
    access = Access("gate", PASSWORD)
    cluster = topologies.cluster(options=Options(access=access))
    await works(url_of(cluster, access), cluster)
    endpoint = ClusterEndpoint.from_url(url_of(cluster, access, password="wrong"))
    with pytest.raises(LedgerUnavailable) as caught:
        await endpoint.runner(name="test").start()
    assert "password" in str(caught.value)
    assert "wrong@" not in str(caught.value)


@pytest.mark.debian
async def test_every_node_is_entered_by_tls(
    topologies: Topologies,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert shutil.which("redis-server"), "install Debian's redis-server"
    access = Access("gate", PASSWORD, make_tls_files(tmp_path))
    cluster = topologies.cluster(options=Options(binary="redis-server", access=access))
    await works(url_of(cluster, access, scheme="rediss"), cluster)
