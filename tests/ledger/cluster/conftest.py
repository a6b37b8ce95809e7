"""Real clusters of three primaries with a replica each, for the tests of this folder."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from loadtest.topology.cluster import Cluster
from loadtest.topology.options import Options


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Elects nobody by itself, so that a node that is killed stays away."""
    options = Options(settings={"cluster-replica-no-failover": "yes"})
    with Cluster(tmp_path_factory.mktemp("cluster"), options=options) as nodes:
        yield nodes


@pytest.fixture
def url(cluster: Cluster) -> str:
    """Names two of the nodes, as a configuration would."""
    return "redis+cluster://" + ",".join(str(each) for each in cluster.addresses[:2])


@pytest.fixture
async def endpoint(url: str) -> ClusterEndpoint:
    return ClusterEndpoint.from_url(url)


@pytest.fixture
async def client(endpoint: ClusterEndpoint) -> AsyncIterator[ClusterClient]:
    opened: Any = endpoint.client(name="test", timeout_s=1.0)
    for _, node in await opened.nodes():
        await node.flushall()
    yield opened
    await opened.aclose()
