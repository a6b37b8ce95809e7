"""Slots that move between the nodes of a real cluster while scripts run on them."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from gateway.ledger.client.cluster import members, slot_keys
from gateway.ledger.client.cluster.members import Primary, owners
from gateway.ledger.client.cluster.slot_keys import PAGE
from gateway.ledger.client.cluster.slot_moves import CannotMove, Transfer, Way
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.nodes import LedgerNodes
from gateway.ledger.shard_loads import GLOBAL
from loadtest.topology.cluster import Cluster
from loadtest.topology.moves import ClassicMove, migrations, start_atomic
from loadtest.topology.node import Node
from loadtest.topology.options import Access, Options
from tests.support.cluster_load import ClusterLoad, cluster_load
from tests.support.until import until

pytestmark = pytest.mark.slow
WAYS: tuple[Way, ...] = ("valkey_jobs", "keys")


def no_report(_done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries that want a password of clients, and of each other."""
    options = Options(access=Access("gate", "s3cret"))
    with Cluster(tmp_path_factory.mktemp("cluster"), replicas=0, options=options) as made:
        yield made


def node_of(cluster: Cluster, primary: Primary) -> Node:
    return next(node for node in cluster.nodes if cluster.id_of(node) == primary.node_id)


async def plan(nodes: LedgerNodes, slot: int, way: Way) -> tuple[Transfer, list[Primary]]:
    """A move of the slot to another node."""
    primaries = await nodes.primaries()
    source = owners(primaries)[slot]
    target = next(each for each in primaries if each is not source)
    return Transfer((slot,), source, target.node_id, way), primaries


async def owner_id(nodes: LedgerNodes, slot: int) -> str:
    return owners(await nodes.primaries())[slot].node_id


async def spending(load: ClusterLoad, more: int = 50) -> None:
    """Wait until some more requests have ended."""
    wanted = sum(load.spent.values()) + more
    await until(lambda: sum(load.spent.values()) >= wanted, within_s=60)


@pytest.mark.parametrize("way", WAYS)
async def test_slots_move_under_load_and_nothing_is_lost(cluster: Cluster, way: Way) -> None:
    async with cluster_load(cluster) as load:
        await spending(load)
        for shard in (*range(8), GLOBAL):
            move, primaries = await plan(load.nodes, load.nodes.slots[shard], way)
            await load.nodes.move(move, primaries, no_report)
            assert await owner_id(load.nodes, load.nodes.slots[shard]) == move.target_id
        await spending(load)
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
        await spending(load)
        await load.finish()
        await load.check()


@pytest.mark.parametrize("step", ["importing", "both ends", "a page", "target owns"])
async def test_a_move_by_keys_goes_on_from_wherever_it_was_interrupted(
    cluster: Cluster, step: str
) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[3]
        await spending(load)
        intended, _ = await plan(load.nodes, slot, "keys")
        target = next(n for n in cluster.nodes if cluster.id_of(n) == intended.target_id)
        begun = ClassicMove(cluster, slot, target, page=5)
        source_id, target_id = cluster.id_of(begun.source), cluster.id_of(target)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        if step != "importing":
            begun.source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        if step == "a page":
            assert begun.move_page() == 5
        if step == "target owns":
            while begun.move_page():
                pass
            target.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        primaries = await load.nodes.primaries()
        if step != "target owns":
            [found] = await load.nodes.open_moves(primaries, "valkey_jobs")
            assert (found.slots, found.target_id, found.way) == ((slot,), target_id, "keys")
        for each in await load.nodes.open_moves(primaries, "valkey_jobs"):
            await load.nodes.move(each, primaries, no_report, begun=True)
        primaries = await load.nodes.primaries()
        assert await load.nodes.open_moves(primaries, "valkey_jobs") == []
        assert owners(primaries)[slot].node_id == target_id
        await spending(load)
        await load.finish()
        await load.check()


