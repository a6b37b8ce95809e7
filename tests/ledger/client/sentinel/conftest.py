"""A primary with two replicas and three Sentinels, for the tests of this folder."""

from collections.abc import Iterator

import pytest

from gateway.ledger.client.sentinel.endpoint import SentinelEndpoint
from loadtest.topology.options import Address
from loadtest.topology.sentinels import SERVICE, Sentinels


def hosts(addresses: list[Address]) -> str:
    return ",".join(str(address) for address in addresses)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    with Sentinels(tmp_path_factory.mktemp("watched")) as servers:
        yield servers


@pytest.fixture
def endpoint(watched: Sentinels) -> SentinelEndpoint:
    return SentinelEndpoint.from_url(f"redis+sentinel://{hosts(watched.addresses)}/{SERVICE}")
