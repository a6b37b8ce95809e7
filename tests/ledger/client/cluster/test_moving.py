"""Slots that move between the nodes of a real cluster while scripts run on them."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from gateway.ledger.client.cluster.members import owners
from gateway.ledger.client.cluster.slot_moves import CannotMove, Transfer, Way
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.shard_loads import GLOBAL
from loadtest.topology.cluster import Cluster
from loadtest.topology.moves import migrations, start_atomic
from loadtest.topology.node import Node
from loadtest.topology.options import Access, Options
from tests.support.cluster_load import cluster_load, no_report, node_with
from tests.support.until import until

pytestmark = pytest.mark.slow
WAYS: tuple[Way, ...] = ("valkey_jobs", "keys")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries that want a password of clients, and of each other."""
    options = Options(access=Access("gate", "s3cret"))
    with Cluster(tmp_path_factory.mktemp("cluster"), replicas=0, options=options) as made:
        yield made


@pytest.mark.parametrize("way", WAYS)
async def test_slots_move_under_load_and_nothing_is_lost(cluster: Cluster, way: Way) -> None:
    async with cluster_load(cluster) as load:
        await load.spending()
        for shard in (*range(8), GLOBAL):
            move, primaries = await load.plan(load.nodes.slots[shard], way)
            await load.nodes.move(move, primaries, no_report)
            assert await load.owner_id(load.nodes.slots[shard]) == move.target_id
        await load.spending()
        await load.finish()
        await load.check()
        if way == "valkey_jobs":
            assert "TRYAGAIN" not in load.refused


async def test_several_slots_of_a_node_move_in_one_job(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        primaries = await load.nodes.primaries()
        source = max(primaries, key=lambda each: len(set(load.nodes.shards_in) & each.member.slots))
        slots = tuple(sorted(set(load.nodes.shards_in) & source.member.slots))[:4]
        target = next(each for each in primaries if each is not source)
        move = Transfer(slots, source, target.node_id, "valkey_jobs")
        await load.nodes.move(move, primaries, no_report)
        owner_of = owners(await load.nodes.primaries())
        assert {owner_of[slot].node_id for slot in slots} == {target.node_id}
        await load.spending()
        await load.finish()
        await load.check()


async def test_a_job_that_somebody_started_is_found_and_awaited(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[7]
        move, primaries = await load.plan(slot, "valkey_jobs")
        start_atomic(
            cluster,
            node_with(cluster, move.source.node_id),
            range(slot, slot + 1),
            node_with(cluster, move.target_id),
        )
        [found] = await load.nodes.open_moves(primaries, "valkey_jobs")
        assert (found.slots, found.target_id, found.way) == ((slot,), move.target_id, "valkey_jobs")
        await load.nodes.move(found, primaries, no_report, begun=True)
        assert await load.owner_id(slot) == move.target_id
        await load.finish()
        await load.check()


async def test_a_target_killed_in_the_middle_of_a_job_leaves_the_slot_where_it_was(
    cluster: Cluster,
) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[9]
        await load.spending()
        move, primaries = await load.plan(slot, "valkey_jobs")
        source = node_with(cluster, move.source.node_id)
        target = node_with(cluster, move.target_id)
        await asyncio.to_thread(target.freeze)
        moving = asyncio.create_task(load.nodes.move(move, primaries, no_report))
        await until(lambda: active(source, slot))
        await asyncio.to_thread(target.kill9)
        with pytest.raises(CannotMove, match="are where they were"):
            await moving
        assert await load.owner_id(slot) == move.source.node_id
        away = {each.node_id for each in await load.nodes.primaries() if each.away}
        assert away == {move.target_id}
        await asyncio.to_thread(target.restart)
        await asyncio.to_thread(cluster.wait_agreed)
        primaries = await load.nodes.primaries()
        assert await load.nodes.open_moves(primaries, "valkey_jobs") == []
        again, primaries = await load.plan(slot, "valkey_jobs")
        await load.nodes.move(again, primaries, no_report)
        await load.spending()
        await load.finish()
        await load.check()


def active(source: Node, slot: int) -> bool:
    """Whether a job of the slot is under way."""
    try:
        return any(
            job["slot_ranges"] == f"{slot}-{slot}"
            and job["state"] not in ("success", "failed", "cancelled")
            for job in migrations(source)
        )
    except RedisError:
        return False


async def test_missing_rights_are_named_and_nothing_is_run(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        primaries = await load.nodes.primaries()
        for way in WAYS:
            assert await load.nodes.missing_rights(primaries, way) == []
        for node in cluster.nodes:
            node.ask(
                "ACL",
                "SETUSER",
                "gate",
                "-migrate",
                "-cluster|setslot",
                "-cluster|migrateslots",
                "-select",
            )
        try:
            assert await load.nodes.missing_rights(primaries, "keys") == [
                "CLUSTER SETSLOT",
                "MIGRATE",
                "SELECT",
            ]
            assert await load.nodes.missing_rights(primaries, "valkey_jobs") == [
                "CLUSTER MIGRATESLOTS"
            ]
            assert await load.nodes.missing_rights(primaries, "redis_jobs") == [
                "CLUSTER MIGRATION (no such command here)"
            ]
        finally:
            for node in cluster.nodes:
                node.ask("ACL", "SETUSER", "gate", "+@all")
        assert await load.nodes.way(primaries) == "valkey_jobs"


async def test_a_refused_job_says_what_the_server_says(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        move, primaries = await load.plan(load.nodes.slots[2], "valkey_jobs")
        wrong = next(each for each in primaries if each.node_id != move.source.node_id)
        with pytest.raises(CannotMove, match="Slots are not served by this node"):
            await load.nodes.move(
                replace(move, source=wrong, target_id=move.source.node_id), primaries, no_report
            )


async def test_a_cluster_that_does_not_answer_is_unavailable(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with cluster_load(cluster) as load:
        frozen = list(cluster.nodes)
        for node in frozen:
            node.freeze()
        try:
            with pytest.raises(LedgerUnavailable):
                await load.nodes.primaries()
        finally:
            for node in frozen:
                node.thaw()
        await asyncio.to_thread(cluster.wait_agreed)
