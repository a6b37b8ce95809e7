"""Worked examples of every shape on the real scripts, periods, estimates, and their bounds."""

import random
import struct
from dataclasses import replace
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.pricing import PriceTable, Rate, Tier, compile_prices
from gateway.domain.reservation import Denied, Hold, Settled
from gateway.ledger.client.errors import LedgerBug
from gateway.ledger.codec.reservation_records import Ended
from tests.ledger import rating
from tests.ledger.bench import NOON_MS, Bench

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
GRADUATED = Rate("input", "graduated", (Tier(100, 10_000), Tier(None, 4_000, flat_nano=25)))
VOLUME = Rate("input", "volume", (Tier(100, 10_000), Tier(None, 4_000)))
PACKAGE = Rate("input", "package", (Tier(None, 7_000_500),), package_units=50)
FLAT = Rate("input", "flat", (Tier(None, 0, 900),))


class Meter:
    """One customer and one price of `input`."""

    def __init__(self, client: redis.asyncio.Redis, *rates: Rate) -> None:
        self.bench = Bench(client)
        self.table = compile_prices(rates)
        self.number = 0

    async def open(self, nano: int = 10**9, *, billing_day: int = 1) -> "Meter":
        await self.bench.ledger.account("acme", account_rev=1, billing_day=billing_day)
        await self.bench.ledger.grant("acme", "g1", nano)
        return self

    async def hold(self, rid: str, units: int, floor: int = 0) -> Hold | Denied:
        bench, table = self.bench, self.table
        return await bench.ledger.reserve(
            bench.account, rid, table, table.vector({"input": units}),
            table.vector({"input": floor}), bench.facts, tokens=units, ttl_ms=60_000,
        )  # fmt: skip

    async def held_nano(self, rid: str, units: int) -> int:
        hold = await self.hold(rid, units)
        assert isinstance(hold, Hold), hold
        return hold.held_nano

    async def settle(self, rid: str, units: int) -> Settled:
        bench, table = self.bench, self.table
        return await bench.ledger.settle(
            bench.account, rid, table, table.vector({"input": units}), bench.facts,
            tokens=units, reserved_at_ms=bench.now,
        )  # fmt: skip

    async def use(self, units: int) -> int:
        """Reserve and settle so many; what was charged."""
        self.number += 1
        rid = f"u{self.number}"
        await self.held_nano(rid, units)
        return (await self.settle(rid, units)).charged_nano

    async def used(self) -> tuple[int, int]:
        (period,) = (await self.bench.wallet()).periods
        return period.used, period.held


async def test_graduated_units_cost_the_tier_they_fall_in(valkey: redis.asyncio.Redis) -> None:
    meter = await Meter(valkey, GRADUATED).open()
    assert [await meter.use(n) for n in (60, 60, 60)] == [
        600,  # 60 × 10
        400 + 80 + 25,  # 40 × 10, 20 × 4, and the second tier's flat amount, once
        240,  # 60 × 4
    ]
    assert (await meter.bench.wallet()).settled_nano == 1345


async def test_a_volume_step_reprices_what_was_before_and_credits_it(
    valkey: redis.asyncio.Redis,
) -> None:
    meter = await Meter(valkey, VOLUME).open()
    assert [await meter.use(n) for n in (60, 40, 10, 5)] == [600, 400, 0, 20]
    wallet = await meter.bench.wallet()
    assert wallet.settled_nano - wallet.adjusted_nano == 115 * 4  # all at the second tier's rate
    adjusted = next(stamp for stamp in await meter.bench.stamps() if stamp[0] == "adjust")
    # 110 × 4 − 100 × 10 = −560, to a grant of its own
    assert (adjusted[1], adjusted[3], adjusted[7]) == ("u3:repriced", 560, [2, 560])
    assert adjusted[6] == 10**9 - 1000 + 560
    credit = wallet.grants[-1]
    assert (credit.category, credit.priority, credit.expires_at_ms) == ("adjustment", 255, 0)
    assert await meter.bench.differences() == []


