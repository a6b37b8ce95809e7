"""The plan of a price change, on the real script: many uses, sums, bounds."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import pytest
import redis.asyncio

from gateway.domain.history import PastUse
from gateway.domain.pricebook import Book, Customer
from gateway.domain.pricing import PriceTable, Rate, Tier, compile_prices, per_unit
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.operations.price_plan import DAY_MS, Plan, PlanLine, Planner, lead_ms
from tests.ledger.bench import NOON_MS
from tests.support.loose_ledger import LooseLedger

TIERED = compile_prices([Rate("input", "graduated", (Tier(30, 10_000), Tier(None, 1_000)))])
PLAIN = compile_prices({"input": 3_000}, {"input": 2_500})
BOOK = Book(
    {"a": TIERED.price_version, "b": PLAIN.price_version},
    customers={"own": Customer(prices={"a": PLAIN.price_version})},
)


def uses(customer_id: str, model: str, count: int, *, units: int = 1) -> list[PastUse]:
    """One each minute, charged 5."""
    return [
        PastUse(customer_id, model, NOON_MS + 60_000 * n, "p_old", {"input": units}, 5)
        for n in range(count)
    ]


async def told(version: str) -> frozenset[str] | None:
    return frozenset({"input"}) if version == "p_old" else None


async def plan(
    client: redis.asyncio.Redis, past: Iterable[PastUse], since_ms: int = 0, day: int = 1
) -> tuple[Plan, list[int]]:
    done: list[int] = []
    tables = {table.price_version: table for table in (TIERED, PLAIN)}
    ledger = LooseLedger(RedisRunner(client))
    planner = Planner(ledger, BOOK, tables, lambda _: day, told, done.append)
    return await planner.plan(past, since_ms), done


async def test_many_uses_are_rated_in_many_calls_on_the_same_counters(
    valkey: redis.asyncio.Redis,
) -> None:
    past = [*uses("x", "a", 250), *uses("x", "b", 3), *uses("own", "a", 101)]
    planned, done = await plan(valkey, past)
    assert [
        (line.customer_id, line.model, line.events, line.would_nano) for line in planned.lines
    ] == [
        ("x", "a", 250, 30 * 10 + 220),
        ("x", "b", 3, 9),
        ("own", "a", 101, 303),
    ]
    assert done == [100, 200, 250, 253, 353, 354]
    assert [(line.customer_id, line.events, line.would_nano) for line in planned.customers] == [
        ("x", 253, 529),
        ("own", 101, 303),
    ]
    assert (planned.total.charged_nano, planned.total.would_nano) == (354 * 5, 832)
    costs = [line.cost_nano for line in (*planned.lines, planned.total)]
    assert costs == [None, 9, 303, None]  # 2500 pico-credits, rounded up for each use


async def test_uses_before_the_period_count_but_are_not_summed(valkey: redis.asyncio.Redis) -> None:
    planned, _ = await plan(valkey, uses("x", "a", 250), NOON_MS + 60_000 * 20)
    (line,) = planned.lines
    assert (line.events, line.charged_nano, line.would_nano) == (230, 1150, 10 * 10 + 220)
    planned, _ = await plan(valkey, uses("x", "a", 7), NOON_MS + 60_000 * 20)
    assert planned.lines == ()


async def test_months_begin_on_the_customers_day(valkey: redis.asyncio.Redis) -> None:
    first, second = uses("x", "a", 2, units=30)
    past = [first, replace(second, reserved_at_ms=NOON_MS + DAY_MS)]
    planned, _ = await plan(valkey, past)
    assert planned.total.would_nano == 300 + 30
    planned, _ = await plan(valkey, past, day=2)
    assert planned.total.would_nano == 300 + 300


async def test_a_charge_beyond_the_bounds_of_a_number_is_an_error(
    valkey: redis.asyncio.Redis,
) -> None:
    dear = compile_prices({"input": 10**15})
    book = Book({"a": dear.price_version})
    ledger = LooseLedger(RedisRunner(valkey))
    planner = Planner(ledger, book, {dear.price_version: dear}, lambda _: 1, told)
    with pytest.raises(ValueError, match="too_large"):
        await planner.plan(uses("x", "a", 1, units=10_000), 0)


def test_how_far_back_a_price_counts() -> None:
    def tiered(period: str, unit: str = "input") -> PriceTable:
        rate = Rate(unit, "flat", (Tier(None, 0, 1),), period=period)  # type: ignore[arg-type]
        return compile_prices([rate, per_unit("second", 1)])

    assert lead_ms([PLAIN]) == 0
    assert lead_ms([PLAIN, tiered("day"), tiered("hour")]) == DAY_MS
    assert lead_ms([TIERED]) == 31 * DAY_MS
    assert lead_ms([tiered("total"), tiered("day")]) is None


@pytest.mark.parametrize(
    ("charged", "would", "up", "down", "beyond"),
    [
        (100, 110, 10, None, False),
        (100, 111, 10, None, True),
        (100, 90, 0, None, False),
        (100, 90, None, 10, False),
        (100, 89, None, 10, True),
        (0, 1, 1000, None, True),
        (0, 0, 0, 0, False),
        (100, 1000, None, None, False),
        (100, None, 0, 0, False),
    ],
)
def test_bounds(
    charged: int, would: int | None, up: int | None, down: int | None, beyond: bool
) -> None:
    line = PlanLine("x", "a", 1, charged, would, None)
    bounds = [None if bound is None else Fraction(bound) for bound in (up, down)]
    assert line.beyond(*bounds) == beyond


def test_below_cost_is_strictly_below() -> None:
    line = PlanLine("x", "a", 1, 5, 7, 7)
    assert not line.below_cost
    assert replace(line, cost_nano=8).below_cost
    assert not replace(line, cost_nano=None).below_cost


async def test_each_service_tier_is_rated_at_its_own_price_or_left_out(
    valkey: redis.asyncio.Redis,
) -> None:
    table = compile_prices({"input": 3_000, "flex.input": 1_000, "flex.request": 2_000})
    past = [*uses("x", "a", 3), *uses("x", "a", 2)]
    past = [replace(use, service_tier="flex") if n > 2 else use for n, use in enumerate(past)]
    past += [replace(use, service_tier="priority") for use in uses("x", "a", 4)]
    book = Book({"a": table.price_version})
    ledger = LooseLedger(RedisRunner(valkey))
    planner = Planner(ledger, book, {table.price_version: table}, lambda _: 1, told)
    planned = await planner.plan(past, 0)
    lines = [(x.model, x.service_tier, x.events, x.would_nano) for x in planned.lines]
    assert lines == [
        ("a", "default", 3, 9),
        ("a", "flex", 2, 2 * (1 + 2)),
        ("a", "priority", 4, None),
    ]
    assert planned.unpriced == ("a priority",)
    assert planned.total.would_nano == 15
    assert planned.untold == {"a flex": frozenset({"input"})}
