"""`creditgate shards`, on a single server and on a cluster that serves meanwhile."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.topology.cluster import Cluster
from loadtest.topology.moves import ClassicMove
from loadtest.topology.node import Node
from tests.support.cluster_load import SHARDS, ClusterLoad, cluster_load, url_of
from tests.support.gate import Gate, gate_config
from tests.support.until import until

from .desk import Desk

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quiet_logs")]
SOON = ("--seconds", "0.3")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), replicas=0) as made:
        yield made


@pytest.fixture
def on_cluster(cluster: Cluster, tmp_path: Path) -> Desk:
    """The command line on a configuration with that cluster; no gate runs."""
    return Desk(configured(tmp_path, url_of(cluster)))


def configured(folder: Path, url: str, **redis: Any) -> Path:
    config = gate_config("http://127.0.0.1:1", folder / "data", url)
    config["redis"] |= {"shards": SHARDS, **redis}
    (folder / "gateway.yaml").write_text(yaml.dump(config))
    return folder / "gateway.yaml"


def node_at(cluster: Cluster, name: str) -> Node:
    return next(node for node in cluster.nodes if str(node.address) == name)


async def put_on_one_node(cluster: Cluster, load: ClusterLoad) -> Node:
    """All of the ledger's slots on the first node."""
    await until(lambda: sum(load.spent.values()) > 50, within_s=60)
    await load.finish()
    first = cluster.nodes[0]
    for slot in load.nodes.shards_in:
        if cluster.owner(slot) is not first:
            await asyncio.to_thread(ClassicMove(cluster, slot, first).run)
    await asyncio.to_thread(cluster.wait_agreed)
    return first


async def test_a_single_server_is_one_node(gate: Gate, desk: Desk) -> None:
    await gate.chat("hi\nsim: tokens=3")
    await gate.settle_all()
    shown = await desk.ask("shards", "show", *SOON)
    [node] = shown["nodes"]
    assert (node["shards"], node["away"], node["id"]) == (4, False, None)
    assert node["memory_bytes"] > 1000
    assert node["backlog"] == sum(each["backlog"] for each in shown["shards"] if each["backlog"])
    assert node["backlog"] > 0
    assert [each["shard"] for each in shown["shards"]] == [0, 1, 2, 3, None]
    assert {each["state"] for each in shown["shards"]} == {"open"}
    said = await desk.run("shards", "show", "--all", *SOON)
    assert (said.code, said.err) == (0, "")
    assert "Memory is estimated" in said.out


async def test_a_single_server_has_nothing_to_balance(gate: Gate, desk: Desk) -> None:
    for words in ((), ("--apply",)):
        said = await desk.refused("shards", "balance", *SOON, *words)
        assert "is on a single server" in said


async def test_rates_count_what_each_shard_writes(cluster: Cluster, on_cluster: Desk) -> None:
    async with cluster_load(cluster) as load:
        before = sum(load.spent.values())
        shown = await on_cluster.ask("shards", "show", "--seconds", "1")
        spent = sum(load.spent.values()) - before
        rate = sum(node["rate"] for node in shown["nodes"])
        assert 0 < rate * shown["seconds"] <= spent + 8
        assert shown["cluster"]
        assert sum(node["shards"] for node in shown["nodes"]) == SHARDS
        assert sum(node["global_keys"] for node in shown["nodes"]) == 1
        assert shown["imbalance"]["rate"] >= 1
        slots = {each["shard"]: each["slot"] for each in shown["shards"]}
        assert slots[0] == load.nodes.slots[0]
        said = await on_cluster.run("shards", "show", "--all", *SOON)
        assert said.code == 0
        assert "Busiest node over the mean:" in said.out


async def test_memory_is_close_to_what_the_server_says(cluster: Cluster, on_cluster: Desk) -> None:
    async with cluster_load(cluster) as load:
        await until(lambda: sum(load.spent.values()) > 3000, within_s=60)
        await load.finish()
        shown = await on_cluster.ask("shards", "show", "--seconds", "0")
        for node in shown["nodes"]:
            server = node_at(cluster, node["node"])
            keys = [
                key
                for shard, slot in load.nodes.slots.items()
                if cluster.owner(slot) is server
                for key in server.ask("CLUSTER", "GETKEYSINSLOT", slot, 100_000)
            ]
            exact = sum(server.ask("MEMORY", "USAGE", key) for key in keys)
            assert node["memory_bytes"] == pytest.approx(exact, rel=0.5)


