"""What a failover took from the ledger although it had been answered is charged again: once, and exactly."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from structlog.testing import capture_logs

from gateway.app.shards import ShardWatch
from gateway.domain.delivery import START, Place
from gateway.domain.event_rows import row_of
from gateway.domain.events import Event
from gateway.domain.stores import StoreMissing
from gateway.exporter.sink import Batch
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.flow.reservation.kept_settlements import KeptSettlements
from gateway.flow.reservation.reservation import Reservation
from gateway.ledger.client.errors import LedgerUnavailable, ShardClosed, TooOld
from gateway.ledger.losses import Losses
from gateway.operations.reapplying import Desk as RepairDesk
from gateway.operations.reopen import reopen
from gateway.operations.verify import verify
from gateway.telemetry.names import GateMetrics
from tests.flow.desk import Desk
from tests.support.outbox_entries import read_entries
from tests.support.stores import sqlite_access, sqlite_sink


class Shelter:
    """A desk whose worker keeps settlements, its store, and a copy of the ledger to go back to."""

    def __init__(self, client: redis.asyncio.Redis, folder: Path) -> None:
        self.desk = Desk(client, folder)
        self.client: Any = client
        self.path = folder / "events.db"
        self.copy: dict[bytes, bytes] = {}
        self.metrics = GateMetrics()
        self.connection: int | None = 0
        self.kept = self.keeper()
        self.watch = ShardWatch(
            self.desk.ledger.shards, self.desk.bank.outbox, sqlite_access(self.path), speaks=False
        )
        self.watch.on_look = self.kept.looked
        self.desk.ledger.reservations.answered = self.kept.note

    def keeper(self, most: int = 100) -> KeptSettlements:
        return KeptSettlements(
            self.desk.delivery, self.metrics, self.stored_ids, lambda: self.connection, most=most
        )

    def stored_ids(self, ids: Sequence[str]) -> set[str]:
        with SqliteStore.at(self.path) as store:
            return store.known_ids(ids)

    async def look(self) -> None:
        """One look of the watch, and all that it causes."""
        await self.watch.look()
        await self.desk.delivery.drain(10)

    async def deliver(self) -> None:
        """What the outbox holds is in the store, and trimmed."""
        sink, outbox = sqlite_sink(self.path), self.desk.bank.outbox
        cursors = await sink.open()
        after = {shard: cursors.get(shard, START) for shard in range(outbox.shard_count)}
        for shard, entries in await read_entries(outbox, after):
            rows = [row_of(entry) for entry in entries if isinstance(entry, Event)]
            end = Place(entries[-1].epoch, entries[-1].seq)
            assert not (await sink.write(Batch(rows, {shard: end}))).failed
            await self.desk.ledger.shards.ack(shard, *end)
        await sink.close()

    async def keep_copy(self) -> None:
        keys = [key async for key in self.client.scan_iter()]
        self.copy = {key: await self.client.dump(key) for key in keys}

    async def fail_over(self) -> None:
        """The server that serves now has an older copy."""
        await self.client.flushdb()
        for key, value in self.copy.items():
            await self.client.restore(key, 0, value)

    async def reopen(self) -> None:
        """As `creditgate ledger reopen` does."""
        shard, bank = self.desk.account.shard, self.desk.bank
        with SqliteStore.at(self.path) as store:
            repair = self.desk.ledger.repair
            losses = Losses(self.client, repair.shards.keys)
            desk = RepairDesk(repair, bank.audit, bank.outbox, store, losses)
            done = await reopen(desk, shard)
        assert done is not None
        assert done.epoch is not None

    async def lose_the_tail(self) -> None:
        """Fail over, be noticed, be repaired, be looked at again."""
        await self.fail_over()
        await self.look()
        assert self.watch.closed == {self.desk.account.shard}
        while self.watch.closed:  # again where an epoch that was lost, too, gets the same number
            await self.reopen()
            await self.look()

    async def run(self) -> Reservation:
        """A stream that has brought 20 tokens."""
        run = await self.desk.run()
        run.progress.stage, run.progress.status, run.facts.counted_output = "sent", 200, 20
        return run

    async def answered(self) -> Reservation:
        """One that has been settled."""
        return await self.settled(await self.run())

    async def settled(self, run: Reservation) -> Reservation:
        run.resolve()
        await self.desk.delivery.drain(10)
        return run

    async def charges(self) -> list[tuple[str, int]]:
        """Of the usage events in the store, in order."""
        await self.deliver()
        with SqliteStore.at(self.path) as store:
            events = store.events_beyond(self.desk.account.shard, START)
        return [(e.event_id, e.amount_nano) for e in events if e.reservation_id]

    async def drifts(self) -> list[str]:
        with SqliteStore.at(self.path) as store:
            found = await verify(self.desk.bank.audit, self.desk.bank.outbox, store)
        return [f"{drift.identity} {drift.subject}: {drift.message}" for drift in found.drifts]


CHARGE = 130
"""10 input tokens at 2 nano-credits, 20 output tokens at 5.5."""


@pytest.fixture
async def shelter(valkey: redis.asyncio.Redis, tmp_path: Path) -> AsyncIterator[Shelter]:
    shelter = Shelter(valkey, tmp_path)
    await shelter.desk.open()
    await shelter.deliver()
    await shelter.look()
    yield shelter
    await shelter.desk.journal.close()


async def test_what_the_store_has_is_kept_no_longer(shelter: Shelter) -> None:
    await shelter.answered()
    await shelter.look()
    assert len(shelter.kept) == 1
    await shelter.deliver()
    await shelter.look()
    assert len(shelter.kept) == 0
    assert shelter.desk.wire.calls.count("settle") == 1, "nothing was asked again"


async def test_what_the_store_has_of_another_server_of_the_shard_is_kept(
    shelter: Shelter,
) -> None:
    """Its cursor is beyond the place, and the shard has not been acknowledged so far."""
    await shelter.answered()
    shard = shelter.desk.account.shard
    last = (await shelter.desk.bank.outbox.head(shard)).last
    sink = sqlite_sink(shelter.path)
    await sink.open()
    await sink.write(Batch(ends={shard: last}))
    await sink.close()
    await shelter.look()
    assert len(shelter.kept) == 1


async def test_a_settle_that_was_answered_and_lost_is_charged_again(shelter: Shelter) -> None:
    run = await shelter.run()
    await shelter.keep_copy()
    await shelter.settled(run)
    with capture_logs() as logs:
        await shelter.lose_the_tail()
    assert await shelter.charges() == [("r1:settled", CHARGE)]
    assert await shelter.desk.held_nano() == 0
    assert await shelter.drifts() == []
    [line] = [line for line in logs if line["event"] == "settles_repeated"]
    assert (line["epoch"], line["repeated"], line["recovered"]) == (2, 1, 1)
    await shelter.look()
    assert len(shelter.kept) == 0


async def test_a_settle_whose_hold_was_lost_too_is_charged_again(shelter: Shelter) -> None:
    await shelter.keep_copy()
    await shelter.answered()
    await shelter.lose_the_tail()
    assert await shelter.charges() == [("r1:settled", CHARGE)]
    assert await shelter.drifts() == []


async def test_a_release_that_was_lost_frees_the_hold_again(shelter: Shelter) -> None:
    run = await shelter.desk.run()
    await shelter.keep_copy()
    await shelter.settled(run)
    await shelter.lose_the_tail()
    assert await shelter.desk.held_nano() == 0
    assert await shelter.charges() == [("r1:released", 0)]
    assert await shelter.drifts() == []


async def test_what_the_repair_took_from_the_store_is_not_charged_twice(shelter: Shelter) -> None:
    run = await shelter.run()
    await shelter.keep_copy()
    await shelter.settled(run)
    await shelter.deliver()
    await shelter.lose_the_tail()
    assert await shelter.charges() == [("r1:settled", CHARGE)]
    assert await shelter.drifts() == []
    await shelter.look()
    assert len(shelter.kept) == 0
    assert shelter.desk.wire.calls.count("settle") <= 2


async def test_a_repair_without_a_loss_charges_nothing_twice(shelter: Shelter) -> None:
    await shelter.answered()
    shard = shelter.desk.account.shard
    assert await shelter.desk.ledger.shards.freeze(shard, Place(1, 99))
    await shelter.look()
    await shelter.reopen()
    with capture_logs() as logs:
        await shelter.look()
    assert len(shelter.kept) == 1, "its event has got a place in the new epoch"
    assert await shelter.charges() == [("r1:settled", CHARGE)]
    assert await shelter.drifts() == []
    assert not [line for line in logs if line["event"] == "settles_repeated"]
    await shelter.look()
    assert len(shelter.kept) == 0


async def test_a_hold_that_was_lost_is_charged_by_the_settle_of_its_request(
    shelter: Shelter,
) -> None:
    await shelter.keep_copy()
    run = await shelter.run()
    held = run.held_nano
    other = await shelter.answered()  # so that the loss is seen
    await shelter.lose_the_tail()
    assert await shelter.desk.held_nano() == 0, "the hold is gone"
    await shelter.settled(run)
    ids = [other.hold.reservation_id, run.hold.reservation_id]
    assert await shelter.charges() == [(f"{name}:settled", CHARGE) for name in ids]
    assert held >= CHARGE
    assert await shelter.drifts() == []


async def test_a_repeat_that_meets_the_next_failover_is_repeated_after_it(shelter: Shelter) -> None:
    run = await shelter.run()
    await shelter.keep_copy()
    await shelter.settled(run)
    shelter.desk.wire.faults["settle"] = [LedgerUnavailable("gone again", unknown=True)]
    await shelter.lose_the_tail()
    assert len(shelter.kept) == 1
    await shelter.lose_the_tail()
    assert len(shelter.kept) == 1, "answered again, and not stored"
    await shelter.lose_the_tail()
    assert await shelter.charges() == [("r1:settled", CHARGE)]
    assert await shelter.drifts() == []


async def test_a_loss_that_others_have_filled_is_found_when_the_connection_is_another(
    shelter: Shelter,
) -> None:
    """Another worker has written as many entries as were lost, before anybody looked."""
    run = await shelter.run()
    hold = await shelter.desk.bank.reserve("acme", "other")
    await shelter.keep_copy()
    await shelter.settled(run)
    await shelter.fail_over()
    await shelter.desk.bank.settle("acme", hold)
    await shelter.deliver()
    shelter.connection = 1
    await shelter.look()
    assert shelter.watch.closed == frozenset()
    assert [event_id for event_id, _ in await shelter.charges()] == ["other:settled", "r1:settled"]
    assert await shelter.drifts() == []


async def test_while_there_is_no_connection_nothing_is_let_go(shelter: Shelter) -> None:
    await shelter.answered()
    await shelter.deliver()
    shelter.connection = None
    await shelter.look()
    assert len(shelter.kept) == 1
    shelter.connection = 1
    await shelter.look()
    await shelter.look()
    assert len(shelter.kept) == 0


@pytest.mark.parametrize(
    "refusal", [TooOld("too late"), ShardClosed(0, "unknown_account")], ids=lambda e: e.args[0][:8]
)
async def test_what_the_ledger_will_never_take_is_named_and_set_aside(
    shelter: Shelter, refusal: Exception
) -> None:
    run = await shelter.run()
    await shelter.keep_copy()
    await shelter.settled(run)
    shelter.desk.wire.faults["settle"] = [refusal]
    with capture_logs() as logs:
        await shelter.lose_the_tail()
    [line] = [line for line in logs if line["event"] == "settle_lost"]
    assert line["reservation_ids"] == ["r1"]
    assert shelter.desk.set_aside.value == 1
    [rejected] = (shelter.path.parent / "journal").glob("*.rejected")
    assert b"r1" in rejected.read_bytes()
    assert len(shelter.kept) == 0


async def test_what_comes_too_late_and_is_in_the_store_is_not_lost(shelter: Shelter) -> None:
    run = await shelter.run()
    await shelter.keep_copy()
    await shelter.settled(run)
    await shelter.deliver()
    shelter.desk.wire.faults["settle"] = [TooOld("too late")]
    shelter.connection = 1
    with capture_logs() as logs:
        await shelter.look()
    assert shelter.desk.wire.faults["settle"] == [], "it was asked"
    assert not [line for line in logs if line["event"] == "settle_lost"]
    assert len(shelter.kept) == 0


async def test_while_the_store_cannot_say_what_it_has_nothing_is_given_up(
    shelter: Shelter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: Sequence[str]) -> set[str]:
        raise StoreMissing("away")

    await shelter.answered()
    shelter.desk.wire.faults["settle"] = [TooOld("too late")]
    shelter.connection = 1
    monkeypatch.setattr(shelter.kept, "_stored_ids", missing)
    await shelter.look()
    assert len(shelter.kept) == 1
    assert shelter.desk.set_aside.value == 0


async def test_beyond_the_bound_the_oldest_are_forgotten_and_counted(shelter: Shelter) -> None:
    kept = shelter.keeper(most=3)
    shelter.desk.ledger.reservations.answered = kept.note
    for _ in range(5):
        await shelter.answered()
    kept.tick()
    assert len(kept) == 3
    assert shelter.metrics.settlements_forgotten.value == 2
    assert shelter.metrics.settlements_unstored.value == 3


async def test_a_worker_that_stops_while_a_shard_is_shut_leaves_what_it_kept_in_the_journal(
    shelter: Shelter,
) -> None:
    run = await shelter.run()
    await shelter.keep_copy()
    await shelter.settled(run)
    await shelter.fail_over()
    await shelter.look()
    await shelter.kept.leave()
    assert len(shelter.kept) == 0
    await shelter.reopen()
    replayed = await shelter.desk.delivery.replay_journal()
    assert (replayed.delivered, replayed.left) == (1, 0)
    assert await shelter.charges() == [("r1:settled", CHARGE)]
    assert await shelter.drifts() == []


async def test_a_worker_that_stops_while_all_is_well_leaves_nothing(shelter: Shelter) -> None:
    await shelter.answered()
    await shelter.kept.leave()
    assert shelter.desk.journal.waiting_records == 0


@pytest.mark.parametrize(("reported", "charged"), [(None, 30), (50, 50)])
async def test_a_stream_whose_hold_was_lost_pays_what_is_reported_else_at_most_its_hold(
    shelter: Shelter, reported: int | None, charged: int
) -> None:
    await shelter.keep_copy()
    run = await shelter.desk.run(hold_output_tokens=30)
    await shelter.answered()  # so that the loss is seen
    await shelter.lose_the_tail()
    run.growth.extend()
    await shelter.desk.delivery.drain(5)
    run.progress.stage, run.progress.status, run.facts.counted_output = "complete", 200, 50
    if reported is not None:
        run.facts.usage, run.facts.usage_final = {"input": 10, "output": reported}, True
        run.facts.input_reported = run.facts.output_reported = True
        run.facts.output_reported_at = 50
    await shelter.settled(run)
    assert (await shelter.charges())[1] == ("r1:settled", 20 + charged * 11 // 2)
    assert await shelter.drifts() == []
