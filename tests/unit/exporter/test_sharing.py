"""Several exporters on one ledger: they share the shards, take over from a dead one, and write to one store."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import redis.asyncio

from gateway.domain.delivery import Anomaly, DeadLetter, Place
from gateway.domain.event_rows import EventRow
from gateway.domain.refusals import RefusalHour
from gateway.exporter.holding import Holding
from gateway.exporter.pump import Pump
from gateway.exporter.sharing import Sharing
from gateway.exporter.sink import Batch, Sink, Store, Written
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.exporters import Lease, Leases
from gateway.ledger.outbox import Outbox
from tests.support.outbox_writer import OutboxWriter
from tests.support.stores import sqlite_access, sqlite_sink
from tests.unit.exporter.test_pump import QUICK, until

TTL_MS = 300


class Shared:
    """What a database server would keep."""

    def __init__(self) -> None:
        self.rows: dict[str, EventRow] = {}
        self.cursors: dict[int, Place] = {}
        self.written_by: dict[str, list[str]] = {}


class SharedStore(Store):
    """One exporter's connection to it."""

    name: ClassVar[str] = "shared"

    def __init__(self, shared: Shared, member: str) -> None:
        self.anomalies: list[Anomaly] = []
        self.writable = asyncio.Event()
        self.writable.set()
        self._shared = shared
        self._writes = shared.written_by.setdefault(member, [])

    @property
    def store_id(self) -> str:
        return "shared-1"

    async def open(self) -> Mapping[int, Place]:
        return dict(self._shared.cursors)

    async def write(self, batch: Batch) -> Written:
        await self.writable.wait()
        self.anomalies += batch.anomalies
        new = [row for row in batch.rows if row.event_id not in self._shared.rows]
        self._shared.rows.update({row.event_id: row for row in new})
        for shard, end in batch.ends.items():
            self._shared.cursors[shard] = max(end, self._shared.cursors.get(shard, end))
        self._writes += [row.event_id for row in new]
        return Written(len(new), len(batch.rows) - len(new))

    async def read_beyond(self, places: Mapping[int, Place], limit: int) -> Sequence[EventRow]:
        return []

    async def sink_cursors(self, sink: str) -> Mapping[int, Place]:
        return {}

    async def note_sink(
        self, sink: str, ends: Mapping[int, Place], dead: Sequence[DeadLetter] = ()
    ) -> None:
        raise AssertionError

    async def refusal_cursor(self) -> str:
        raise AssertionError

    async def add_refusals(self, hours: Sequence[RefusalHour], after: str, cursor: str) -> bool:
        raise AssertionError

    async def close(self) -> None:
        pass


@pytest.fixture
def writer(valkey: redis.asyncio.Redis) -> OutboxWriter:
    return OutboxWriter(valkey)


def make_pump(writer: OutboxWriter, sink: Sink, member: str, name: str = "shared") -> Pump:
    leases = Leases(RedisRunner(writer.client), Keys("cg", 4), member, ttl_ms=TTL_MS)
    sharing = Sharing(leases, name)
    return Pump(Outbox(writer.client, 4), writer, sink, options=QUICK, sharing=sharing)


async def ended(*tasks: asyncio.Task[None]) -> None:
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)


async def test_two_share_the_shards_and_each_event_is_written_once(writer: OutboxWriter) -> None:
    shared = Shared()
    pumps = [make_pump(writer, SharedStore(shared, name), name) for name in ("a", "b")]
    tasks = [asyncio.create_task(pump.run()) for pump in pumps]
    await until(lambda: [pump.tally.shards_held for pump in pumps] == [2, 2])
    for _ in range(10):
        await writer.write_many(20)
        await asyncio.sleep(0.01)
    await until(lambda: len(shared.rows) == 200)
    assert sum(pump.tally.duplicates for pump in pumps) == 0
    assert all(shared.written_by.values())
    for pump in pumps:
        pump.stop()
    await ended(*tasks)
    assert sorted(shared.rows) == sorted(writer.written)
    assert [(await writer.head(n)).acked for n in range(4)] == [writer.last[n] for n in range(4)]


async def test_one_takes_over_from_a_dead_one_within_its_time(writer: OutboxWriter) -> None:
    shared = Shared()
    first, second = (make_pump(writer, SharedStore(shared, name), name) for name in ("a", "b"))
    one, two = asyncio.create_task(first.run()), asyncio.create_task(second.run())
    await until(lambda: first.tally.shards_held == second.tally.shards_held == 2)
    first._holding._leases = None  # it dies: it neither leaves nor renews
    first.stop(grace_s=0)
    await ended(one)
    await writer.write_many(40)
    await until(lambda: len(shared.rows) == 40)
    assert second.tally.shards_held == 4
    second.stop()
    await ended(two)


async def test_one_that_stops_in_order_hands_over_at_once(writer: OutboxWriter) -> None:
    shared = Shared()
    first, second = (make_pump(writer, SharedStore(shared, name), name) for name in ("a", "b"))
    one, two = asyncio.create_task(first.run()), asyncio.create_task(second.run())
    await until(lambda: first.tally.shards_held == second.tally.shards_held == 2)
    first.stop()
    await ended(one)
    await until(lambda: second.tally.shards_held == 4)
    second.stop()
    await ended(two)


