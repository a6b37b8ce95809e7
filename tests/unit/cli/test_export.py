"""`export`: run, status, replay, test, adopt; `check --connect`."""

import asyncio
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app.private import check_folder
from gateway.exporter.replay import TEST_CUSTOMER
from gateway.settings import load_settings
from tests.support.delivering import delivered, exporting
from tests.support.gate import Gate
from tests.support.stores import events_path
from tests.support.until import until

from .desk import Desk


def with_sinks(config: Path, sinks: dict[str, Any], **more: Any) -> Desk:
    """The same gate with these sinks."""
    document = yaml.safe_load(config.read_text())
    document["export"] = {**document.get("export", {}), "sinks": sinks, **more}
    changed = config.with_name("sinks.yaml")
    changed.write_text(yaml.safe_dump(document))
    return Desk(changed)


def ids(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        asked = "SELECT event_id FROM events ORDER BY position"
        return [row[0] for row in connection.execute(asked)]


async def spend(gate: Gate, times: int = 3) -> None:
    for _ in range(times):
        await gate.chat("hi\nsim: tokens=5", max_tokens=8)
    await gate.settle_all()


@pytest.mark.usefixtures("quiet_logs")
async def test_status_says_what_is_undelivered_and_that_nobody_exports(
    gate: Gate, desk: Desk
) -> None:
    await spend(gate)
    said = await desk.run("export", "status")
    assert said.code == 1
    assert "Nobody exports." in said.out
    found = (await desk.run("export", "status", "--json")).out
    assert '"required_store":null' in found.replace(" ", "")
    async with exporting(gate):
        await delivered(gate)
        status = await desk.ask("export", "status")
    assert status["required_store"] == "events"
    assert status["oldest_undelivered_s"] is None
    assert [exporter["shards"] for exporter in status["exporters"]] == [4]
    assert status["sinks"] == [
        {"name": "events", "required": True, "lag_events": 0, "dead_letters": 0}
    ]


@pytest.mark.usefixtures("quiet_logs")
async def test_status_of_a_store_that_is_away_says_what_the_ledger_knows(
    gate: Gate, desk: Desk
) -> None:
    """When the hours that are left are wanted most."""
    async with exporting(gate):
        await spend(gate)
        await delivered(gate)
    await spend(gate, 2)
    lag = json.loads((await desk.run("export", "status", "--json")).out)["sinks"][0]["lag_events"]
    away = {"away": {"postgres": {"url": "postgresql://gate:hush@127.0.0.1:1/gate"}}}
    other = with_sinks(desk.config, away, required="away")
    said = await other.run("export", "status", "--json")
    found = json.loads(said.out)
    assert (said.code, "127.0.0.1:1" in found["store_unreadable"]) == (1, True)
    assert "hush" not in said.out
    assert lag >= 2
    assert found["sinks"] == [
        {"name": "events", "required": True, "lag_events": lag, "dead_letters": 0}
    ]
    assert found["oldest_undelivered_s"] is not None
    assert (await other.run("wallet", "show", "acme")).code == 1, "what may write needs the store"


@pytest.mark.usefixtures("quiet_logs")
async def test_replay_sends_stored_events_again_and_the_sink_knows_them(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    await spend(gate)
    async with exporting(gate):
        await delivered(gate)
    copy = with_sinks(desk.config, {"copy": {"sqlite": {"path": str(tmp_path / "copy.db")}}})
    said = await copy.run("export", "replay", "--sink", "copy", "--customer", "acme")
    count = sum(1 for each in ids(events_path(gate.settings)) if "broke" not in each)
    assert said.code == 0, said
    first = int(said.out.split()[0])
    assert 3 <= first <= count
    assert "0 were there already" in said.out
    again = await copy.run("export", "replay", "--sink", "copy", "--since", "1h")
    assert f"{first} were there already" in again.out
    assert sorted(ids(tmp_path / "copy.db")) == sorted(ids(events_path(gate.settings)))


async def test_replay_wants_to_know_what_and_where(gate: Gate, desk: Desk) -> None:
    assert "--since" in (await desk.run("export", "replay", "--sink", "copy")).err
    async with exporting(gate):
        await delivered(gate)
    said = await desk.run("export", "replay", "--sink", "copy", "--since", "2026-01-01")
    assert "there is no sink 'copy'; sinks that are configured: events" in said.err
    said = await desk.run("export", "replay", "--sink", "events", "--since", "yesterday")
    assert (said.code, "is not a" in said.err) == (2, True), said
    said = await desk.run("export", "replay", "--sink", "events", "--seq", "1:2")
    assert "SHARD:EPOCH-SEQ" in said.err


async def test_replay_from_a_place_sends_what_follows_it(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    await spend(gate)
    async with exporting(gate):
        await delivered(gate)
    with sqlite3.connect(events_path(gate.settings)) as connection:
        shard, last = connection.execute(
            "SELECT shard, max(seq) FROM events WHERE customer_id = 'acme'"
        ).fetchone()
    copy = with_sinks(desk.config, {"copy": {"sqlite": {"path": str(tmp_path / "copy.db")}}})
    place = f"{shard}:1-{last - 1}"
    assert (await copy.run("export", "replay", "--sink", "copy", "--seq", place)).code == 0
    assert len(ids(tmp_path / "copy.db")) == 2


async def test_a_test_event_is_marked_and_charges_nobody(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    copy = with_sinks(desk.config, {"copy": {"sqlite": {"path": str(tmp_path / "copy.db")}}})
    said = await copy.run("export", "test", "copy")
    assert said.code == 0, said
    with sqlite3.connect(tmp_path / "copy.db") as connection:
        ((customer, amount, facts),) = connection.execute(
            "SELECT customer_id, amount_nano, facts FROM events"
        )
    assert (customer, amount) == (TEST_CUSTOMER, 0)
    assert '"test":true' in facts


async def test_another_store_is_adopted_when_it_has_everything(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    await spend(gate)
    async with exporting(gate):
        await delivered(gate)
    new = {"warehouse": {"sqlite": {"path": str(tmp_path / "new.db")}}}
    moved = with_sinks(desk.config, new, required="warehouse")
    said = await moved.run("export", "adopt")
    assert said.code == 1
    assert "lacks events that the ledger has trimmed" in said.err
    for ending in ("", "-wal", "-shm", ".lock"):
        tmp_path.joinpath(f"new.db{ending}").unlink(missing_ok=True)
    with sqlite3.connect(events_path(gate.settings)) as old:
        old.backup(sqlite3.connect(tmp_path / "new.db"))
    said = await moved.run("export", "adopt")
    assert said.code == 0, said
    status = await moved.run("export", "status", "--json")
    assert '"required_store":"warehouse"' in status.out.replace(" ", "")


@pytest.mark.usefixtures("quiet_logs")
async def test_a_new_store_is_told_how_far_the_other_sinks_were_fed(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    """A billing system begins with what is new: without this it misses what was on its way to it."""
    bill = {"http": {"url": "http://127.0.0.1:9"}}
    new = {"sqlite": {"path": str(tmp_path / "new.db")}}
    before = with_sinks(desk.config, {"warehouse": new, "bill": bill})
    await spend(gate)
    async with exporting(gate, load_settings(before.config)):
        await delivered(gate)
        await until_equal(tmp_path / "new.db", gate)
    with sqlite3.connect(events_path(gate.settings)) as connection:
        connection.execute("UPDATE sink_cursors SET seq = 1 WHERE sink = 'bill' AND seq > 1")
        asked = "SELECT shard, epoch, seq FROM sink_cursors WHERE sink = 'bill' ORDER BY shard"
        fed = connection.execute(asked).fetchall()
        stored = connection.execute("SELECT * FROM cursors ORDER BY shard").fetchall()
    assert fed
    alone = with_sinks(desk.config, {"warehouse": new, "bill": bill}, required="warehouse")
    said = await alone.run("export", "adopt")
    assert (
        said.code,
        "bill have been fed is known to the present store, 'events'" in said.err,
    ) == (
        1,
        True,
    ), said
    old = {"sqlite": {"path": str(events_path(gate.settings))}}
    sinks = {"warehouse": new, "bill": bill, "old": old}
    kept = with_sinks(desk.config, sinks, required="warehouse")
    said = await kept.run("export", "adopt")
    assert said.code == 0, said
    with sqlite3.connect(tmp_path / "new.db") as connection:
        assert connection.execute(asked).fetchall() == fed
        assert connection.execute(asked.replace("bill", "old")).fetchall() == stored


@pytest.mark.usefixtures("quiet_logs")
async def test_a_new_store_is_adopted_without_the_progress_of_sinks_if_that_is_wanted(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    new = {"sqlite": {"path": str(tmp_path / "new.db")}}
    await spend(gate)
    async with exporting(gate, load_settings(with_sinks(desk.config, {"warehouse": new}).config)):
        await delivered(gate)
        await until_equal(tmp_path / "new.db", gate)
    sinks = {"warehouse": new, "bill": {"http": {"url": "http://127.0.0.1:9"}}}
    moved = with_sinks(desk.config, sinks, required="warehouse")
    said = await moved.run("export", "adopt", "--reset-progress")
    assert said.code == 0, said
    status = await moved.run("export", "status", "--json")
    assert '"required_store":"warehouse"' in status.out.replace(" ", "")


async def test_a_folder_that_a_check_makes_is_private_so_that_the_gate_starts_on_it(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    folder = tmp_path / "fresh"
    copy = with_sinks(desk.config, {"copy": {"sqlite": {"path": str(folder / "copy.db")}}})
    before = os.umask(0o022)
    try:
        said = await copy.run("check", str(copy.config), "--connect")
    finally:
        os.umask(before)
    assert said.code == 0, said
    check_folder(folder)
    assert (folder / "copy.db").stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("quiet_logs")
async def test_a_sink_that_cannot_be_read_does_not_hide_what_was_found_of_the_ledger(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    copy = with_sinks(desk.config, {"copy": {"sqlite": {"path": str(tmp_path / "copy.db")}}})
    await spend(gate)
    async with exporting(gate, load_settings(copy.config)):
        await delivered(gate)
        await until_equal(tmp_path / "copy.db", gate)
    for ending in ("-wal", "-shm", ""):
        tmp_path.joinpath(f"copy.db{ending}").unlink(missing_ok=True)
    said = await copy.run("verify")
    assert (said.code, "No drift." in said.out, "copy.db" in said.err) == (1, True, True), said


async def test_check_connect_opens_every_sink_and_names_the_one_that_fails(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "folder.db").mkdir()
    bad = {
        "good": {"sqlite": {"path": "g.db"}},
        "bad": {"sqlite": {"path": str(tmp_path / "folder.db")}},
    }
    both = with_sinks(desk.config, bad)
    said = await both.run("check", str(both.config), "--connect")
    assert said.code == 1
    assert "Sink good can be written to." in said.out
    assert "Sink bad: folder.db: unable to open database file" in said.out
    async with exporting(gate):  # an exporter that writes is no obstacle
        good = with_sinks(desk.config, {})
        said = await good.run("check", str(good.config), "--connect")
    assert (said.code, "Sink events can be written to." in said.out) == (0, True), said


@pytest.mark.usefixtures("quiet_logs")
async def test_verify_compares_sinks_and_repairs_what_they_lack(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    copy = with_sinks(desk.config, {"copy": {"sqlite": {"path": str(tmp_path / "copy.db")}}})
    settings = load_settings(copy.config)
    await spend(gate)
    async with exporting(gate, settings):
        await delivered(gate)
        await until_equal(tmp_path / "copy.db", gate)
    assert "copy has all" in (await copy.run("verify")).out
    with sqlite3.connect(tmp_path / "copy.db") as connection:
        connection.execute("DELETE FROM events WHERE customer_id = 'acme' AND kind = 'settle'")
    said = await copy.run("verify")
    assert said.code == 1
    assert "3 are missing" in said.out
    repaired = await copy.run("verify", "--repair")
    assert (repaired.code, "copy: 3 events sent again" in repaired.err) == (0, True), repaired
    assert sorted(ids(tmp_path / "copy.db")) == sorted(ids(events_path(gate.settings)))


async def until_equal(path: Path, gate: Gate) -> None:
    async def equal() -> bool:
        try:
            there = await asyncio.to_thread(path.exists)
            return there and sorted(ids(path)) == sorted(ids(events_path(gate.settings)))
        except sqlite3.OperationalError:
            return False  # it has no tables yet

    await until(equal)


@pytest.mark.usefixtures("quiet_logs")
async def test_operations_with_another_store_s_configuration_are_refused_and_told_which_to_use(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    await spend(gate)
    async with exporting(gate):
        await delivered(gate)
    other = with_sinks(
        desk.config, {"mine": {"sqlite": {"path": str(tmp_path / "mine.db")}}}, required="mine"
    )
    said = await other.run("verify")
    assert said.code == 1
    assert "this ledger's events are in its required store 'events'" in said.err
    assert (await other.run("wallet", "show", "acme")).code == 0, "it does not ask the store"