async def test_a_page_whose_answer_was_lost_is_sent_again(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[5]
        await spending(load, 200)
        move, primaries = await plan(load.nodes, slot, "keys")
        source, target = (
            next(n for n in cluster.nodes if cluster.id_of(n) == node_id)
            for node_id in (move.source.node_id, move.target_id)
        )
        ClassicMove(cluster, slot, target).begin()
        # As if the target had taken the record and the answer had been lost: both have it.
        at = target.address
        words = ("MIGRATE", at.host, at.port, "", 0, 5000, "COPY", "AUTH2", "gate", "s3cret")
        source.ask(*words, "KEYS", load.keys.meta(5))
        await spending(load)
        [found] = await load.nodes.open_moves(await load.nodes.primaries(), "valkey_jobs")
        await load.nodes.move(found, primaries, no_report, begun=True)
        assert await owner_id(load.nodes, slot) == move.target_id
        await load.finish()
        await load.check()


async def test_the_record_of_a_shard_leaves_before_its_other_keys(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[tuple[object, ...]] = []
    real = members.ask

    async def noting(client: Any, node: Any, *words: Any) -> Any:
        if words[0] == "MIGRATE":
            pages.append(words[words.index("KEYS") + 1 :])
        return await real(client, node, *words)

    monkeypatch.setattr(slot_keys, "ask", noting)
    async with cluster_load(cluster) as load:
        await spending(load)
        move, primaries = await plan(load.nodes, load.nodes.slots[4], "keys")
        await load.nodes.move(move, primaries, no_report)
        assert pages[0] == (load.keys.meta(4),)
        assert len(pages) > 1
        await load.finish()
        await load.check()


async def test_keys_are_reported_while_they_leave(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        await until(lambda: sum(load.spent.values()) > PAGE * 40, within_s=60)
        await load.finish()
        slot = load.nodes.slots[1]
        reports: list[tuple[int, int]] = []
        move, primaries = await plan(load.nodes, slot, "keys")
        total = await load.nodes.count_keys(move.source, slot)
        await load.nodes.move(move, primaries, lambda done, of: reports.append((done, of)))
        assert len(reports) > 1
        assert reports[-1] == (total - 1, total), "the record left first"
        await load.check()


async def test_a_job_that_somebody_started_is_found_and_awaited(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[7]
        move, primaries = await plan(load.nodes, slot, "valkey_jobs")
        start_atomic(
            cluster,
            node_of(cluster, move.source),
            range(slot, slot + 1),
            next(n for n in cluster.nodes if cluster.id_of(n) == move.target_id),
        )
        [found] = await load.nodes.open_moves(primaries, "valkey_jobs")
        assert (found.slots, found.target_id, found.way) == ((slot,), move.target_id, "valkey_jobs")
        await load.nodes.move(found, primaries, no_report, begun=True)
        assert await owner_id(load.nodes, slot) == move.target_id
        await load.finish()
        await load.check()


async def test_a_target_killed_in_the_middle_of_a_job_leaves_the_slot_where_it_was(
    cluster: Cluster,
) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[9]
        await spending(load)
        move, primaries = await plan(load.nodes, slot, "valkey_jobs")
        source = node_of(cluster, move.source)
        target = next(n for n in cluster.nodes if cluster.id_of(n) == move.target_id)
        await asyncio.to_thread(target.freeze)
        moving = asyncio.create_task(load.nodes.move(move, primaries, no_report))
        await until(lambda: active(source, slot))
        await asyncio.to_thread(target.kill9)
        with pytest.raises(CannotMove, match="are where they were"):
            await moving
        assert await owner_id(load.nodes, slot) == move.source.node_id
        away = {each.node_id for each in await load.nodes.primaries() if each.away}
        assert away == {move.target_id}
        await asyncio.to_thread(target.restart)
        await asyncio.to_thread(cluster.wait_agreed)
        primaries = await load.nodes.primaries()
        assert await load.nodes.open_moves(primaries, "valkey_jobs") == []
        again, primaries = await plan(load.nodes, slot, "valkey_jobs")
        await load.nodes.move(again, primaries, no_report)
        await spending(load)
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


async def test_a_target_that_is_away_stops_a_move_by_keys_and_its_return_completes_it(
    cluster: Cluster,
) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[11]
        await spending(load)
        move, primaries = await plan(load.nodes, slot, "keys")
        target = next(n for n in cluster.nodes if cluster.id_of(n) == move.target_id)
        begun = ClassicMove(cluster, slot, target, page=5)
        begun.begin()
        assert begun.move_page() == 5
        await asyncio.to_thread(target.kill9)
        primaries = await load.nodes.primaries()
        [found] = await load.nodes.open_moves(primaries, "keys")
        with pytest.raises(CannotMove, match="does not answer: bring it back"):
            await load.nodes.move(found, primaries, no_report, begun=True)
        await asyncio.to_thread(target.restart)
        await asyncio.to_thread(cluster.wait_agreed)
        primaries = await load.nodes.primaries()
        [found] = await load.nodes.open_moves(primaries, "keys")
        await load.nodes.move(found, primaries, no_report, begun=True)
        assert await owner_id(load.nodes, slot) == move.target_id
        await spending(load)
        await load.finish()
        await load.check()


async def test_missing_rights_are_named_and_nothing_is_run(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        primaries = await load.nodes.primaries()
        for way in WAYS:
            assert await load.nodes.missing_rights(primaries, way) == []
        for node in cluster.nodes:
            node.ask(
                "ACL", "SETUSER", "gate", "-migrate", "-cluster|setslot", "-cluster|migrateslots"
            )
        try:
            assert await load.nodes.missing_rights(primaries, "keys") == [
                "CLUSTER SETSLOT",
                "MIGRATE",
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
        move, primaries = await plan(load.nodes, load.nodes.slots[2], "valkey_jobs")
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


@pytest.mark.debian
async def test_slots_move_by_keys_on_redis_7(tmp_path: Path) -> None:
    options = Options(binary="redis-server", access=Access(password="s3cret"))
    made = Cluster(tmp_path, replicas=0, options=options)
    cluster = await asyncio.to_thread(made.__enter__)
    try:
        async with cluster_load(cluster) as load:
            await spending(load)
            primaries = await load.nodes.primaries()
            assert await load.nodes.way(primaries) == "keys"
            assert await load.nodes.missing_rights(primaries, "keys") == []
            assert (await load.nodes.memory(primaries)).bytes_of.keys() == {*range(16), GLOBAL}
            for shard in (0, 6, GLOBAL):
                move, primaries = await plan(load.nodes, load.nodes.slots[shard], "keys")
                await load.nodes.move(move, primaries, no_report)
                assert await owner_id(load.nodes, load.nodes.slots[shard]) == move.target_id
            await spending(load)
            await load.finish()
            await load.check()
    finally:
        await asyncio.to_thread(made.stop)


@pytest.mark.parametrize("binary", ["", pytest.param("redis-server", marks=pytest.mark.debian)])
async def test_who_is_elected_in_place_of_the_target_gets_the_rest(
    tmp_path: Path, binary: str
) -> None:
    """Valkey's replicas know of the import, Redis's do not."""
    made = Cluster(tmp_path, replicas=1, options=Options(binary=binary))
    cluster = await asyncio.to_thread(made.__enter__)
    try:
        async with cluster_load(cluster) as load:
            await spending(load)
            slot = load.nodes.slots[10]
            move, _ = await plan(load.nodes, slot, "keys")
            target = next(n for n in cluster.nodes if cluster.id_of(n) == move.target_id)
            begun = ClassicMove(cluster, slot, target, page=5)
            begun.begin()
            assert begun.move_page() == 5
            # A replica has keys of a slot that is on its way as soon as its primary has.
            await until(lambda: int(target.info("replication")["connected_slaves"]) == 1)
            target.ask("WAIT", 1, 5000)
            elected = await asyncio.to_thread(cluster.kill, target)
            primaries = await load.nodes.primaries()
            [found] = await load.nodes.open_moves(primaries, "keys")
            await load.nodes.move(found, primaries, no_report, begun=True)
            assert await owner_id(load.nodes, slot) == cluster.id_of(elected)
            await spending(load)
            await load.finish()
            await load.check()
    finally:
        await asyncio.to_thread(made.stop)


async def test_a_slot_from_which_nothing_has_left_is_closed_if_its_target_is_gone(
    cluster: Cluster,
) -> None:
    async with cluster_load(cluster) as load:
        await spending(load)
        slot = load.nodes.slots[12]
        move, primaries = await plan(load.nodes, slot, "keys")
        source = node_of(cluster, move.source)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", move.target_id)
        await load.nodes.move(replace(move, target_id="0" * 40), primaries, no_report, begun=True)
        primaries = await load.nodes.primaries()
        assert await load.nodes.open_moves(primaries, "keys") == []
        assert owners(primaries)[slot].node_id == move.source.node_id
        await spending(load)
        await load.finish()
        await load.check()


async def test_a_slot_without_its_record_is_not_closed(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        await spending(load)
        await load.finish()
        move, primaries = await plan(load.nodes, load.nodes.slots[13], "keys")
        node_of(cluster, move.source).ask("DEL", load.keys.meta(13))
        gone = replace(move, target_id="0" * 40)
        with pytest.raises(CannotMove, match="a node that has left the cluster"):
            await load.nodes.move(gone, primaries, no_report, begun=True)
