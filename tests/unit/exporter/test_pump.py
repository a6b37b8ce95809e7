"""The pump on a real outbox: order of work, faults, numbering."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import redis.asyncio

from gateway.domain.delivery import Place
from gateway.domain.event_rows import event_of
from gateway.domain.events import Event
from gateway.exporter.pacing import PumpOptions
from gateway.exporter.pump import Pump
from gateway.exporter.sharing import Sharing
from gateway.exporter.sink import Batch, Failure, Sink, SinkUnavailable, Written
from gateway.exporter.sinks.sqlite_reader import SqliteStore
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.outbox import Outbox
from tests.support.outbox_writer import OutboxWriter, pack_shard
from tests.support.stores import sqlite_sink
from tests.support.until import until as wait_until

QUICK = PumpOptions(
    batch_limit=64,
    linger_s=0.01,
    attempts=3,
    backoff_s=0.01,
    backoff_max_s=0.02,
    block_ms=20,
    watch_s=0.02,
)


class Memory(Sink):
    """A sink in memory that follows its script."""

    name: ClassVar[str] = "memory"

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.opened = 0
        self.closed = 0
        self.down = 0
        self.cursors: dict[int, Place] = {}
        self.rejects: dict[str, int] = {}
        """event id → how often it is rejected; a negative number for good."""

    async def open(self) -> Mapping[int, Place]:
        self.opened += 1
        return self.cursors

    async def write(self, batch: Batch) -> Written:
        if self.down:
            self.down -= 1
            raise SinkUnavailable("as scripted")
        failed = []
        for row in batch.rows:
            left = self.rejects.get(row.event_id, 0)
            if left:
                self.rejects[row.event_id] = left - 1
                failed.append(Failure(row, "as scripted", retry=left > 0))
        self.batches.append(batch)
        if not failed:
            self.cursors = {**self.cursors, **batch.ends}
        return Written(len(batch.rows) - len(failed), 0, failed)

    async def close(self) -> None:
        self.closed += 1

    @property
    def events(self) -> list[Event]:
        return [event_of(row) for batch in self.batches for row in batch.rows]


@pytest.fixture
def writer(valkey: redis.asyncio.Redis) -> OutboxWriter:
    return OutboxWriter(valkey)


@pytest.fixture
def sink() -> Memory:
    return Memory()


@pytest.fixture
def pump(writer: OutboxWriter, sink: Memory) -> Pump:
    return Pump(Outbox(writer.client, writer.shards), writer, sink, options=QUICK)


@asynccontextmanager
async def running(pump: Pump) -> AsyncIterator[None]:
    """Run the pump, then stop it as SIGTERM does."""
    task = asyncio.create_task(pump.run())
    try:
        yield
    finally:
        pump.stop()
        await asyncio.wait_for(task, 10)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition to hold."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it looks from outside, as an operator does
            await asyncio.sleep(0.005)


async def drained(pump: Pump) -> None:
    async with running(pump):
        pass


async def test_everything_written_is_delivered_in_order_and_trimmed(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    await writer.write_many(300)
    await drained(pump)
    assert sorted(event.event_id for event in sink.events) == sorted(writer.written)
    for shard in range(writer.shards):
        assert [e.seq for e in sink.events if e.shard == shard] == list(range(75))
        assert (await writer.head(shard)).acked == Place(1, 74)
        assert await writer.client.xlen(f"{{cg:{shard}}}:out") == 0
    assert pump.tally.delivered == 300
    assert pump.tally.anomalies == 0
    assert sink.closed == 1


async def test_what_is_written_while_it_runs_arrives(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    async with running(pump):
        for _ in range(5):
            await writer.write_many(7)
            await asyncio.sleep(0.03)
    assert sorted(event.event_id for event in sink.events) == sorted(writer.written)


async def test_nothing_is_acknowledged_before_the_sink_has_it(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    await writer.write_many(8)
    sink.down = 1_000_000
    async with running(pump):
        await until(lambda: pump.tally.retries > 3)
        assert [(await writer.head(shard)).acked for shard in range(4)] == [None] * 4
        assert pump.tally.waiting == 1
        await until(lambda: pump.tally.lag_events == 8)
        sink.down = 0
        await until(lambda: pump.tally.delivered == 8)
        await until(lambda: pump.tally.lag_events == 0)
        assert pump.tally.lag_seconds == 0
    assert sink.opened > 3


async def test_stopping_while_the_sink_is_down_ends_at_the_grace(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    await writer.write()
    sink.down = 1_000_000
    task = asyncio.create_task(pump.run())
    await until(lambda: pump.tally.retries > 0)
    pump.stop(grace_s=0.1)
    await asyncio.wait_for(task, 5)
    assert (await writer.head(0)).acked is None


async def test_a_poison_entry_becomes_a_dead_letter_and_the_rest_goes_on(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    await writer.write(event_id="a:settled")
    await writer.write(event_id="b:settled", s=b"\xc1")
    await writer.write(event_id="c:settled")
    await drained(pump)
    assert [event.event_id for event in sink.events] == ["a:settled", "c:settled"]
    ((letter),) = [letter for batch in sink.batches for letter in batch.dead]
    assert (letter.seq, pump.tally.dead_letters, pump.tally.anomalies) == (1, 1, 0)
    assert (await writer.head(0)).acked == Place(1, 2)


async def test_an_event_refused_for_good_is_buried_at_once(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    await writer.write_many(6)
    sink.rejects[writer.written[2]] = -1
    await drained(pump)
    ((letter),) = sink.batches[-1].dead
    assert (letter.event_id, letter.reason) == (writer.written[2], "as scripted")
    assert (pump.tally.delivered, pump.tally.dead_letters) == (5, 1)
    assert (await writer.head(2)).acked == Place(1, 0)


async def test_an_event_refused_for_now_is_tried_again(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    await writer.write_many(6)
    sink.rejects[writer.written[2]] = 2
    await drained(pump)
    assert (pump.tally.delivered, pump.tally.dead_letters) == (6, 0)


async def test_an_event_refused_too_often_is_buried(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    await writer.write_many(6)
    sink.rejects[writer.written[2]] = 1_000_000
    await drained(pump)
    assert (pump.tally.delivered, pump.tally.dead_letters) == (5, 1)


async def test_what_the_receiver_would_no_longer_recognize_is_buried_not_resent(
    writer: OutboxWriter,
) -> None:
    class Forgetful(Memory):
        max_replay_age_ms = 60_000

    sink = Forgetful()
    await writer.write()
    await drained(Pump(Outbox(writer.client, 4), writer, sink, options=QUICK))
    assert sink.events == []
    assert [letter.reason for letter in sink.batches[-1].dead] == [
        "older than the sink's max_replay_age"
    ]


async def test_a_gap_in_the_numbering_is_recorded_with_the_events(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    for _ in range(4):
        await writer.write()
    await writer.client.xdel("{cg:0}:out", "1-1", "1-2")
    await drained(pump)
    ((anomaly),) = [item for batch in sink.batches for item in batch.anomalies]
    assert (anomaly.kind, anomaly.after, anomaly.found) == ("gap", Place(1, 0), Place(1, 3))
    assert pump.tally.anomalies == 1


async def test_a_new_epoch_is_no_gap_if_it_begins_at_its_first_entry(
    pump: Pump, sink: Memory, writer: OutboxWriter
) -> None:
    await writer.write()
    await writer.place(0, Place(2, -1))
    await writer.write()
    await writer.write()
    await drained(pump)
    assert [(e.epoch, e.seq) for e in sink.events] == [(1, 0), (2, 0), (2, 1)]
    assert pump.tally.anomalies == 0


async def test_a_replaced_store_is_noticed(pump: Pump, sink: Memory, writer: OutboxWriter) -> None:
    """The ledger has trimmed what the new store never had."""
    await writer.write_many(12)
    await writer.ack(0, 1, 1)
    await drained(pump)
    ((anomaly),) = [item for batch in sink.batches for item in batch.anomalies]
    assert (anomaly.kind, anomaly.shard, anomaly.after, anomaly.found) == (
        "store_behind",
        0,
        Place(1, -1),
        Place(1, 1),
    )


async def test_a_ledger_that_lost_a_tail_is_noticed_at_the_start(
    writer: OutboxWriter, tmp_path: Path
) -> None:
    """It numbers its next events from the start: they stay in the outbox, and the shard takes nothing more."""
    path = tmp_path / "events.db"
    outbox = Outbox(writer.client, 4)
    for _ in range(5):
        await writer.write()
    await drained(Pump(outbox, writer, sqlite_sink(path), options=QUICK))
    await writer.client.flushall()
    writer.last.clear()
    for _ in range(2):
        await writer.write()
    second = Pump(outbox, writer, sqlite_sink(path), options=QUICK)
    await drained(second)
    with SqliteStore.at(path) as store:
        assert [a.kind for a in store.anomalies()] == ["ledger_behind"]
        assert store.dead_letters() == []
        assert len(store.latest(100)) == 5
    assert await writer.client.xlen("{cg:0}:out") == 2, "nothing of it may be trimmed"
    assert (await writer.head(0)).frozen


async def test_a_ledger_that_gives_a_place_again_is_frozen_and_keeps_its_entries(
    writer: OutboxWriter, tmp_path: Path
) -> None:
    """It has caught up with the store, so that its numbers alone look right."""
    path = tmp_path / "events.db"
    outbox = Outbox(writer.client, 4)
    for _ in range(3):
        await writer.write()
    await drained(Pump(outbox, writer, sqlite_sink(path), options=QUICK))
    await writer.client.flushall()
    for _ in range(4):
        await writer.write()
    await writer.write(1, event_id="other:settled")
    pump = Pump(outbox, writer, sqlite_sink(path), options=QUICK)

    async def frozen() -> bool:
        return (await writer.head(0)).frozen

    async with running(pump):
        await wait_until(frozen)
        await until(lambda: pump.tally.delivered >= 1 and not pump._shut.conflicts)
        await writer.write(1, event_id="more:settled")
        await until(lambda: pump.tally.delivered >= 2)
    with SqliteStore.at(path) as store:
        assert store.dead_letters() == []
        assert store.known_ids(["other:settled", "more:settled"]) == {
            "other:settled",
            "more:settled",
        }
    assert await writer.client.xlen("{cg:0}:out") == 4
    assert [(await writer.head(shard)).frozen for shard in (0, 1)] == [True, False]


async def test_a_shard_that_was_repaired_is_exported_again(
    writer: OutboxWriter, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    pump = Pump(Outbox(writer.client, 4), writer, sqlite_sink(path), options=QUICK)
    async with running(pump):
        for _ in range(3):
            await writer.write()
        await until(lambda: pump.tally.delivered == 3)
        await writer.client.set("{cg:0}:meta", pack_shard(Place(1, 0), Place(1, 0)))
        await until(lambda: 0 in pump._progress.halted)
        assert (await writer.head(0)).frozen
        await writer.client.set("{cg:0}:meta", pack_shard(Place(2, -1), Place(1, 2)))
        await writer.write()
        await until(lambda: pump.tally.delivered == 4)
    assert (await writer.head(0)).acked == Place(2, 0)


async def test_a_shard_that_a_second_failover_brings_back_complete_is_exported_again(
    writer: OutboxWriter, tmp_path: Path
) -> None:
    """First a replica that lagged, which is frozen; then one that has everything and was never frozen."""
    path = tmp_path / "events.db"
    pump = Pump(Outbox(writer.client, 4), writer, sqlite_sink(path), options=QUICK)
    async with running(pump):
        for _ in range(3):
            await writer.write()
        await until(lambda: pump.tally.delivered == 3)
        complete = pack_shard(Place(1, 2), Place(1, 1))
        await writer.client.set("{cg:0}:meta", pack_shard(Place(1, 0), Place(1, 0)))
        await until(lambda: 0 in pump.halted)
        await writer.client.set("{cg:0}:meta", complete)
        await writer.write()
        await until(lambda: pump.tally.delivered == 4)
        assert 0 not in pump.halted
    assert (await writer.head(0)).acked == Place(1, 3)


async def test_a_ledger_that_loses_a_tail_while_the_exporter_runs_is_noticed(
    writer: OutboxWriter, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    pump = Pump(Outbox(writer.client, 4), writer, sqlite_sink(path), options=QUICK)
    async with running(pump):
        for _ in range(5):
            await writer.write()
        await until(lambda: pump.tally.delivered == 5)
        await writer.client.delete("{cg:0}:out")
        await writer.client.set("{cg:0}:meta", pack_shard(Place(1, 2), Place(1, 1)))
        await until(lambda: pump.tally.anomalies == 1)
    with SqliteStore.at(path) as store:
        assert [(a.kind, a.after, a.found) for a in store.anomalies()] == [
            ("ledger_behind", Place(1, 4), Place(1, 2))
        ]


async def test_an_acknowledgement_that_fails_is_given_again(
    sink: Memory, writer: OutboxWriter
) -> None:
    class Flaky(OutboxWriter):
        refusals = 3

        async def ack(self, shard: int, epoch: int, seq: int) -> None:
            self.refusals -= 1
            if self.refusals >= 0:
                raise LedgerUnavailable("as scripted", unknown=True)
            await super().ack(shard, epoch, seq)

    await writer.write_many(8)
    await drained(Pump(Outbox(writer.client, 4), Flaky(writer.client), sink, options=QUICK))
    assert [(await writer.head(shard)).acked for shard in range(4)] == [Place(1, 1)] * 4
    assert len(sink.events) == 8


async def test_events_stored_before_a_crash_are_counted_as_duplicates_after_it(
    writer: OutboxWriter, tmp_path: Path
) -> None:
    """Killed between the sink's commit and the acknowledgement."""

    class Deaf(OutboxWriter):
        async def ack(self, shard: int, epoch: int, seq: int) -> None:
            raise LedgerUnavailable("the process was killed here")

    path = tmp_path / "events.db"
    outbox = Outbox(writer.client, 4)
    await writer.write_many(8)
    first = Pump(outbox, Deaf(writer.client), sqlite_sink(path), options=QUICK)
    task = asyncio.create_task(first.run())
    await until(lambda: first.tally.delivered == 8)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await writer.write_many(4)
    second = Pump(outbox, writer, sqlite_sink(path), options=QUICK)
    await drained(second)
    assert (second.tally.delivered, second.tally.duplicates) == (4, 8)
    with sqlite3.connect(path) as connection:
        ids = [row[0] for row in connection.execute("SELECT event_id FROM events")]
    assert sorted(ids) == sorted(writer.written)


