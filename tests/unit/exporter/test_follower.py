"""Optional sinks: fed with everything, each once when nothing fails, and never in the way of the pump."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import redis.asyncio

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.follower import QUEUE_LOADS, Follower
from gateway.exporter.pacing import PumpOptions
from gateway.exporter.pump import Pump
from gateway.exporter.sharing import Sharing
from gateway.exporter.sink import Batch, Failure, Sink, SinkUnavailable, Written
from gateway.exporter.sinks.sqlite import SqliteSink
from gateway.ledger.outbox import Outbox
from tests.support.outbox_writer import OutboxWriter
from tests.support.stores import sqlite_access, sqlite_sink
from tests.unit.exporter.test_pump import QUICK, until


class Bus(Sink):
    """A receiver without memory of its own."""

    name: ClassVar[str] = "bus"

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.down = False
        self.slow_s = 0.0
        self.rejects: set[str] = set()
        self.closed = 0

    async def open(self) -> Mapping[int, Place]:
        if self.down:
            raise SinkUnavailable("as scripted")
        return {}

    async def write(self, batch: Batch) -> Written:
        await asyncio.sleep(self.slow_s)
        if self.down:
            raise SinkUnavailable("as scripted")
        bad = [row for row in batch.rows if row.event_id in self.rejects]
        self.ids += [row.event_id for row in batch.rows if row not in bad]
        return Written(len(batch.rows) - len(bad), 0, [Failure(row, "poison") for row in bad])

    async def close(self) -> None:
        self.closed += 1


class Late(Bus):
    starts: ClassVar[Literal["beginning", "now"]] = "now"


@pytest.fixture
def writer(valkey: redis.asyncio.Redis) -> OutboxWriter:
    return OutboxWriter(valkey)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def bus() -> Bus:
    return Bus()


@asynccontextmanager
async def exporting(
    writer: OutboxWriter, path: Path, sinks: Mapping[str, Sink], options: PumpOptions = QUICK
) -> AsyncIterator[Pump]:
    store = sqlite_sink(path)
    followers = [Follower(name, sink, store, options) for name, sink in sinks.items()]
    sharing = Sharing(followers=followers)
    pump = Pump(Outbox(writer.client, 4), writer, store, options=options, sharing=sharing)
    task = asyncio.create_task(pump.run())
    try:
        yield pump
    finally:
        pump.stop()
        await asyncio.wait_for(task, 10)


async def caught_up(pump: Pump) -> None:
    await until(lambda: pump.tally.lag_events == 0 and all(_at_end(f) for f in pump.followers))


def _at_end(follower: Follower) -> bool:
    return bool(follower._cursors) and follower._cursors == follower._stored


async def test_what_the_store_takes_goes_to_every_sink(
    writer: OutboxWriter, path: Path, bus: Bus
) -> None:
    other = Bus()
    async with exporting(writer, path, {"bus": bus, "other": other}) as pump:
        for _ in range(4):
            await writer.write_many(25)
            await asyncio.sleep(0.02)
        await until(lambda: len(bus.ids) == len(other.ids) == 100)
        await caught_up(pump)
        assert [f.tally.delivered for f in pump.followers] == [100, 100]
    assert sorted(bus.ids) == sorted(other.ids) == sorted(writer.written)
    assert bus.closed == 1


def newer_release(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE migrations (version INTEGER, applied_at_ms INTEGER)")
        connection.execute("INSERT INTO migrations VALUES (999, 0)")
    connection.close()


def no_database(path: Path) -> None:
    path.write_bytes(b"what somebody else has written here " * 400)


@pytest.mark.parametrize("damage", [newer_release, no_database])
async def test_a_file_that_cannot_be_used_stops_neither_the_store_nor_other_sinks(
    writer: OutboxWriter, path: Path, bus: Bus, damage: Callable[[Path], None]
) -> None:
    unusable = path.with_name("archive.db")
    damage(unusable)
    sinks = {"archive": sqlite_sink(unusable), "bus": bus}
    async with exporting(writer, path, sinks) as pump:
        await writer.write_many(20)
        await until(lambda: len(bus.ids) == 20)
        await until(lambda: [f.tally.waiting for f in pump.followers] == [1, 0])
        unusable.unlink()
        await caught_up(pump)
        assert pump.followers[0].tally.delivered == 20


async def test_a_sink_that_is_away_stops_nothing_and_catches_up_from_the_store(
    writer: OutboxWriter, path: Path, bus: Bus
) -> None:
    bus.down = True
    async with exporting(writer, path, {"bus": bus}) as pump:
        for _ in range(3 * QUEUE_LOADS):
            await writer.write_many(8)
            await asyncio.sleep(0.015)
        await until(lambda: pump.tally.delivered == len(writer.written))
        async with asyncio.timeout(10):  # the outbox is trimmed nevertheless
            while await writer.client.xlen("{cg:0}:out"):  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.01)
        await until(lambda: pump.followers[0].tally.waiting == 1)
        assert pump.followers[0].tally.lag_events > 0
        bus.down = False
        await until(lambda: len(bus.ids) == len(writer.written))
    assert sorted(bus.ids) == sorted(writer.written)


async def test_it_goes_on_where_it_was_after_a_restart(
    writer: OutboxWriter, path: Path, bus: Bus
) -> None:
    async with exporting(writer, path, {"bus": bus}):
        await writer.write_many(10)
        await until(lambda: len(bus.ids) == 10)
    async with exporting(writer, path, {}):
        await writer.write_many(10)
    async with exporting(writer, path, {"bus": bus}):
        await until(lambda: len(bus.ids) == 20)
        await writer.write_many(10)
        await until(lambda: len(bus.ids) == 30)
    assert sorted(bus.ids) == sorted(writer.written)
    with sqlite_access(path).open() as store:
        assert store.sink_cursors("bus") == store.cursors()


async def test_a_poison_event_is_a_dead_letter_of_its_sink_and_stops_nobody(
    writer: OutboxWriter, path: Path, bus: Bus
) -> None:
    bus.rejects = {"r3:settled"}
    async with exporting(writer, path, {"bus": bus}) as pump:
        await writer.write_many(8)
        await until(lambda: len(bus.ids) == 7)
        await caught_up(pump)
        assert (pump.tally.dead_letters, pump.followers[0].tally.dead_letters) == (0, 1)
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT sink, event_id, reason FROM dead_letters").fetchall()
    assert rows == [("bus", "r3:settled", "poison")]
    with sqlite_access(path).open() as store:
        assert store.event("r3:settled") is not None, "the store has it"


async def test_a_sink_for_billing_begins_with_what_comes_from_then_on(
    writer: OutboxWriter, path: Path
) -> None:
    async with exporting(writer, path, {}):
        await writer.write_many(6)
    late = Late()
    async with exporting(writer, path, {"late": late}) as pump:
        await until(lambda: bool(pump.followers[0]._cursors))
        await writer.write(0, event_id="new:settled")
        await until(lambda: late.ids == ["new:settled"])
    await writer.write(3, event_id="between:settled")
    async with exporting(writer, path, {"late": late}):
        await until(lambda: late.ids == ["new:settled", "between:settled"])


async def test_many_more_than_a_batch_are_read_back_in_pieces(
    writer: OutboxWriter, path: Path, bus: Bus
) -> None:
    async with exporting(writer, path, {}):
        await writer.write_many(300)
    small = PumpOptions(batch_limit=32, linger_s=0.001, block_ms=20, watch_s=0.02)
    async with exporting(writer, path, {"bus": bus}, small) as pump:
        await until(lambda: len(bus.ids) == 300)
        assert pump.followers[0].tally.batches >= 300 / 32
    assert sorted(bus.ids) == sorted(writer.written)
    by_shard = [[i for i in bus.ids if int(i[1:-8]) % 4 == shard] for shard in range(4)]
    assert all(ids == sorted(ids, key=lambda i: int(i[1:-8])) for ids in by_shard)


async def test_a_dead_letter_at_the_end_does_not_keep_it_behind(
    writer: OutboxWriter, path: Path, bus: Bus
) -> None:
    async with exporting(writer, path, {}):
        await writer.write(0)
        await writer.write(0, event_id="bad:settled", s=b"\xc1")
    async with exporting(writer, path, {"bus": bus}) as pump:
        await until(lambda: len(bus.ids) == 1)
        await caught_up(pump)
        assert pump.followers[0].tally.lag_events == 0


async def test_another_store_can_follow_and_has_the_same_rows(
    writer: OutboxWriter, path: Path, tmp_path: Path
) -> None:
    copy: SqliteSink = sqlite_sink(tmp_path / "copy.db")
    async with exporting(writer, path, {"copy": copy}) as pump:
        await writer.write_many(40)
        await until(lambda: pump.followers[0].tally.delivered == 40)

    def rows(file: Path) -> Sequence[tuple[object, ...]]:
        with sqlite3.connect(file) as connection:
            asked = "SELECT * FROM event_rows ORDER BY shard, epoch, seq"
            return connection.execute(asked).fetchall()

    assert rows(tmp_path / "copy.db") == rows(path)
    assert sqlite_access(tmp_path / "copy.db").cursors() == sqlite_access(path).cursors()


async def test_shards_that_go_while_the_store_is_read_are_left_to_their_new_exporter(
    writer: OutboxWriter, path: Path, bus: Bus
) -> None:
    async with exporting(writer, path, {}):
        await writer.write_many(8)
    store = sqlite_sink(path)
    await store.open()
    follower = Follower("bus", bus, store, QUICK)
    read_beyond = store.read_beyond

    async def losing(places: Mapping[int, Place], limit: int) -> Sequence[EventRow]:
        rows = await read_beyond(places, limit)
        follower.hold({shard: Place(1, 1) for shard in (0, 1)})
        return rows

    store.read_beyond = losing  # type: ignore[method-assign]
    follower.hold({shard: Place(1, 1) for shard in range(4)})
    task = asyncio.create_task(follower.run())
    await until(lambda: len(bus.ids) == 4)
    follower.stop(1)
    await asyncio.wait_for(task, 5)
    assert sorted(bus.ids) == ["r0:settled", "r1:settled", "r4:settled", "r5:settled"]
    known = await store.sink_cursors("bus")
    assert {shard for shard, place in known.items() if place == Place(1, 1)} == {0, 1}
    await store.close()


async def test_a_bug_in_a_sink_ends_the_exporter_with_it(
    writer: OutboxWriter, path: Path, bus: Bus
) -> None:
    async def broken(batch: Batch) -> Written:
        raise ZeroDivisionError

    bus.write = broken  # type: ignore[method-assign]
    await writer.write()
    with pytest.raises(ZeroDivisionError):
        async with exporting(writer, path, {"bus": bus}) as pump:
            await until(lambda: pump._ended.is_set())


async def test_a_place_that_was_asked_for_before_a_shard_was_lost_is_asked_for_again(
    path: Path, bus: Bus
) -> None:
    """Meanwhile another exporter has fed the sink: what it has sent is not sent again."""
    store = sqlite_sink(path)
    await store.open()
    follower = Follower("bus", bus, store, QUICK)
    follower.hold({0: Place(1, 9)})
    asking = asyncio.create_task(follower._find_cursors())
    await asyncio.sleep(0)
    follower.hold({})
    await store.note_sink("bus", {0: Place(1, 9)})
    follower.hold({0: Place(1, 9)})
    await asking
    assert follower._cursors == {}
    await follower._find_cursors()
    assert follower._cursors == {0: Place(1, 9)}
    await store.close()


async def test_a_sink_that_starts_now_misses_nothing_while_it_does_not_answer_yet(
    writer: OutboxWriter, path: Path
) -> None:
    async with exporting(writer, path, {}) as pump:
        await writer.write_many(8)
        await until(lambda: pump.tally.delivered == 8)
    late = Late()
    late.down = True
    async with exporting(writer, path, {"late": late}) as pump:
        await until(lambda: bool(pump.followers[0]._cursors))
        new = await writer.write_many(12)
        await until(lambda: pump.tally.delivered >= 12)
    late.down = False
    async with exporting(writer, path, {"late": late}) as pump:
        await caught_up(pump)
    assert sorted(late.ids) == sorted(new)
