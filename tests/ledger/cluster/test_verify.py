"""`verify` and what operators read, on a cluster: complete, or an error that names the node."""

from pathlib import Path
from typing import Any

import pytest

from gateway.exporter.main import Exporter
from gateway.exporter.pacing import PumpOptions
from gateway.ledger.client.cluster.endpoint import ClusterEndpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.identities import check_identities
from gateway.operations.drifts import Verified
from gateway.operations.reopen import ledger_status
from gateway.operations.shards import LedgerReport
from gateway.operations.verify import verify
from loadtest.topology.cluster import Cluster
from loadtest.topology.options import Options
from tests.support.bank import Bank
from tests.support.clusters import KEYS, away, customers_of, ordinary
from tests.support.stores import sqlite_access, sqlite_sink

ALL = set(range(KEYS.shard_count))
QUICK = PumpOptions(block_ms=10, linger_s=0.005, watch_s=0.1)


@pytest.fixture
async def bank(client: Any) -> Bank:
    bank = Bank(client, KEYS.shard_count)
    for name in customers_of(ALL):
        await bank.open(name)
        await bank.spend(name, f"spent-{name}")
        await bank.reserve(name, f"pending-{name}")
    return bank


@pytest.fixture
async def path(bank: Bank, tmp_path: Path) -> Path:
    path = tmp_path / "events.db"
    exporter = Exporter(bank.outbox, bank.operator, sqlite_sink(path), options=QUICK)
    exporter.begin()
    await exporter.drain(10)
    for name in customers_of(ALL):
        await bank.spend(name, f"waiting-{name}")
    return path


async def look(bank: Bank, path: Path) -> Verified:
    with sqlite_access(path).open_or_empty() as store:
        return await verify(bank.audit, bank.outbox, store)


@pytest.mark.parametrize("joins", [True, False])
async def test_a_true_ledger_is_clean_and_all_of_it_was_read(
    bank: Bank, path: Path, joins: bool
) -> None:
    bank.audit._joins = joins  # a cluster of Redis 7 denies them
    found = await look(bank, path)
    assert found.drifts == ()
    count = KEYS.shard_count
    assert (found.wallets, found.holds, found.ended) == (count, count, 2 * count)
    assert await check_identities(bank.accounts, bank.client) == []


@pytest.mark.parametrize("joins", [True, False])
async def test_damage_on_any_node_is_found(bank: Bank, path: Path, joins: bool) -> None:
    bank.audit._joins = joins
    for shard in ALL:
        (name,) = customers_of({shard})
        await bank.client.delete(KEYS.reservation(shard, f"pending-{name}"))
    subjects = {drift.subject for drift in (await look(bank, path)).drifts}
    assert subjects >= {f"shard {shard}" for shard in ALL}


async def test_a_node_that_is_away_is_an_error_and_never_clean(
    cluster: Cluster, client: Any, bank: Bank, path: Path
) -> None:
    node = ordinary(cluster)
    named = f"node {node.address} is away"
    async with away(cluster, node, client) as hidden:
        with pytest.raises(LedgerUnavailable, match=named):
            await look(bank, path)
        with pytest.raises(LedgerUnavailable, match=named):
            await check_identities(bank.accounts, bank.client)
        with pytest.raises(LedgerUnavailable, match=named):
            await bank.accounts.holds.open_holds()
        with pytest.raises(LedgerUnavailable, match=named):
            await bank.audit.find_reservation("spent-c0")
        with sqlite_access(path).open_or_empty() as store:
            statuses = await ledger_status(bank.outbox, store)
        report = LedgerReport(None, statuses, {}, [])
        assert not report.well
        ((reason, shards),) = report.away.items()
        assert named in reason
        assert set(shards) == hidden
    assert (await look(bank, path)).clean


async def test_a_walk_during_which_shards_move_is_an_error(
    cluster: Cluster, client: Any, bank: Bank
) -> None:
    replica = cluster.replicas(ordinary(cluster))[0]
    pages = bank.audit.reservations()
    assert await anext(pages) is not None
    cluster.failover(replica)

    async def rest() -> None:
        async for _ in pages:
            pass

    with pytest.raises(LedgerUnavailable, match="moved to another node"):
        await rest()
    assert [page async for page in bank.audit.reservations()]


@pytest.mark.debian
async def test_a_cluster_of_redis_7_is_verified_without_joins(tmp_path: Path) -> None:
    options = Options(binary="/usr/bin/redis-server")
    with Cluster(tmp_path / "cluster", options=options) as nodes:
        endpoint = ClusterEndpoint.from_url(f"redis+cluster://{nodes.addresses[0]}")
        client = endpoint.client(name="test")
        bank = Bank(client, KEYS.shard_count)
        for name in customers_of(ALL):
            await bank.open(name)
            await bank.spend(name, f"spent-{name}")
            await bank.reserve(name, f"pending-{name}")
        found = await look(bank, tmp_path / "events.db")
        assert (found.drifts, found.wallets, found.holds) == ((), len(ALL), len(ALL))
        assert not bank.audit._joins
        await client.aclose()
