"""Slots that move key by key on a real cluster, interrupted at every step, while scripts run."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.client.cluster import members, slot_keys
from gateway.ledger.client.cluster.members import owners
from gateway.ledger.client.cluster.slot_keys import PAGE
from gateway.ledger.client.cluster.slot_moves import CannotMove
from gateway.ledger.shard_loads import GLOBAL
from loadtest.topology.cluster import Cluster
from loadtest.topology.moves import ClassicMove
from loadtest.topology.node import Node
from loadtest.topology.options import Access, Options
from tests.support.cluster_load import cluster_load, no_report, node_with
from tests.support.until import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries that want a password of clients, and of each other."""
    options = Options(access=Access("gate", "s3cret"))
    with Cluster(tmp_path_factory.mktemp("cluster"), replicas=0, options=options) as made:
        yield made


@pytest.mark.parametrize("step", ["importing", "both ends", "a page", "target owns"])
async def test_a_move_by_keys_goes_on_from_wherever_it_was_interrupted(
    cluster: Cluster, step: str
) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[3]
        await load.spending()
        intended, _ = await load.plan(slot, "keys")
        target = node_with(cluster, intended.target_id)
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
        await load.spending()
        await load.finish()
        await load.check()


async def test_a_page_whose_answer_was_lost_is_sent_again(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[5]
        await load.spending(200)
        move, primaries = await load.plan(slot, "keys")
        source = node_with(cluster, move.source.node_id)
        target = node_with(cluster, move.target_id)
        ClassicMove(cluster, slot, target).begin()
        # As if the target had taken the record and the answer had been lost: both have it.
        at = target.address
        words = ("MIGRATE", at.host, at.port, "", 0, 5000, "COPY", "AUTH2", "gate", "s3cret")
        source.ask(*words, "KEYS", load.keys.meta(5))
        await load.spending()
        [found] = await load.nodes.open_moves(await load.nodes.primaries(), "valkey_jobs")
        await load.nodes.move(found, primaries, no_report, begun=True)
        assert await load.owner_id(slot) == move.target_id
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
        await load.spending()
        move, primaries = await load.plan(load.nodes.slots[4], "keys")
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
        move, primaries = await load.plan(slot, "keys")
        total = await load.nodes.count_keys(move.source, slot)
        await load.nodes.move(move, primaries, lambda done, of: reports.append((done, of)))
        assert len(reports) > 1
        assert reports[-1] == (total - 1, total), "the record left first"
        await load.check()


async def test_a_target_that_is_away_stops_a_move_by_keys_and_its_return_completes_it(
    cluster: Cluster,
) -> None:
    async with cluster_load(cluster) as load:
        slot = load.nodes.slots[11]
        await load.spending()
        move, primaries = await load.plan(slot, "keys")
        target = node_with(cluster, move.target_id)
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
        assert await load.owner_id(slot) == move.target_id
        await load.spending()
        await load.finish()
        await load.check()


@pytest.mark.debian
async def test_slots_move_by_keys_on_redis_7(tmp_path: Path) -> None:
    options = Options(binary="redis-server", access=Access(password="s3cret"))
    made = Cluster(tmp_path, replicas=0, options=options)
    cluster = await asyncio.to_thread(made.__enter__)
    try:
        async with cluster_load(cluster) as load:
            await load.spending()
            primaries = await load.nodes.primaries()
            assert await load.nodes.way(primaries) == "keys"
            assert await load.nodes.missing_rights(primaries, "keys") == []
            assert (await load.nodes.memory(primaries)).bytes_of.keys() == {*range(16), GLOBAL}
            for shard in (0, 6, GLOBAL):
                move, primaries = await load.plan(load.nodes.slots[shard], "keys")
                await load.nodes.move(move, primaries, no_report)
                assert await load.owner_id(load.nodes.slots[shard]) == move.target_id
            await load.spending()
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
            await load.spending()
            await load.finish()  # a failover may lose what was not replicated yet
            slot = load.nodes.slots[10]
            move, _ = await load.plan(slot, "keys")
            target = node_with(cluster, move.target_id)
            begun = ClassicMove(cluster, slot, target, page=5)
            begun.begin()
            assert begun.move_page() == 5
            await until(lambda: has_its_data(cluster, target))
            elected = await asyncio.to_thread(cluster.kill, target)
            primaries = await load.nodes.primaries()
            [found] = await load.nodes.open_moves(primaries, "keys")
            await load.nodes.move(found, primaries, no_report, begun=True)
            assert await load.owner_id(slot) == cluster.id_of(elected)
            await load.check()
    finally:
        await asyncio.to_thread(made.stop)


def has_its_data(cluster: Cluster, primary: Node) -> bool:
    """Whether the replica of a primary has all that it has, keys of a slot on its way included."""
    [replica] = cluster.replicas(primary)
    offsets = (primary.info("replication"), replica.info("replication"))
    return int(offsets[0]["master_repl_offset"]) == int(offsets[1]["slave_repl_offset"])


async def test_a_slot_from_which_nothing_has_left_is_closed_if_its_target_is_gone(
    cluster: Cluster,
) -> None:
    async with cluster_load(cluster) as load:
        await load.spending()
        slot = load.nodes.slots[12]
        move, primaries = await load.plan(slot, "keys")
        source = node_with(cluster, move.source.node_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", move.target_id)
        await load.nodes.move(replace(move, target_id="0" * 40), primaries, no_report, begun=True)
        primaries = await load.nodes.primaries()
        assert await load.nodes.open_moves(primaries, "keys") == []
        assert owners(primaries)[slot].node_id == move.source.node_id
        await load.spending()
        await load.finish()
        await load.check()


async def test_a_slot_without_its_record_is_not_closed(cluster: Cluster) -> None:
    async with cluster_load(cluster) as load:
        await load.spending()
        await load.finish()
        move, primaries = await load.plan(load.nodes.slots[13], "keys")
        node_with(cluster, move.source.node_id).ask("DEL", load.keys.meta(13))
        gone = replace(move, target_id="0" * 40)
        with pytest.raises(CannotMove, match="a node that has left the cluster"):
            await load.nodes.move(gone, primaries, no_report, begun=True)
