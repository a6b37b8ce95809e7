"""Boundaries of a hold: how it ends, what it counts in periods and limits, and when."""

import struct
from typing import Any

import pytest
import redis.asyncio

from tests.ledger.bench import NOON_MS
from tests.ledger.raw import NAMES, ROW, Raw, limit, rolling, rows, vector
from tests.ledger.test_boundaries_rating import GRADUATED, VOLUME, tiered
from tests.ledger.test_boundaries_signals import rules


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


# Ends: a charge of one nano-credit below zero, a grant that expires in the same millisecond


@pytest.mark.parametrize("verb", ["expire", "settle"])
async def test_a_step_of_one_nano_credit_is_credited_and_announced(raw: Raw, verb: str) -> None:
    price = tiered(VOLUME, (1, 2, 0, 0), (0, 0, 500, 0))
    await raw("signals", rules=rules(999))
    await raw("settle", "r0", used=vector(1), price_rows=price)  # 998 are left
    await raw("reserve", estimate=vector(1), floor=vector(1), price_rows=price, ttl=5)
    raw.now += 5
    asked = {"used": vector(1), "price_rows": price} if verb == "settle" else {}
    assert (await raw(verb, **asked))[1] == 0
    ended, credited = (await raw.events())[-2:]
    assert ended[1][9] == [["recovered", 999]]  # 2 × 0.5 less 1 × 2: one back
    assert (credited[1][0], credited[1][3]) == ("adjust", 1)


@pytest.mark.parametrize("verb", ["expire", "settle", "release"])
async def test_a_grant_that_ends_as_its_hold_does_expires_behind_it(raw: Raw, verb: str) -> None:
    await raw("grant", id="g2", amount=50, expires_at=raw.now + 5, priority=1)
    await raw("reserve", estimate=vector(50, 0), floor=vector(0, 0), ttl=5)
    raw.now += 5
    await raw(verb, **({"used": vector(0, 0)} if verb == "settle" else {}))
    last = (await raw.events())[-1][1]
    assert (last[0], last[3]) == ("expire_grant", 50)


async def test_an_expiry_counts_the_tokens_of_another_service_tier(raw: Raw) -> None:
    price = ROW.pack(32 + 19, 0, 1, 0) + ROW.pack(32 + 20, 0, 1, 0)
    asked = {"estimate": vector(9, 9), "floor": vector(3, 4), "price_rows": price}
    await raw("reserve", limits=limit(measure=3), ttl=5, **asked)
    raw.now += 5
    await raw("expire")
    assert (await raw.counters())[0][2:] == [3, 0]


async def test_an_expiry_that_nobody_can_rate_keeps_where_its_counter_stood(raw: Raw) -> None:
    await raw("grant", id="g2", amount=2e12)
    asked = {"estimate": vector(1), "floor": vector(9001)}
    price = tiered(GRADUATED, (0, 1e12, 0, 0))
    await raw("reserve", price_rows=price, ttl=5, **asked)
    raw.now += 5
    assert (await raw("expire"))[:2] == ["expired", 10**12]  # the whole hold
    late = await raw("settle", used=vector(1), price_rows=price)
    assert late == ["too_large"]  # what it was is found, and is as much beyond the bound


async def test_growth_that_others_stand_against_still_moves_deadline_and_checkpoint(
    raw: Raw,
) -> None:
    await raw("reserve", "r0", estimate=vector(300, 0))
    await raw("reserve")
    raw.now += 1
    grown = {"number": 7, "estimate": vector(701, 0), "floor": vector(33, 0), "ttl": 99}
    assert (await raw("extend", **grown))[4] == "credit_held"
    raw.now += 97
    assert await raw("expire") == ["not_due", raw.now + 2]
    raw.now += 2
    assert (await raw("expire"))[:2] == ["expired", 33]


@pytest.mark.parametrize("verb", ["release", "expire", "settle", "extend"])
async def test_the_scopes_of_a_hold_with_tiers_are_named_where_they_were_not_given(
    raw: Raw, verb: str
) -> None:
    price = tiered(GRADUATED, (0, 1, 0, 0)) + rows((1, 0))
    await raw("reserve", mask=3, limits=limit(2, 1, 1), price_rows=price, ttl=5)
    raw.now += 5
    named = {"settle": {"price_rows": price}}.get(verb, {})
    assert await raw(verb, **named) == ["wrong_scopes", Raw.IDS.decode()]


