"""The day's sum is kept: exact after every arrival, one query for concurrent readers."""

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest

from gateway.app import daily_charges
from gateway.app.daily_charges import DAY_MS, MAX_AGE_S, OVERLAP_MS, DailyCharges
from gateway.exporter.sinks import sqlite_reader
from gateway.exporter.sinks.sqlite_schema import migrate
from tests.support.stores import sqlite_access

DAY = 20_000 * DAY_MS
KINDS = ("settle", "expire", "settle_late", "adjust", "top_up")
CHARGES = KINDS[:3]


class Store:
    """A store that events arrive in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        migrate(self.connection)
        self._seq = 0

    def add(self, customer_id: str, at_ms: int, nano: int, kind: str = "settle") -> None:
        self._seq += 1
        self.connection.execute(
            "INSERT INTO events (event_id, shard, epoch, seq, kind, occurred_at_ms, stored_at_ms,"
            " customer_id, amount_nano, estimated_amount_nano, balance_nano, usage, allocations,"
            " facts) VALUES (?, 0, 1, ?, ?, ?, 0, ?, ?, 0, 0, '{}', '[]', '{}')",
            (f"e{self._seq}", self._seq, kind, at_ms, customer_id, nano),
        )


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += MAX_AGE_S  # each read finds the kept sum too old
        return self.now_s


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "events.db")


async def test_the_sum_is_exact_after_every_arrival(store: Store) -> None:
    chance = random.Random(7)
    daily = DailyCharges(sqlite_access(store.path), Clock())
    expected = {"acme": 0, "other": 0}
    at_ms = DAY - 3
    for _ in range(300):
        at_ms += chance.randrange(3)
        customer_id = chance.choice(list(expected))
        kind, nano = chance.choice(KINDS), chance.randrange(10**12)
        event_ms = at_ms - chance.randrange(3)  # nearly in order
        store.add(customer_id, event_ms, nano, kind)
        if kind in CHARGES and event_ms >= DAY:
            expected[customer_id] += nano
        who = chance.choice(list(expected))
        assert await daily.since_midnight(who, DAY + 1000) == expected[who]
    assert (
        await DailyCharges(sqlite_access(store.path)).since_midnight("acme", DAY)
        == expected["acme"]
    )


async def test_old_events_are_not_fetched_again(store: Store) -> None:
    daily = DailyCharges(sqlite_access(store.path), Clock())
    store.add("acme", DAY + 10 * OVERLAP_MS, 5)
    assert await daily.since_midnight("acme", DAY) == 5
    store.connection.execute("UPDATE events SET amount_nano = 1000")
    store.add("acme", DAY + 11 * OVERLAP_MS, 2)
    assert await daily.since_midnight("acme", DAY) == 7, "only what is new is read"
    plan = store.connection.execute(
        f"EXPLAIN QUERY PLAN {sqlite_reader._CHARGES}", ("acme", DAY, 0)
    ).fetchall()
    assert any("events_by_customer (customer_id=? AND occurred_at_ms>?" in row[3] for row in plan)


async def test_a_new_day_starts_from_nothing(store: Store) -> None:
    daily = DailyCharges(sqlite_access(store.path), Clock())
    store.add("acme", DAY + 5, 3)
    assert await daily.since_midnight("acme", DAY + 6) == 3
    assert await daily.since_midnight("acme", DAY + DAY_MS) == 0
    store.add("acme", DAY + DAY_MS, 4)
    assert await daily.since_midnight("acme", DAY + DAY_MS + 1) == 4


async def test_a_restored_store_is_read_from_the_start(store: Store) -> None:
    daily = DailyCharges(sqlite_access(store.path), Clock())
    for nano in (1, 10, 100):
        store.add("acme", DAY, nano)
    assert await daily.since_midnight("acme", DAY) == 111
    store.connection.execute("DELETE FROM events WHERE amount_nano > 1")
    assert await daily.since_midnight("acme", DAY) == 1


async def test_concurrent_readers_share_one_query(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily = DailyCharges(sqlite_access(store.path))
    store.add("acme", DAY, 1)
    queries = []
    refresh = daily.refresh

    def counted(customer_id: str, day_ms: int) -> int | None:
        queries.append(customer_id)
        return refresh(customer_id, day_ms)

    monkeypatch.setattr(daily, "refresh", counted)
    readers = [asyncio.create_task(daily.since_midnight("acme", DAY)) for _ in range(60)]
    await asyncio.sleep(0)
    readers[0].cancel()
    found = await asyncio.gather(*readers, return_exceptions=True)
    assert found[1:] == [1] * 59
    assert isinstance(found[0], asyncio.CancelledError)
    assert await daily.since_midnight("acme", DAY) == 1, "within a second, the kept sum"
    assert queries == ["acme"]


async def test_a_caller_waits_for_a_bounded_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daily_charges, "MAX_WAIT_S", 0.001)
    daily = DailyCharges(sqlite_access(store.path))
    store.add("acme", DAY, 1)
    go = asyncio.Event()
    loop = asyncio.get_running_loop()
    refresh = daily.refresh

    def slow(customer_id: str, day_ms: int) -> int | None:
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
        return refresh(customer_id, day_ms)

    monkeypatch.setattr(daily, "refresh", slow)
    assert await daily.since_midnight("acme", DAY) is None
    running = daily._running["acme"]
    go.set()
    assert await running == 1


async def test_the_least_recently_read_sum_is_dropped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daily_charges, "MAX_CUSTOMERS", 2)
    daily = DailyCharges(sqlite_access(store.path), Clock())
    for name in ("a", "b", "a", "c"):
        await daily.since_midnight(name, DAY)
    assert list(daily._sums) == ["a", "c"]
