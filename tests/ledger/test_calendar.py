"""Where periods begin and end, by the script's own calendar: boundaries of months, years, leap years."""

import datetime as dt
import itertools
from typing import Any

import msgpack
import pytest
import redis.asyncio

from gateway.domain.pricing import PERIOD_NUMBERS
from gateway.ledger.client import scripts
from tests.ledger import rating

ASK = """#!lua
-- uses: period_boundaries
local found = {}
for i, moment in ipairs(cmsgpack.unpack(ARGV[1])) do
  found[i] = { period_boundaries(moment[1], moment[2], moment[3]) }
end
return cmsgpack.pack(found)
"""
YEARS = (1971, 1999, 2000, 2001, 2024, 2026, 2079, 2080, 2100, 2197, 2200, 2393, 2394, 2400, 2406)
"""Besides leap years: where a century, or four, would begin a year sooner or later."""


def midnights() -> list[int]:
    """Unix ms of the days around each boundary of a month, in each of the years."""
    firsts = (dt.date(year, month, 1) for year in YEARS for month in range(1, 13))
    near = (-3, -2, -1, 0, 1, 14, 27)
    days = (first + dt.timedelta(days=away) for first, away in itertools.product(firsts, near))
    return [(day - dt.date(1970, 1, 1)).days * 86_400_000 for day in days]


@pytest.mark.parametrize("day", [1, 15, 28, 29, 30, 31])
async def test_months_are_the_calendars(valkey: redis.asyncio.Redis, day: int) -> None:
    moments = [at + away for at in midnights() for away in (-1, 0, 1)]
    assert await boundaries(valkey, "month", moments, day) == [
        rating.period("month", at, day) for at in moments
    ]


@pytest.mark.parametrize("kind", ["minute", "hour", "day", "week", "total"])
async def test_shorter_periods_begin_on_their_multiples(
    valkey: redis.asyncio.Redis, kind: str
) -> None:
    steps = (-1, 0, 1, 59_999, 60_000, 3_599_999, 3_600_000)
    moments = [at + away for at in midnights()[:84] for away in steps]
    assert await boundaries(valkey, kind, moments, 1) == [
        rating.period(kind, at, 1) for at in moments
    ]


async def boundaries(client: Any, kind: str, moments: list[int], day: int) -> list[tuple[int, int]]:
    """Start and end of the period of each moment, as the prelude says."""
    folder = scripts.lua_folder()
    script = scripts.Prelude(scripts.read_prelude(folder)).link(ASK)
    asked = msgpack.packb([(PERIOD_NUMBERS[kind], at, day) for at in moments])  # type: ignore[index]
    return [
        (int(start), int(end))
        for start, end in msgpack.unpackb(await client.eval(script, 0, asked))
    ]
