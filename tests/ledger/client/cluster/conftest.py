"""A real cluster of three primaries with a replica each, for the tests of this folder."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from gateway.ledger.client.cluster.runner import ClusterRunner
from loadtest.topology.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture
async def endpoint(cluster: Cluster) -> ClusterEndpoint:
    """Known by two of its nodes, as a configuration would have it."""
    hosts = ",".join(f"{each.host}:{each.port}" for each in cluster.addresses[:2])
    return ClusterEndpoint.from_url(f"redis+cluster://{hosts}")


@pytest.fixture
async def client(endpoint: ClusterEndpoint) -> AsyncIterator[ClusterClient]:
    opened: Any = endpoint.client(name="test", timeout_s=1.0)
    for _, node in await opened.nodes():
        await node.flushall()
    yield opened
    await opened.aclose()


@pytest.fixture
async def runner(endpoint: ClusterEndpoint, client: ClusterClient) -> AsyncIterator[ClusterRunner]:
    async with endpoint.runner(name="test") as started:
        yield started
