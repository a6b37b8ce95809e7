"""Suites of the ledger's readers and directories, run on a cluster instead of one server."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from loadtest.topology.cluster import Cluster

OF_ONE_SERVER = {
    "test_a_change_between_a_writer_s_read_and_its_write_is_noticed",
    "test_a_lost_note_is_done_again_by_a_repair_and_needs_no_wallet",
    "test_a_note_that_the_store_lacks_gets_a_new_place",
    "test_a_repeated_note_answers_as_the_first_and_writes_nothing",
    "test_a_store_may_be_called_like_a_field",
    "test_an_account_is_read_with_its_record_and_key_in_one_round_trip",
    "test_an_emptied_ledger_has_no_modes_any_more",
    "test_the_runner_loads_scripts_that_the_server_forgot",
    "test_what_one_tells_all_take_in_order",
}
"""They empty or list their server, count its packets, or open another connection to it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave those out. The hook is called with the tests of all folders."""
    here = Path(__file__).parent
    items[:] = [
        item
        for item in items
        if item.path.parent != here or getattr(item, "originalname", "") not in OF_ONE_SERVER
    ]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all of them: each test empties it."""
    with Cluster(tmp_path_factory.mktemp("cluster"), replicas=0) as nodes:
        yield nodes


@pytest.fixture
async def valkey(cluster: Cluster) -> AsyncIterator[Any]:
    """In place of a client of one server."""
    endpoint = ClusterEndpoint.from_url(f"redis+cluster://{cluster.addresses[0]}")
    client: Any = endpoint.client(name="test")
    for _, node in await client.nodes():
        await node.flushall()
    yield client
    await client.aclose()