async def test_a_node_that_is_away_is_shown_and_stops_a_balance(
    cluster: Cluster, on_cluster: Desk
) -> None:
    async with cluster_load(cluster) as load:
        await load.finish()
        lost = cluster.owner(load.nodes.slots[0])
        await asyncio.to_thread(lost.kill9)
        try:
            said = await on_cluster.run("shards", "show", "--all", *SOON)
            assert said.code == 1
            assert "Away, with their customers refused: shards 0" in said.out
            refused = await on_cluster.refused("shards", "balance", *SOON)
            assert f"{lost.address} does not answer" in refused
        finally:
            await asyncio.to_thread(lost.restart)
            await asyncio.to_thread(cluster.wait_agreed)
        assert (await on_cluster.run("shards", "show", *SOON)).code == 0


async def test_a_dry_run_lists_moves_and_moves_nothing(cluster: Cluster, on_cluster: Desk) -> None:
    async with cluster_load(cluster) as load:
        first = await put_on_one_node(cluster, load)
        plan = await on_cluster.ask("shards", "balance", "--by", "count")
        assert (plan["applied"], plan["way"]) == (False, "valkey_jobs")
        assert {move["from"] for move in plan["moves"]} == {str(first.address)}
        assert len(plan["moves"]) >= 10
        assert plan["imbalance"]["before"] == 3.0
        assert plan["imbalance"]["after"] < 1.1
        said = await on_cluster.run("shards", "balance", "--by", "count")
        assert "Nothing was moved: add --apply" in said.out
        assert "CLUSTER MIGRATESLOTS" in said.out
        assert all(cluster.owner(slot) is first for slot in load.nodes.shards_in)


async def test_balance_moves_slots_and_notes_it(cluster: Cluster, on_cluster: Desk) -> None:
    async with cluster_load(cluster) as load:
        await put_on_one_node(cluster, load)
        words = ("shards", "balance", "--by", "count", "--apply", "--reason", "a third node")
        done = await on_cluster.ask(*words)
        assert done["applied"]
        for move in done["moves"]:
            assert str(cluster.owner(move["slot"]).address) == move["to"]
        shown = await on_cluster.ask("shards", "show", *SOON)
        assert shown["imbalance"]["count"] < 1.2
        again = await on_cluster.run("shards", "balance", "--by", "count", "--apply")
        assert (again.code, "Nothing to move" in again.out) == (0, True)
        heads = await load.nodes.heads()
        entries = await load.bank.outbox.scan(0, heads[0].last)  # type: ignore[union-attr]
        noted: Any = [each for each in entries if getattr(each, "kind", "") == "audit"]
        assert [event.facts["action"] for event in noted] == ["ledger.balance"]
        assert noted[0].facts["reason"] == "a third node"
        assert sum(map(len, noted[0].facts["after"]["slots"].values())) == len(done["moves"])


async def test_balance_by_rate_evens_the_load_while_it_runs(
    cluster: Cluster, on_cluster: Desk
) -> None:
    async with cluster_load(cluster) as load:
        done = await on_cluster.ask(
            "shards", "balance", "--apply", "--seconds", "1", "--tolerance", "20"
        )
        before, after = done["imbalance"]["before"], done["imbalance"]["after"]
        assert after <= before
        wanted = sum(load.spent.values()) + 100
        await until(lambda: sum(load.spent.values()) > wanted, within_s=60)
        await load.finish()
        entries_of_balance = await on_cluster.ask("shards", "show", *SOON)
        assert not any(node["away"] for node in entries_of_balance["nodes"])


async def test_an_idle_ledger_has_no_rate_to_balance(cluster: Cluster, on_cluster: Desk) -> None:
    async with cluster_load(cluster) as load:
        await load.finish()
        said = await on_cluster.run("shards", "balance", *SOON)
        assert (said.code, "No load to balance by entries/s" in said.out) == (0, True)