async def test_an_exporter_waits_for_a_ledger_that_is_not_there_yet(
    sink: Memory, tmp_path: Path
) -> None:
    client = Endpoint.from_socket(tmp_path / "none").client(name="test")
    pump = Pump(Outbox(client, 4), OutboxWriter(client), sink, options=QUICK)
    async with running(pump):
        await until(lambda: pump.tally.retries > 2)
    assert pump.tally.waiting == 1
    await client.aclose()


async def test_what_another_server_has_at_places_that_were_read_before_is_compared_and_not_trimmed(
    writer: OutboxWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while two servers have taken entries of a shard; the exporter goes from one to the other."""
    path, names, servers = tmp_path / "events.db", ("{cg:0}:out", "{cg:0}:meta"), [0]
    sink, before = sqlite_sink(path), dict[str, bytes]()
    write = sink.write

    async def write_and_switch(batch: Batch) -> Written:
        written = await write(batch)
        if any(row.event_id == "a4:settled" for row in batch.rows):
            for name, value in before.items():
                await writer.client.restore(name, 0, value, replace=True)
            for number in range(3, 6):
                await writer.write(event_id=f"b{number}:settled")
            servers[0] += 1
        return written

    monkeypatch.setattr(sink, "write", write_and_switch)
    sharing = Sharing(servers=lambda: servers[0])
    async with running(
        Pump(Outbox(writer.client, 4), writer, sink, options=QUICK, sharing=sharing)
    ):
        for number in range(3):
            await writer.write(event_id=f"e{number}:settled")

        async def is_acknowledged() -> bool:
            return (await writer.head(0)).acked == Place(1, 2)

        async def is_frozen() -> bool:
            return (await writer.head(0)).frozen

        await wait_until(is_acknowledged)
        for name in names:
            value = await writer.client.dump(name)
            assert value is not None
            before[name] = value
        for number in (3, 4):
            await writer.write(event_id=f"a{number}:settled")
        await wait_until(is_frozen)
    assert await writer.client.xlen("{cg:0}:out") == 3
    with SqliteStore.at(path) as store:
        ids = [event.event_id for event in store.events_beyond(0, Place(1, 2))]
    assert ids == ["a3:settled", "a4:settled"], "nor what follows them"
