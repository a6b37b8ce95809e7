"""A gate on a cluster of which a node is away: it starts, serves the others, and writes the rest later."""

import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from structlog.testing import capture_logs

from gateway.app.account_writer import AccountWriter
from gateway.app.gate import build_gate
from gateway.app.ledger_access import open_ledger
from gateway.app.roles import CannotServe, Resources
from gateway.app.shards import ShardWatch
from gateway.domain.delivery import Place
from gateway.exporter.sink import Batch
from gateway.ledger.accounts import AccountStore
from gateway.ledger.outbox import Outbox
from gateway.settings import Settings, load_settings
from loadtest.topology.cluster import Cluster
from tests.support.clusters import KEYS, away, customers_of, ordinary
from tests.support.gate import PLAIN, digest, gate_config
from tests.support.stores import sqlite_access, sqlite_sink
from tests.support.until import until
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

ALL = set(range(KEYS.shard_count))


@pytest.fixture
def settings(url: str, tmp_path: Path, sim: Sim) -> Settings:
    """A customer in every shard, whose key is its id."""
    customers = {
        name: {
            "grants": [{"name": "start", "amount": "10.00", "category": "paid"}],
            "keys": [{"id": f"k_{name}", "sha256": digest(f"sk-{name}")}],
        }
        for name in customers_of(ALL)
    }
    file = tmp_path / "gateway.yaml"
    config = gate_config(sim.url, tmp_path / "data", url, customers=customers)
    config["redis"]["shards"] = KEYS.shard_count
    file.write_text(yaml.safe_dump(config))
    return load_settings(file)


async def test_customers_of_a_node_that_is_away_are_written_when_it_is_back(
    cluster: Cluster, client: Any, url: str, settings: Settings
) -> None:
    writer, store = AccountWriter(), AccountStore(client, shard_count=KEYS.shard_count)
    async with away(cluster, ordinary(cluster), client) as shards:
        with capture_logs() as logs:
            await writer.write(settings, url)
        (waits,) = [each for each in logs if each["event"] == "customers_wait"]
        assert waits["shards"] == sorted(shards)
        await writer.write_rest()
        wallets, unknown = await store.wallets.read_reached(settings.customers)
        assert unknown == set(customers_of(shards))
        assert wallets.keys() == settings.customers.keys() - unknown
    await writer.write_rest()
    assert (await store.wallets.read(settings.customers)).keys() == settings.customers.keys()
    assert writer._left is None


async def test_a_gate_starts_without_one_node_and_serves_the_customers_of_the_others(
    cluster: Cluster, client: Any, url: str, settings: Settings
) -> None:
    await AccountWriter().write(settings, url)
    async with AsyncExitStack() as stack:
        shards = await stack.enter_async_context(away(cluster, ordinary(cluster)))
        gate = await build_gate(settings, Resources(url, str(settings.data_dir), "worker-0"))
        sock = socket.create_server(("127.0.0.1", 0))
        await gate.start(sock)
        base = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=base, timeout=30, verify=PLAIN) as http:

            async def statuses(of: set[int]) -> set[int]:
                return {
                    (
                        await http.post(
                            "/v1/chat/completions",
                            json={
                                "model": "small",
                                "messages": [{"role": "user", "content": "hi"}],
                            },
                            headers={"authorization": f"Bearer sk-{name}"},
                        )
                    ).status_code
                    for name in customers_of(of)
                }

            async def all_served() -> bool:
                return await statuses(shards) == {200}

            assert await statuses(ALL - shards) == {200}
            assert await statuses(shards) == {503}
            assert (await http.get("/readyz")).status_code == 200
            await stack.aclose()
            await until(all_served)
        await gate.drain(5.0)


async def test_without_the_node_of_the_keys_of_all_shards_nothing_starts_and_it_is_named(
    cluster: Cluster, client: Any, url: str, settings: Settings
) -> None:
    node = cluster.primary_of(KEYS.common("creation"))
    async with away(cluster, node, client):
        with pytest.raises(CannotServe, match=f"node {node.address} is away"):
            await AccountWriter().write(settings, url)


async def test_a_shard_that_has_lost_entries_is_frozen_while_another_node_is_away(
    cluster: Cluster, client: Any, url: str, settings: Settings
) -> None:
    node = ordinary(cluster)
    sink = sqlite_sink(settings.data_dir / "events.db")
    async with away(cluster, node, client) as shards:
        access = await open_ledger(settings, Resources(url, str(settings.data_dir), "worker-0"))
        watch = ShardWatch(
            access.reserving.shards,
            Outbox(client, KEYS.shard_count),
            sqlite_access(settings.data_dir / "events.db"),
        )
        assert await watch.look() == frozenset()
        lost, hidden = min(ALL - shards), min(shards)
        await sink.open()
        await sink.write(Batch(ends={lost: Place(1, 5), hidden: Place(1, 5)}))
        await sink.close()
        assert await watch.look() == {lost}
    await until(lambda: access.admission.connected and not access.admission.down)
    assert await watch.look() == {lost, hidden}
    async with away(cluster, node, client):
        assert await watch.look() == {lost, hidden}, "as it was known"
    await access.close()