async def test_a_mark_that_growth_is_wanted_keeps_others_back_until_its_end(raw: Raw) -> None:
    await raw("reserve", "r0", estimate=vector(300, 0))
    await raw("reserve")
    assert (await raw("extend", estimate=vector(701, 0)))[4] == "credit_held"
    raw.now += 499
    assert (await raw("reserve", "r2", estimate=vector(1, 0)))[0] == "credit_held"
    raw.now += 1
    assert (await raw("reserve", "r2", estimate=vector(1, 0)))[0] == "held"


async def test_a_hold_keeps_the_marks_of_many_rows_with_tiers(raw: Raw) -> None:
    price = b"".join(tiered(GRADUATED, (0, 1, 0, 0), counter=number) for number in range(1, 31))
    used = vector(*[2] * 30)
    assert (await raw("reserve", estimate=used, floor=used, price_rows=price))[:2] == ["held", 60]
    assert (await raw.unpacked("r1", "<BB"))[1] == 30
    assert (await raw("settle", used=used, price_rows=price))[:2] == ["settled", 60]


@pytest.mark.parametrize("before", ["nothing", "expiry"])
async def test_a_settle_that_comes_without_a_hold_credits_a_step_of_one_nano_credit(
    raw: Raw, before: str
) -> None:
    price = tiered(VOLUME, (1, 2, 0, 0), (0, 0, 500, 0))
    await raw("settle", "r0", used=vector(1), price_rows=price)  # 998 are left
    if before == "expiry":
        await raw("reserve", estimate=vector(1), floor=vector(0), price_rows=price, ttl=5)
        raw.now += 5
        assert (await raw("expire"))[:2] == ["expired", 0]
    assert (await raw("settle", used=vector(1), price_rows=price))[1] == 0
    ended, credited = [event[1] for event in (await raw.events())[-2:]]
    assert ended[3] == 0
    assert (credited[0], credited[3]) == ("adjust", 1)


# Periods: counters at zero, and prices that mix rows with tiers and without


USED_AT = 120 + 56 + 20
"""Of the only period, behind the only grant: its first byte of what was used; what is held follows."""


def tiers(counter: int = 7) -> bytes:
    """A graduated row of a total, one nano-credit a unit."""
    return struct.pack("<BBBBI8d", 1, 1, 1, 6, counter, 0, 0, 1, 0, 0, 1, 0, 0)


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


# Limits: windows that are over, and the last window that ends


ENDLESS = 4_503_599_627_370_496


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
    limits = limit(ceiling=100, boundaries=(0, NOON_MS - 1000, ENDLESS - 1, ENDLESS))
    await raw("reserve", "r1", limits=limits)
    await raw("settle", "r1", used=vector(100, 0))
    refused = await raw("reserve", "r2", estimate=vector(1, 0), limits=limits)
    assert refused == ["spend_limit", 1, 900, 900, 0, 0, ENDLESS - 1 - NOON_MS]


# Idempotency


async def test_a_repeat_says_whether_its_body_is_the_same(valkey: redis.asyncio.Redis) -> None:
    raw = await Raw(valkey).open()
    await raw("reserve", once=b"s" * 16)
    assert await raw("reserve", "r2", once=b"s" * 16) == ["repeated", 1, "r1"]
    assert await raw("reserve", "r2", once=b"o" * 16) == ["repeated", 0, "r1"]


# The ledger's clock, to the millisecond


async def now_ms(client: redis.asyncio.Redis) -> int:
    seconds, micros = await client.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def test_the_servers_clock_counts_where_none_is_given(valkey: redis.asyncio.Redis) -> None:
    """Often, for only a call that takes less than a millisecond shows a wrong one; and near the end of
    a second, where a wrong divisor shows."""
    raw = await Raw(valkey).open()
    while await now_ms(valkey) % 1000 < 960:
        pass
    for number in range(30):
        before = await now_ms(valkey)
        made_at = (await raw("reserve", f"r{number}", now=0, estimate=b"\0" * 16))[3]
        assert before <= made_at <= await now_ms(valkey)
