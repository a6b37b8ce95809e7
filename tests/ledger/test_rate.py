"""`rate`: past uses come to what reserve and settle charged for them, in however many calls."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.pricing import PriceTable, Rate, Tier, compile_prices, per_unit
from gateway.domain.reservation import MAX_USES, Hold, Use
from tests.ledger.bench import NOON_MS, Bench
from tests.ledger.test_rating import DAY_MS, GRADUATED, VOLUME, random_rate


@dataclass
class History:
    """Uses of `acme`, one after the other, and what each was really charged."""

    bench: Bench
    table: PriceTable
    uses: list[Use] = field(default_factory=list)
    charges: list[int] = field(default_factory=list)
    net: int = 0

    async def use(self, **usage: int) -> None:
        """Reserve and settle so much."""
        bench, table, rid = self.bench, self.table, f"r{len(self.uses)}"
        vector = table.vector(usage)
        hold = await bench.ledger.reserve(
            bench.account, rid, table, vector, vector, bench.facts, tokens=1, ttl_ms=60_000
        )
        assert isinstance(hold, Hold), hold
        await bench.ledger.settle(
            bench.account, rid, table, vector, bench.facts, tokens=1,
            reserved_at_ms=hold.reserved_at_ms,
        )  # fmt: skip
        wallet = await bench.wallet()
        net = wallet.settled_nano - wallet.adjusted_nano
        self.uses.append(Use(hold.reserved_at_ms, vector))
        self.charges.append(net - self.net)
        self.net = net

    async def rated(self, size: int, billing_day: int = 1) -> list[int]:
        """The charges, so many uses a call."""
        found, periods = list[int](), b""
        for at in range(0, len(self.uses), size):
            some = self.uses[at : at + size]
            rated = await self.bench.ledger.rate(
                self.table, some, billing_day=billing_day, periods=periods
            )
            found += rated.charges_nano
            periods = rated.periods
        return found


async def history(client: redis.asyncio.Redis, *rates: Rate, billing_day: int = 1) -> History:
    bench = Bench(client)
    await bench.ledger.account("acme", account_rev=1, billing_day=billing_day)
    await bench.ledger.grant("acme", "g1", 10**14)
    return History(bench, compile_prices(rates, {"input": 700, "cache_read": 30}))


@pytest.mark.parametrize("seed", range(12))
async def test_it_charges_what_was_charged_whatever_the_price(
    valkey: redis.asyncio.Redis, seed: int
) -> None:
    dice = random.Random(seed)
    dated: Any = dice.choice(("hour", "day", "month"))
    rates = [replace(random_rate(dice), period=dated), per_unit("output", dice.randrange(9_999))]
    day = dice.choice((1, 15, 31))
    past = await history(valkey, *rates, billing_day=day)
    for _ in range(40):
        past.bench.now += dice.choice((1, 60_000, 600_000, DAY_MS // 2, 20 * DAY_MS))
        await past.use(
            input=dice.randrange(30), cache_read=dice.randrange(9), output=dice.randrange(9)
        )
    before = await past.bench.dump()
    assert await past.rated(40, day) == await past.rated(7, day) == past.charges
    assert await past.bench.dump() == before


async def test_a_volume_step_is_a_negative_charge(valkey: redis.asyncio.Redis) -> None:
    past = await history(valkey, VOLUME)
    for units in (60, 40, 10, 5):
        await past.use(input=units)
    assert await past.rated(2) == past.charges == [600, 400, -560, 20]


async def test_the_billing_day_says_when_a_month_begins(valkey: redis.asyncio.Redis) -> None:
    past = await history(valkey, GRADUATED)
    for _ in range(2):
        await past.use(input=100)
        past.bench.now += DAY_MS
    assert await past.rated(9) == [1000, 425]
    assert await past.rated(9, billing_day=2) == [1000, 1000]


async def test_costs_are_rated_beside_the_charges(valkey: redis.asyncio.Redis) -> None:
    bench = Bench(valkey)
    costed = compile_prices([GRADUATED], {"input": 700})
    uses = [Use(NOON_MS, costed.vector({"input": n})) for n in (1, 1000)]
    assert (await bench.ledger.rate(costed, uses, billing_day=1)).costs_nano == (1, 700)
    uses = [Use(NOON_MS, replace_costs(costed).vector({"input": 5}))]
    assert (await bench.ledger.rate(replace_costs(costed), uses, billing_day=1)).costs_nano == (0,)


def replace_costs(table: PriceTable) -> PriceTable:
    return compile_prices(table.rates.values())


async def test_more_than_one_call_can_take_is_refused(valkey: redis.asyncio.Redis) -> None:
    bench, table = Bench(valkey), compile_prices([GRADUATED])
    use = Use(NOON_MS, table.vector({"input": 1}))
    rated = await bench.ledger.rate(table, [use] * MAX_USES, billing_day=1)
    assert sum(rated.charges_nano) == 100 * 10
    with pytest.raises(ValueError, match="bad_arguments"):
        await bench.ledger.rate(table, [use] * (MAX_USES + 1), billing_day=1)
    nothing = await bench.ledger.rate(table, [], billing_day=1, periods=rated.periods)
    assert (nothing.charges_nano, nothing.periods) == ((), rated.periods)


@pytest.mark.parametrize("argument", [3, 4, 5])
async def test_what_is_cut_off_is_refused(valkey: redis.asyncio.Redis, argument: int) -> None:
    past = await history(valkey, GRADUATED)
    await past.use(input=1)
    await past.rated(1)
    given = past.bench.runner.call[2][argument - 1]
    assert await past.bench.runner.again({argument: given + b"x"}) == [b"bad_arguments"]


async def test_a_moment_that_is_none_is_refused(valkey: redis.asyncio.Redis) -> None:
    bench, table = Bench(valkey), compile_prices([Rate("input", "flat", (Tier(None, 0, 9),))])
    with pytest.raises(ValueError, match="bad_arguments"):
        await bench.ledger.rate(table, [Use(-1, table.vector({"input": 1}))], billing_day=1)


@pytest.mark.parametrize(("day", "fits"), [(0, False), (1, True), (31, True), (32, False)])
async def test_a_month_begins_on_a_day_that_there_is(
    valkey: redis.asyncio.Redis, day: int, fits: bool
) -> None:
    bench, table = Bench(valkey), compile_prices([GRADUATED])
    uses = [Use(NOON_MS, table.vector({"input": 1}))]
    if fits:
        assert (await bench.ledger.rate(table, uses, billing_day=day)).charges_nano == (10,)
    else:
        with pytest.raises(ValueError, match="bad_arguments"):
            await bench.ledger.rate(table, uses, billing_day=day)
