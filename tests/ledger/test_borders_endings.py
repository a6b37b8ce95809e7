"""Borders of what ends a hold: a charge of one nano-credit below nothing, a grant that expires in that
very millisecond, tokens of other service tiers."""

import pytest
import redis.asyncio

from tests.ledger.raw import ROW, Raw, limit, rows, vector
from tests.ledger.test_borders_rating import GRADUATED, VOLUME, tiered
from tests.ledger.test_borders_signals import rules


@pytest.fixture
async def raw(valkey: redis.asyncio.Redis) -> Raw:
    return await Raw(valkey).open()


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
