"""Refusals on their way from the ledger's stream into the required store."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from gateway.domain.refusals import HOUR_MS, NO_ENTRY, RefusalHour
from gateway.exporter.main import Exporter
from gateway.exporter.refusals import NAMES_MOST, OTHER, PAGE, RefusalCounter
from gateway.exporter.sharing import Sharing
from gateway.exporter.sink import SinkUnavailable
from gateway.exporter.sinks.options import SqliteOptions
from gateway.exporter.sinks.sqlite import SqliteSink
from gateway.ledger.codec.refusals import RefusedRequest, pack_refusal
from gateway.ledger.refusals import RefusalLog, RefusalStream
from tests.support.bank import Bank
from tests.support.stores import sqlite_access, sqlite_sink
from tests.support.until import until

STREAM = "{cg}:refusals"
NOON = 500_000 * HOUR_MS


def refusal(number: int, **changed: object) -> RefusedRequest:
    named = {"customer_id": "acme", "model": "m", "estimate_nano": 10}
    said = {"reason": "insufficient_credits", "status": 402, **named, **changed}
    return RefusedRequest(request_id=f"req-{number}", **said)  # type: ignore[arg-type]


async def note(client: redis.asyncio.Redis, at_ms: int, refused: RefusedRequest) -> None:
    fields = {"i": refused.request_id, "r": pack_refusal(refused)}
    await client.xadd(STREAM, fields, id=f"{at_ms}-{refused.request_id[4:]}")  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteSink]:
    sink = sqlite_sink(path)
    await sink.open()
    yield sink
    await sink.close()


async def count(
    client: redis.asyncio.Redis, store: SqliteSink, names_most: int = NAMES_MOST
) -> RefusalCounter:
    """Count everything that is there."""
    counter = RefusalCounter(RefusalStream(client), store, names_most=names_most)
    counter.stop()
    await counter.run()
    return counter


def stored(path: Path) -> list[RefusalHour]:
    with sqlite_access(path).open() as store:
        return list(store.refusals(None, None))


async def test_refusals_are_counted_by_hour_customer_model_and_reason(
    valkey: redis.asyncio.Redis, store: SqliteSink, path: Path
) -> None:
    await note(valkey, NOON - 1, refusal(1))
    await note(valkey, NOON, refusal(2))
    await note(valkey, NOON + 5, refusal(3, estimate_nano=32))
    await note(valkey, NOON + 6, refusal(4, customer_id="zeta"))
    await note(valkey, NOON + 7, refusal(5, reason="unknown_model", model="x", estimate_nano=None))
    await note(valkey, NOON + 8, refusal(6, reason="bad_request", model=None, estimate_nano=None))
    counter = await count(valkey, store)
    broke = "insufficient_credits"
    assert stored(path) == [
        RefusalHour(NOON - HOUR_MS, "acme", "m", broke, 1, 10),
        RefusalHour(NOON, "acme", "", "bad_request", 1, 0),
        RefusalHour(NOON, "acme", "m", broke, 2, 42),
        RefusalHour(NOON, "acme", "x", "unknown_model", 1, 0),
        RefusalHour(NOON, "zeta", "m", broke, 1, 10),
    ]
    assert counter.tally.refusals == 6


async def test_what_was_counted_is_not_counted_by_the_next_exporter(
    valkey: redis.asyncio.Redis, store: SqliteSink, path: Path
) -> None:
    await note(valkey, NOON, refusal(1))
    await count(valkey, store)
    await note(valkey, NOON, refusal(2))
    await count(valkey, store)
    await count(valkey, store)
    assert [hour.count for hour in stored(path)] == [2]


async def test_more_than_a_page_is_counted_completely(
    valkey: redis.asyncio.Redis, store: SqliteSink, path: Path
) -> None:
    log = RefusalLog(valkey, queue_limit=PAGE * 2)
    for number in range(PAGE + 100):
        log.note(refusal(number))
    await log.flush()
    await count(valkey, store)
    assert sum(hour.count for hour in stored(path)) == PAGE + 100


async def test_two_counters_on_one_store_count_each_refusal_once(
    valkey: redis.asyncio.Redis, store: SqliteSink, path: Path
) -> None:
    counters = [RefusalCounter(RefusalStream(valkey), store, poll_s=0.001) for _ in range(2)]
    tasks = [asyncio.create_task(counter.run()) for counter in counters]
    for number in range(300):
        await note(valkey, NOON + number, refusal(number))
    for counter in counters:
        counter.stop()
    await asyncio.gather(*tasks)
    assert sum(hour.count for hour in stored(path)) == 300
    assert sum(counter.tally.refusals for counter in counters) == 300


class Forgetful(SqliteSink):
    """Commits, and then says that nothing can be said, every other time."""

    calls = 0

    async def add_refusals(self, hours, after, cursor):  # type: ignore[no-untyped-def]
        done = await super().add_refusals(hours, after, cursor)
        self.calls += 1
        if self.calls % 2:
            raise SinkUnavailable("the connection broke after the commit")
        return done


async def test_an_answer_that_was_lost_after_the_commit_counts_nothing_twice(
    valkey: redis.asyncio.Redis, path: Path
) -> None:
    store = Forgetful(SqliteOptions(path))
    await store.open()
    counter = RefusalCounter(RefusalStream(valkey), store, poll_s=0.001)
    task = asyncio.create_task(counter.run())
    for number in range(50):
        await note(valkey, NOON + number, refusal(number))
    await until(lambda: _reads(store, f"{NOON + 49}-49"))
    counter.stop()
    await task
    await store.close()
    assert [hour.count for hour in stored(path)] == [50]
    assert store.calls > 1


async def _reads(store: SqliteSink, cursor: str) -> bool:
    return await store.refusal_cursor() == cursor


async def test_an_exporter_that_stands_by_counts_nothing(
    valkey: redis.asyncio.Redis, store: SqliteSink, path: Path
) -> None:
    await note(valkey, NOON, refusal(1))
    counter = RefusalCounter(RefusalStream(valkey), store, may_count=lambda: False)
    counter.stop()
    await counter.run()
    assert stored(path) == []


async def test_names_that_callers_invent_are_counted_together_beyond_a_number(
    valkey: redis.asyncio.Redis, store: SqliteSink, path: Path
) -> None:
    for number in range(10):
        unknown = {"reason": "unknown_model", "estimate_nano": None, "model": f"x{number}"}
        await note(valkey, NOON + number, refusal(number, **unknown))
    await note(valkey, NOON + 10, refusal(10, model="priced"))
    await note(valkey, NOON + HOUR_MS, refusal(11, model="y", estimate_nano=None))
    await count(valkey, store, names_most=3)
    by_model = Counter({(hour.hour_ms, hour.model): hour.count for hour in stored(path)})
    names = {name for _, name in by_model}
    assert names == {"x0", "x1", "x2", OTHER, "priced", "y"}
    assert by_model[NOON, OTHER] == 7


async def test_an_entry_that_cannot_be_read_is_passed_over(
    valkey: redis.asyncio.Redis, store: SqliteSink, path: Path
) -> None:
    await valkey.xadd(STREAM, {"i": "old", "r": b"\xc1"})
    await valkey.xadd(STREAM, {"i": "old"})
    await valkey.xadd(STREAM, {"i": "old", "r": b"\x91\x01"})
    await count(valkey, store)
    assert stored(path) == []
    assert await store.refusal_cursor() != NO_ENTRY


async def test_an_exporter_counts_what_is_there_before_it_ends(
    valkey: redis.asyncio.Redis, path: Path
) -> None:
    bank = Bank(valkey)
    await bank.open("acme")
    sharing = Sharing(refusals=RefusalStream(valkey))
    exporter = Exporter(bank.outbox, bank.operator, sqlite_sink(path), sharing=sharing)
    exporter.begin()
    await until(lambda: _delivered(exporter))
    await note(valkey, NOON, refusal(1))
    await exporter.drain(10)
    assert [hour.count for hour in stored(path)] == [1]
    assert exporter.snapshot()["refusals"] == 1


async def _delivered(exporter: Exporter) -> bool:
    return exporter.tally.delivered > 0


async def test_what_ran_in_shadow_mode_is_counted_apart_with_the_limit(
    valkey: redis.asyncio.Redis, store: SqliteSink, path: Path
) -> None:
    limit = "key k1 (requests per minute)"
    await note(valkey, NOON, refusal(1))
    await note(valkey, NOON + 1, refusal(2, mode="shadow", limit="balance"))
    await note(valkey, NOON + 2, refusal(3, mode="shadow", reason="rate_limit", limit=limit))
    await count(valkey, store)
    broke, shadow = "insufficient_credits", "acme~shadow"
    assert stored(path) == [
        RefusalHour(NOON, "acme", "m", broke, 1, 10),
        RefusalHour(NOON, shadow, "m", broke, 1, 10),
        RefusalHour(NOON, shadow, "m", f"rate_limit: {limit}", 1, 10),
    ]