async def test_an_exporter_of_another_store_stands_by_and_trims_nothing(
    writer: OutboxWriter, tmp_path: Path
) -> None:
    """Two gates with a file each: the events of both are in the first one's."""
    mine, other = tmp_path / "a.db", tmp_path / "b.db"
    first = make_pump(writer, sqlite_sink(mine), "a", "events")
    one = asyncio.create_task(first.run())
    await until(lambda: first.tally.shards_held == 4)
    second = make_pump(writer, sqlite_sink(other), "b", "events")
    two = asyncio.create_task(second.run())
    await until(lambda: second.tally.standing_by == 1)
    await writer.write_many(60)
    await until(lambda: first.tally.delivered == 60)
    assert second.tally.delivered == 0
    first.stop()
    await ended(one)
    await writer.write_many(4)
    await asyncio.sleep(2 * TTL_MS / 1000)
    assert (second.tally.delivered, second.tally.standing_by) == (0, 1)
    second.stop()
    await ended(two)
    with sqlite_access(mine).open() as store:
        assert len(store.latest(100)) == 60
    third = make_pump(writer, sqlite_sink(mine), "a", "events")
    three = asyncio.create_task(third.run())
    await until(lambda: third.tally.delivered == 4)
    third.stop()
    await ended(three)


async def test_without_renewal_nothing_is_held_after_the_lease(writer: OutboxWriter) -> None:
    leases = Leases(RedisRunner(writer.client), Keys("cg", 4), "a", ttl_ms=60)
    holding = Holding(leases, 4, "shared")
    assert holding.shards == frozenset()
    await holding.refresh(SharedStore(Shared(), "a"))
    assert holding.shards == frozenset(range(4))
    await asyncio.sleep(0.07)
    assert holding.shards == frozenset()


async def test_what_another_exported_during_a_long_write_is_no_gap_and_not_fed_again(
    writer: OutboxWriter,
) -> None:
    """Its lease is over while it writes, another exporter has the shards, and gives them back."""
    shared = Shared()
    store = SharedStore(shared, "a")
    first = make_pump(writer, store, "a")
    one = asyncio.create_task(first.run())
    await until(lambda: first.tally.shards_held == 4)
    await writer.write(0)
    await until(lambda: len(shared.rows) == 1)
    store.writable.clear()
    await writer.write(0)
    await asyncio.sleep(0.05)  # it has read it, and writes
    leases, first._holding._leases = first._holding._leases, Unreachable()
    second = make_pump(writer, SharedStore(shared, "b"), "b")
    two = asyncio.create_task(second.run())
    await until(lambda: second.tally.shards_held == 4)
    for _ in range(5):
        await writer.write(0)
    await until(lambda: len(shared.rows) == 7)
    second.stop()
    await ended(two)
    assert (await writer.head(0)).acked == writer.last[0]
    first._holding._leases = leases
    await until(lambda: first.tally.shards_held == 4)
    store.writable.set()
    await writer.write(0)
    await until(lambda: len(shared.rows) == 8)
    first.stop()
    await ended(one)
    assert store.anomalies == []


async def test_what_is_delivered_while_a_store_opens_is_not_missing_from_it(
    writer: OutboxWriter,
) -> None:
    """The exporter that had the shards commits and acknowledges its last batch."""
    shared = Shared()
    await writer.write(0)
    shared.cursors[0] = writer.last[0]
    await writer.ack(0, *writer.last[0])
    await writer.write(0)

    class Overtaken(SharedStore):
        async def open(self) -> Mapping[int, Place]:
            known = await super().open()
            self._shared.cursors[0] = writer.last[0]
            await writer.ack(0, *writer.last[0])
            return known

    store = Overtaken(shared, "a")
    pump = make_pump(writer, store, "a")
    task = asyncio.create_task(pump.run())
    await until(lambda: pump.tally.shards_held == 4)
    await writer.write(0)
    await until(lambda: len(shared.rows) == 1)
    pump.stop()
    await ended(task)
    assert store.anomalies == []


async def test_a_bug_in_watching_ends_the_pump_so_that_a_fresh_one_starts(
    writer: OutboxWriter,
) -> None:
    class Forgetful(SharedStore):
        forgot = False

        @property
        def store_id(self) -> str:
            assert not self.forgot, "as scripted"
            return "shared-1"

    store = Forgetful(Shared(), "a")
    pump = make_pump(writer, store, "a")
    task = asyncio.create_task(pump.run())
    await until(lambda: pump.tally.shards_held == 4)
    store.forgot = True
    ended_by_itself, _ = await asyncio.wait({task}, timeout=5)
    task.cancel()
    assert ended_by_itself
    with pytest.raises(AssertionError, match="as scripted"):
        await task


class Unreachable:
    """Leases of a ledger that does not answer."""

    ttl_ms = TTL_MS

    async def lease(self, store_id: str, store_name: str) -> Lease:
        raise LedgerUnavailable("as scripted")

    async def leave(self) -> None:
        raise LedgerUnavailable("as scripted")


async def test_shards_that_were_lost_for_a_while_are_named_once(writer: OutboxWriter) -> None:
    leases = Leases(RedisRunner(writer.client), Keys("cg", 4), "a", ttl_ms=60)
    holding, store = Holding(leases, 4, "shared"), SharedStore(Shared(), "a")
    await holding.refresh(store)
    await holding.refresh(store)
    assert holding.take_left() == set()
    await asyncio.sleep(0.07)
    await holding.refresh(store)
    assert holding.shards == frozenset(range(4))
    assert holding.interrupted
    assert holding.take_left() == set(range(4))
    assert holding.take_left() == set()
