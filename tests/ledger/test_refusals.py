"""The capped stream of refusals."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.refusals import RefusedRequest
from gateway.ledger.refusals import RefusalLog, find_refusal

STREAM = "{cg}:refusals"


def refusal(number: int) -> RefusedRequest:
    return RefusedRequest(
        request_id=f"req-{number}",
        reason="insufficient_credits",
        status=402,
        customer_id="acme",
        model="m",
        estimate_nano=9_000_000_000_000_000,
        available_nano=number,
    )


async def test_a_refusal_is_found_by_its_request_id(valkey: redis.asyncio.Redis) -> None:
    log = RefusalLog(valkey)
    for number in range(5000):
        log.note(refusal(number)) if number % 10 == 0 else None
    await log.flush()
    found = await find_refusal(valkey, "req-30")
    assert found is not None
    assert found.refused == refusal(30)
    assert found.noted_at_ms > 1_600_000_000_000
    assert await find_refusal(valkey, "req-31") is None


async def test_the_search_pages_and_is_bounded(valkey: redis.asyncio.Redis) -> None:
    log = RefusalLog(valkey, queue_limit=10_000)
    for number in range(4500):
        log.note(refusal(number))
    await log.flush()
    seen: list[int] = []
    assert await find_refusal(valkey, "req-0", progress=seen.append) is not None
    assert seen == [2000, 4000]
    assert await find_refusal(valkey, "req-0", most=4000) is None


async def test_a_full_queue_forgets_its_oldest_and_counts_it(
    valkey: redis.asyncio.Redis,
) -> None:
    log = RefusalLog(valkey, queue_limit=3)
    for number in range(5):
        log.note(refusal(number))
    await log.flush()
    kept = [number for number in range(5) if await find_refusal(valkey, f"req-{number}")]
    assert kept == [2, 3, 4]
    assert log.dropped == 2


async def test_the_stream_is_capped_by_number(valkey: redis.asyncio.Redis) -> None:
    log = RefusalLog(valkey, max_entries=200)
    for number in range(2000):
        log.note(refusal(number))
    await log.flush()
    assert 200 <= await valkey.xlen(STREAM) < 400  # whole nodes of 100 go


async def test_the_stream_is_capped_by_age(valkey: redis.asyncio.Redis) -> None:
    for number in range(300):
        await valkey.xadd(STREAM, {"i": "old", "r": b""}, id=f"{number + 1}-0")
    log = RefusalLog(valkey)
    log.note(refusal(1))
    await log.flush()
    assert await valkey.xlen(STREAM) <= 101


async def test_a_ledger_that_is_away_costs_the_refusals_and_nothing_else(tmp_path: Path) -> None:
    client = Endpoint.from_socket(tmp_path / "none").client(name="test")
    log = RefusalLog(client)
    log.note(refusal(1))
    await log.flush()
    assert log.dropped == 1
    with pytest.raises(LedgerUnavailable):
        await find_refusal(client, "req-1")


async def test_what_is_noted_before_the_end_is_written_at_the_end(
    valkey: redis.asyncio.Redis,
) -> None:
    log = RefusalLog(valkey, flush_s=60)
    task = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    log.note(refusal(1))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await find_refusal(valkey, "req-1") is not None


async def test_a_later_releases_fields_do_not_disturb(valkey: redis.asyncio.Redis) -> None:
    log = RefusalLog(valkey)
    log.note(refusal(1))
    await log.flush()
    entries: Any = await valkey.xrange(STREAM)
    ((_, fields),) = entries
    packed = fields[b"r"]
    longer = bytes([packed[0] + 1]) + packed[1:] + b"\xc3"
    await valkey.xadd(STREAM, {"i": "req-2", "r": longer})
    found = await find_refusal(valkey, "req-2")
    assert found is not None
    assert found.refused == refusal(1)