async def test_an_unfinished_move_is_shown_and_finished_first(
    cluster: Cluster, on_cluster: Desk
) -> None:
    async with cluster_load(cluster) as load:
        await until(lambda: sum(load.spent.values()) > 50, within_s=60)
        await load.finish()
        slot = load.nodes.slots[0]  # of the audit log's entries
        target = next(node for node in cluster.nodes if node is not cluster.owner(slot))
        begun = ClassicMove(cluster, slot, target, page=3)
        begun.begin()
        assert begun.move_page() == 3
        shown = await on_cluster.ask("shards", "show", *SOON)
        assert next(s["state"] for s in shown["shards"] if s["shard"] == 0) == "moving"
        said = await on_cluster.run("shards", "balance", "--by", "count")
        assert f"Left on its way by an interrupted run: slot {slot}" in said.out
        done = await on_cluster.ask("shards", "balance", "--by", "count", "--apply")
        assert done["finished"] == 1
        assert str(cluster.owner(slot).address) != str(begun.source.address) or done["moves"]
        assert (await on_cluster.ask("shards", "balance", "--by", "count"))["unfinished"] == []
        await load.check()


async def test_an_interrupt_leaves_a_state_from_which_the_command_goes_on(
    cluster: Cluster, on_cluster: Desk
) -> None:
    async with cluster_load(cluster) as load:
        first = await put_on_one_node(cluster, load)
        words = [sys.executable, "-m", "gateway.cli", "shards", "balance", "--by", "count"]
        command = [*words, "--apply", "--config", str(on_cluster.config)]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)

        def some_moved() -> bool:
            left = load.nodes.shards_in.keys() - cluster.slots(first)
            return bool(left) or process.returncode is not None

        await until(lambda: asyncio.to_thread(some_moved), within_s=60)
        process.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(process.communicate(), 60)
        # A fast machine may have moved everything; then the interrupt met what was left of the process.
        assert process.returncode in (0, 130, -signal.SIGINT), said
        if process.returncode == 130:
            assert b"Interrupted. Run this again" in said
        await on_cluster.ask("shards", "balance", "--by", "count", "--apply")
        shown = await on_cluster.ask("shards", "show", *SOON)
        assert shown["imbalance"]["count"] < 1.2
        await load.check()


async def test_a_node_that_answers_and_cannot_serve_is_named_by_the_status(
    cluster: Cluster, on_cluster: Desk
) -> None:
    node = cluster.nodes[1]
    node.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        said = await on_cluster.run("ledger", "status")
        document = await on_cluster.run("ledger", "status", "--json")
    finally:
        node.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert said.code == 1
    assert f"The node {node.address} refuses its customers: maxmemory-policy is" in said.out
    assert list(json.loads(document.out)["nodes"]) == [str(node.address)]


async def test_a_user_without_the_rights_is_told_which(cluster: Cluster, tmp_path: Path) -> None:
    async with cluster_load(cluster) as load:
        await put_on_one_node(cluster, load)
        for_gates = (
            "~{cg* &{cg}:* +@read +@write +@transaction +@scripting +@pubsub +info +ping +time"
        )
        rules = ("reset", "on", ">pw", *for_gates.split(), "+cluster|slots", "+cluster|nodes")
        for node in cluster.nodes:
            node.ask("ACL", "SETUSER", "gate", *rules)
        desk = Desk(configured(tmp_path, url_of(cluster), username="gate", password="pw"))
        shown = await desk.run("shards", "show", *SOON)
        assert (shown.code, "Memory could not be read" in shown.out) == (0, True)
        assert re.search(r"16 \+ global +[\d.]+ +–", shown.out)
        said = await desk.refused("shards", "balance", "--by", "memory")
        assert "the load of shard 0 cannot be read" in said
        said = await desk.refused("shards", "balance", "--by", "count", "--apply")
        assert "may not run CLUSTER MIGRATESLOTS, CLUSTER GETSLOTMIGRATIONS" in said
        assert "Nothing was moved" in said


async def test_another_number_of_shards_is_refused(gate: Gate, desk: Desk, tmp_path: Path) -> None:
    await gate.store.creation.record()
    other = tmp_path / "other"
    other.mkdir()
    url = yaml.safe_load(desk.config.read_text())["redis"]["url"]
    said = await Desk(configured(other, url)).refused("shards", "show", *SOON)
    assert "created with 4 shards, not 16" in said


async def test_bad_options_are_usage_errors(on_cluster: Desk) -> None:
    assert (await on_cluster.run("shards", "balance", "--seconds", "0")).code == 2
    assert (await on_cluster.run("shards", "balance", "--by", "colour")).code == 2