@pytest.mark.parametrize(("used", "bound"), [(99, 50 * 3 + 99 * 2), (100, 350), (101, 150)])
async def test_a_rising_volume_step_is_held_for_what_came_before_it(
    valkey: redis.asyncio.Redis, used: int, bound: int
) -> None:
    """Up to the last unit of the tier below, which the step makes dearer too."""
    rising = Rate("input", "volume", (Tier(100, 1_000), Tier(None, 3_000)))
    meter = await Meter(valkey, rising).open()
    await meter.use(used)
    assert await meter.held_nano("r1", 50) == bound
    assert (await meter.settle("r1", 50)).charged_nano == (used + 50) * 3 - used * (
        1 + 2 * (used > 100)
    )


async def test_pico_credits_of_a_row_go_up_to_the_bound_of_a_number(
    valkey: redis.asyncio.Redis,
) -> None:
    rising = Rate("input", "volume", (Tier(1, 0), Tier(None, 900)))
    meter = await Meter(valkey, rising).open(10**14)
    most = 10**12  # units of one request
    held = [await meter.held_nano(f"r{number}", most) for number in range(1, 11)]
    # the tenth: 9 × 10¹⁵ pico-credits for it and for what the others hold
    assert held == [number * 9 * 10**11 for number in range(1, 11)]
    with pytest.raises(ValueError, match="too_large"):
        await meter.hold("r11", 1)


async def test_a_package_is_charged_when_it_is_begun(valkey: redis.asyncio.Redis) -> None:
    meter = await Meter(valkey, PACKAGE).open()
    # 7000.5 nano a package, rounded up once per event
    assert [await meter.use(n) for n in (1, 49, 1, 120)] == [7001, 0, 7001, 14001]


async def test_a_flat_price_is_charged_once_a_period(valkey: redis.asyncio.Redis) -> None:
    meter = await Meter(valkey, FLAT).open()
    assert [await meter.use(n) for n in (3, 500)] == [900, 0]
    meter.bench.now += 31 * DAY_MS
    assert await meter.use(1) == 900


async def test_included_units_are_free_and_overage_is_charged(valkey: redis.asyncio.Redis) -> None:
    rate = Rate("input", "per_unit", (Tier(None, 2_000),), included=100)
    meter = await Meter(valkey, rate).open()
    assert await meter.held_nano("r1", 100) == 0
    assert (await meter.settle("r1", 70)).charged_nano == 0
    assert [await meter.use(n) for n in (50, 50)] == [40, 100]


async def test_a_minimum_is_for_requests_beyond_the_included_units(
    valkey: redis.asyncio.Redis,
) -> None:
    rate = Rate("input", "per_unit", (Tier(None, 2_000),), 10, minimum_per_request_nano=50)
    meter = await Meter(valkey, rate).open()
    assert [await meter.use(n) for n in (10, 1, 0, 30)] == [0, 50, 0, 60]


async def test_a_minimum_is_whole_beside_the_smallest_part_of_another_class(
    valkey: redis.asyncio.Redis,
) -> None:
    rate = Rate("input", "per_unit", (Tier(None, 2_000),), minimum_per_request_nano=50)
    meter = await Meter(valkey, rate, Rate("output", "per_unit", (Tier(None, 1),))).open()
    bench, table = meter.bench, meter.table
    used = table.vector({"input": 1, "output": 1})  # 50 nano-credits and one pico-credit
    settled = await bench.ledger.settle(
        bench.account, "r", table, used, bench.facts, tokens=2, reserved_at_ms=bench.now
    )
    assert settled.charged_nano == 51


