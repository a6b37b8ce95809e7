"""Borders of limits that no window of one request stands on: what was held in a window that counts no
more, beside a later one with another ceiling, and the last window that ends."""

import pytest
import redis.asyncio

from tests.ledger.bench import NOON_MS
from tests.ledger.raw import Raw, limit, rolling, vector

ENDLESS = 4_503_599_627_370_496


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


@pytest.mark.parametrize(
    ("low", "high", "later"),
    [
        (limit(ceiling=500), limit(ceiling=700), 100_000),
        (rolling(ceiling=500, slot=1000), rolling(ceiling=700, slot=1000), 13_000),
    ],
    ids=["calendar", "rolling"],
)
async def test_a_hold_of_a_window_gone_grows_whatever_the_window_of_now_holds(
    raw: Raw, low: bytes, high: bytes, later: int
) -> None:
    await raw("reserve", "r1", limits=low)
    raw.now += later
    await raw("reserve", "r2", estimate=vector(600, 0), limits=high)
    assert (await raw("extend", "r1", estimate=vector(150, 0)))[:2] == ["extended", 150]
    assert (await raw.counters())[0][2:] == [0, 600]


async def test_a_limit_is_free_again_when_the_last_window_that_ends_has_ended(raw: Raw) -> None:
    limits = limit(ceiling=100, borders=(0, NOON_MS - 1000, ENDLESS - 1, ENDLESS))
    await raw("reserve", "r1", limits=limits)
    await raw("settle", "r1", used=vector(100, 0))
    refused = await raw("reserve", "r2", estimate=vector(1, 0), limits=limits)
    assert refused == ["spend_limit", 1, 900, 900, 0, 0, ENDLESS - 1 - NOON_MS]
