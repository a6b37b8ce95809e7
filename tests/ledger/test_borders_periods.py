"""Borders of the counters that tiers stand on: their floor, and rows of both kinds in one price."""

import struct
from typing import Any

import pytest
import redis.asyncio

from tests.ledger.raw import NAMES, ROW, Raw, vector

USED_AT = 120 + 56 + 20
"""Of the only period, behind the only grant: its first byte of what was used; what is held follows."""


def tiers(counter: int = 7) -> bytes:
    """A graduated row of a total, one nano-credit a unit."""
    return struct.pack("<BBBBI8d", 1, 1, 1, 6, counter, 0, 0, 1, 0, 0, 1, 0, 0)


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


async def used_and_held(raw: Raw) -> tuple[float, ...]:
    record: Any = await raw.client.get(NAMES["account"])
    return struct.unpack_from("<dd", record, USED_AT)


async def test_a_counter_that_lost_some_does_not_fall_below_nothing(raw: Raw) -> None:
    await raw("reserve", estimate=vector(9), floor=vector(5), price_rows=tiers(), ttl=5)
    raw.now += 5
    assert (await raw("expire"))[:2] == ["expired", 5]
    record = bytearray(await raw.client.get(NAMES["account"]))
    struct.pack_into("<d", record, USED_AT, 3)
    await raw.client.set(NAMES["account"], bytes(record))
    await raw("settle", used=vector(0), price_rows=tiers())  # five less
    assert await used_and_held(raw) == (0, 0)


@pytest.mark.parametrize("verb", ["release", "expire", "settle", "extend"])
async def test_a_row_without_tiers_before_one_with_leaves_its_counter_in_order(
    raw: Raw, verb: str
) -> None:
    price = ROW.pack(2, 0, 1, 0) + tiers()
    await raw("reserve", estimate=vector(1, 9), floor=vector(1, 5), price_rows=price, ttl=5)
    assert await used_and_held(raw) == (0, 9)
    raw.now += 5
    asked: dict[str, Any] = {
        "settle": {"used": vector(1, 4), "price_rows": price},
        "extend": {"estimate": vector(2, 12), "floor": vector(1, 6)},
    }.get(verb, {})
    await raw(verb, **asked)
    after = {"release": (0, 0), "expire": (5, 0), "settle": (4, 0), "extend": (0, 12)}
    assert await used_and_held(raw) == after[verb]


async def test_a_late_settle_with_more_tiers_than_its_hold_had_is_refused(raw: Raw) -> None:
    price = tiers() + ROW.pack(2, 0, 1, 0)
    await raw("reserve", estimate=vector(3, 1), floor=vector(2, 0), price_rows=price, ttl=5)
    raw.now += 5
    await raw("expire")
    before = await raw.dump()
    late = await raw("settle", used=vector(1, 1), price_rows=tiers() + tiers(8))
    assert late == ["too_large"]
    assert await raw.dump() == before