async def test_the_first_use_of_a_period_owes_its_minimum_and_later_ones_what_is_beyond(
    valkey: redis.asyncio.Redis,
) -> None:
    rate = Rate("input", "per_unit", (Tier(None, 2_000),), 10, minimum_per_period_nano=50)
    meter = await Meter(valkey, rate).open()
    assert [await meter.use(n) for n in (10, 1, 23, 2, 30)] == [0, 50, 0, 2, 60]
    assert (await meter.bench.wallet()).settled_nano == 56 * 2
    meter.bench.now += 31 * DAY_MS
    assert [await meter.use(n) for n in (11, 100)] == [50, 152]


async def test_a_minimum_counts_to_the_part_of_a_nano_credit(valkey: redis.asyncio.Redis) -> None:
    rate = Rate("input", "per_unit", (Tier(None, 333),), minimum_per_period_nano=2)
    meter = await Meter(valkey, rate).open()
    # 333, 1998, 2331, 2997, 3330 pico-credits by then: the minimum is 2000
    assert [await meter.use(n) for n in (1, 5, 1, 2, 1)] == [2, 0, 1, 1, 1]


@pytest.mark.parametrize("bytes_each", [9 * 10**11, 7 * 10**11])
async def test_a_minimum_is_exact_beyond_any_count_of_units(
    valkey: redis.asyncio.Redis, bytes_each: int
) -> None:
    minimum = 12 * 10**12 + 7
    rate = Rate("input", "per_unit", (Tier(None, 999),), minimum_per_period_nano=minimum)
    meter = await Meter(valkey, rate).open(9 * 10**14)
    charged, used = [], 0
    for _ in range(18):
        before = rating.cumulative(rate, used)
        used += bytes_each
        assert await meter.use(bytes_each) == -(-(rating.cumulative(rate, used) - before) // 1)
        charged.append((await meter.bench.wallet()).settled_nano)
    assert charged[0] == minimum


async def test_every_hold_that_may_be_the_first_holds_the_minimum(
    valkey: redis.asyncio.Redis,
) -> None:
    rate = Rate("input", "per_unit", (Tier(None, 2_000),), 10, minimum_per_period_nano=50)
    meter = await Meter(valkey, rate).open()
    assert [await meter.held_nano(f"r{n}", 8) for n in (1, 2, 3)] == [0, 50, 50]
    assert (await meter.settle("r3", 12)).charged_nano == 50
    assert await meter.held_nano("r4", 8) == 16
    assert (await meter.settle("r2", 8)).charged_nano == 0
    assert (await meter.settle("r1", 30)).charged_nano == 30  # 40 × 2, of which 50 are paid
    assert await meter.bench.differences() == []


async def test_a_late_settle_pays_the_minimum_that_its_expiry_did_not(
    valkey: redis.asyncio.Redis,
) -> None:
    rate = Rate("input", "per_unit", (Tier(None, 2_000),), 10, minimum_per_period_nano=50)
    meter = await Meter(valkey, rate).open()
    await meter.hold("r1", 40, floor=5)
    await meter.hold("r2", 40, floor=12)
    meter.bench.now += 60_000
    assert [e and e.charged_nano for e in [await meter.bench.expire(r) for r in ("r1", "r2")]] == [
        0,  # 5 units, all included
        50,
    ]
    late = await meter.settle("r1", 35)  # 47 in all: 74, of which 50 are paid
    assert (late.outcome, late.charged_nano) == ("settled_late", 24)
    assert (await meter.settle("r2", 1)).charged_nano == 50 - 22


async def test_an_old_period_is_rated_from_where_it_stood(valkey: redis.asyncio.Redis) -> None:
    rate = Rate(
        "input", "per_unit", (Tier(None, 2_000),), minimum_per_period_nano=50, period="hour"
    )
    meter = await Meter(valkey, rate).open()
    await meter.hold("r1", 10)
    await meter.hold("r2", 10)  # stands on the 10 that r1 holds
    for _ in range(2):
        meter.bench.now += HOUR_MS
        assert await meter.use(1) == 50
    assert (await meter.settle("r2", 20)).charged_nano == 10
    assert (await meter.settle("r1", 20)).charged_nano == 50


async def test_classes_of_a_parent_with_a_minimum_owe_it_once(valkey: redis.asyncio.Redis) -> None:
    meter = await Meter(valkey).open()
    rate = Rate("input", "per_unit", (Tier(None, 2_000),), minimum_per_period_nano=50)
    table = compile_prices([rate], {"input": 5, "cache_read": 1})
    charged = []
    for number in range(3):
        settled = await meter.bench.ledger.settle(
            meter.bench.account, f"r{number}", table, table.vector({"input": 4, "cache_read": 6}),
            meter.bench.facts, tokens=1, reserved_at_ms=NOON_MS,
        )  # fmt: skip
        charged.append(settled.charged_nano)
    assert charged == [50, 0, 10]


async def test_classes_of_a_tiered_parent_count_together(valkey: redis.asyncio.Redis) -> None:
    meter = await Meter(valkey).open()
    table = compile_prices([GRADUATED], {"input": 5, "cache_read": 1})
    vector = table.vector({"input": 60, "cache_read": 60})
    settled = await meter.bench.ledger.settle(
        meter.bench.account, "r1", table, vector, meter.bench.facts, tokens=1,
        reserved_at_ms=NOON_MS,
    )  # fmt: skip
    assert settled.charged_nano == 600 + 400 + 80 + 25
    assert await meter.used() == (120, 0)


async def test_an_estimate_takes_the_dearest_tier_reachable_held_units_included(
    valkey: redis.asyncio.Redis,
) -> None:
    rising = Rate("input", "graduated", (Tier(100, 1_000), Tier(None, 5_000)))
    meter = await Meter(valkey, rising).open()
    assert await meter.held_nano("r1", 60) == 60
    assert await meter.used() == (0, 60)
    assert await meter.held_nano("r2", 40) == 40
    assert await meter.held_nano("r3", 10) == 50  # beyond what the two hold
    assert (await meter.settle("r3", 10)).charged_nano == 10  # they have used nothing yet
    assert await meter.used() == (10, 100)
    assert (await meter.bench.release("r1")).outcome == "released"
    assert await meter.used() == (10, 40)


async def test_a_charge_belongs_to_the_period_of_its_reserve(valkey: redis.asyncio.Redis) -> None:
    hourly = Rate("input", "graduated", GRADUATED.tiers, period="hour")
    meter = await Meter(valkey, hourly).open()
    await meter.use(90)
    await meter.hold("r1", 20)
    await meter.hold("r2", 20)
    meter.bench.now += HOUR_MS
    assert await meter.use(10) == 100  # a new hour begins at the first tier
    assert (await meter.settle("r1", 20)).charged_nano == 100 + 40 + 25
    (period,) = (await meter.bench.wallet()).periods
    assert (period.used, period.held, period.before_used) == (10, 0, 110)
    meter.bench.now += HOUR_MS
    await meter.use(1)
    # Two hours on, that period is gone: from where the counter stood at the reserve, 90 + 20 held.
    assert (await meter.settle("r2", 20)).charged_nano == 80


async def test_a_late_settle_charges_the_difference_where_the_counter_stands(
    valkey: redis.asyncio.Redis,
) -> None:
    meter = await Meter(valkey, GRADUATED).open()
    await meter.hold("r1", 50, floor=30)
    meter.bench.now += 60_000
    expired = await meter.bench.expire("r1")
    assert expired is not None
    assert expired.charged_nano == 300
    await meter.use(70)
    late = await meter.settle("r1", 50)  # 20 more, all in the second tier by now
    assert (late.outcome, late.charged_nano) == ("settled_late", 300 + 20 * 4 + 25)
    assert await meter.used() == (120, 0)
    assert (await meter.bench.wallet()).settled_nano == 1000 + 80 + 25


@pytest.mark.parametrize(
    ("units", "charged", "credited"),
    [(20, 40, 0), (10, 0, 0), (5, 0, 20), (200, 760, 0)],
)
async def test_a_late_settle_takes_up_what_its_expiry_credited(
    valkey: redis.asyncio.Redis, units: int, charged: int, credited: int
) -> None:
    meter = await Meter(valkey, VOLUME).open()
    await meter.use(100)  # 1000
    await meter.hold("r1", 200, floor=10)
    meter.bench.now += 60_000
    await meter.bench.expire("r1")  # 110 × 4 = 440: 560 credited
    ended = await meter.bench.store.holds.reservation("acme", "r1")
    assert isinstance(ended, Ended)
    assert (ended.charged_nano, ended.quantities) == (0, (10,))
    late = await meter.settle("r1", units)
    assert (late.outcome, late.charged_nano) == ("settled_late", charged)
    wallet = await meter.bench.wallet()
    assert wallet.adjusted_nano == 560 + credited
    assert wallet.settled_nano - wallet.adjusted_nano == (100 + units) * 4
    stamps = await meter.bench.stamps()
    ids = [stamp[1] for stamp in stamps if stamp[0] == "adjust"]
    assert ids == ["r1:repriced"] + ["r1:repriced_late"] * (credited > 0)
    assert await meter.bench.differences() == []


async def test_months_begin_on_the_billing_day(valkey: redis.asyncio.Redis) -> None:
    meter = await Meter(valkey, FLAT).open(billing_day=31)
    assert await meter.use(1) == 900
    meter.bench.now = 1_769_817_599_999  # 30 January, the last millisecond
    assert await meter.use(1) == 0
    meter.bench.now += 1
    assert await meter.use(1) == 900
    meter.bench.now = 1_772_236_799_999  # 27 February: its last day is the 28th
    assert await meter.use(1) == 0
    meter.bench.now += 1
    assert await meter.use(1) == 900


async def test_a_quote_writes_nothing_and_says_what_a_reserve_would_hold(
    valkey: redis.asyncio.Redis,
) -> None:
    meter = await Meter(valkey, GRADUATED).open()
    await meter.use(95)
    before = await meter.bench.dump()
    quote = await meter.bench.ledger.quote(
        meter.bench.account, meter.table, meter.table.vector({"input": 10}), tokens=1
    )
    assert (quote.estimate_nano, quote.decision) == (100 + 25, "allow")
    assert await meter.bench.dump() == before


async def test_a_hold_extends_at_the_tier_it_reaches(valkey: redis.asyncio.Redis) -> None:
    meter = await Meter(valkey, GRADUATED).open()
    await meter.hold("r1", 90)
    extended = await meter.bench.ledger.extend(
        meter.bench.account, "r1", extend_no=1,
        estimate=meter.table.vector({"input": 120}), checkpoint=meter.table.vector({}),
        tokens=1, ttl_ms=60_000,
    )  # fmt: skip
    assert not isinstance(extended, Settled)
    assert extended is not None
    assert (extended.grown, extended.held_nano) == (True, 1200 + 25)
    assert await meter.used() == (0, 120)
    assert await meter.bench.differences() == []


@pytest.mark.parametrize(
    "rows",
    [
        b"\x01\x05" + bytes(62),  # no such shape
        struct.pack("<BBBBI4d", 1, 1, 2, 5, 7, 0, 0, 1, 0) + struct.pack("<4d", 0, 1, 0, 0),
        struct.pack("<BBBBI4d", 1, 1, 1, 9, 7, 0, 0, 1, 0) + struct.pack("<4d", 0, 1, 0, 0),
        struct.pack("<BBBBI4d", 1, 1, 1, 5, 7, 0, 0, 1, 0) + struct.pack("<4d", 0, 0.5, 0, 0),
        struct.pack("<BBBBI4d", 1, 3, 1, 5, 7, 0, 0, 0, 0) + struct.pack("<4d", 0, 1, 0, 0),
        struct.pack("<BBBBI4d", 1, 1, 1, 5, 7, 0, 0, 1, 0.5) + struct.pack("<4d", 0, 1, 0, 0),
    ],
)
async def test_rows_that_are_no_price_are_refused(valkey: redis.asyncio.Redis, rows: bytes) -> None:
    meter = await Meter(valkey, GRADUATED).open()
    object.__setattr__(meter.table, "rows", rows)
    before = await meter.bench.dump()
    with pytest.raises((ValueError, LedgerBug)):
        await meter.hold("r1", 5)
    assert meter.bench.runner.word in ("unknown_shape", "bad_rate")
    assert await meter.bench.dump() == before


async def test_what_could_pass_the_bound_of_a_number_is_refused(
    valkey: redis.asyncio.Redis,
) -> None:
    dear = Rate("input", "volume", (Tier(10, 10**15), Tier(None, 10**14)))
    meter = await Meter(valkey, dear).open(9 * 10**15)
    await meter.bench.ledger.adjust("acme", "a", -1, corrects=None, reason="room")
    assert await meter.use(8) == 8 * 10**12
    with pytest.raises(ValueError, match="too_large"):
        await meter.hold("r1", 10**12)


# The bound of an estimate, over random prices, in exact fractions


def random_rate(dice: random.Random) -> Rate:
    minimum = dice.choice((0, 0, dice.randrange(200)))
    return replace(random_shape(dice), minimum_per_period_nano=minimum)


def random_shape(dice: random.Random) -> Rate:
    shape = dice.choice(("graduated", "volume", "package", "flat"))
    if shape == "package":
        return Rate("input", "package", (Tier(None, dice.randrange(9_999)),), dice.randrange(9),
                    package_units=dice.randrange(1, 9))  # fmt: skip
    if shape == "flat":
        return Rate("input", "flat", (Tier(None, 0, dice.randrange(99)),), dice.randrange(9))
    ends: list[Any] = sorted(dice.sample(range(1, 30), dice.randrange(4)))
    tiers = tuple(
        Tier(end, dice.randrange(9_999), dice.choice((0, 0, dice.randrange(50))))
        for end in [*ends, None]
    )
    return Rate(
        "input", "graduated" if shape == "graduated" else "volume", tiers, dice.randrange(9)
    )


def test_no_charge_passes_the_estimate_wherever_the_counter_then_stands() -> None:
    dice = random.Random(3)
    for _ in range(1500):
        rate = random_rate(dice)
        used, held, quantity = dice.randrange(20), dice.randrange(12), dice.randrange(12)
        bound = rating.dearest(rate, used, held, quantity)
        for stands in range(used, used + held + 1):
            for less in range(quantity + 1):
                assert rating.climb(rate, stands, stands + less) <= bound, (rate, used, held)


async def test_the_script_bounds_and_charges_as_the_fractions_do(
    valkey: redis.asyncio.Redis,
) -> None:
    dice = random.Random(4)
    for number in range(60):
        meter = Meter(valkey, random_rate(dice))
        table: PriceTable = compile_prices(meter.table.rates.values(), counter=str(number))
        meter.table = table
        if not number:
            await meter.open()
        rate, used, held = table.rates["input"], 0, 0
        for step in range(4):
            quantity = dice.randrange(25)
            expected = -(-rating.dearest(rate, used, held, quantity) // 1)
            assert await meter.held_nano(f"r{number}-{step}", quantity) == expected
            if dice.random() < 0.6:
                charged = await meter.settle(f"r{number}-{step}", quantity)
                exact = rating.climb(rate, used, used + quantity)
                assert charged.charged_nano == max(0, -(-exact // 1))
                used += quantity
            else:
                held += quantity
    assert await meter.bench.differences() == []
