"""How much of a request a wallet affords: to the unit, for its model group, at its tiers, by the clock."""

import pytest
import redis.asyncio

from gateway.domain.pricing import PriceTable, Rate, Tier, compile_prices
from gateway.domain.reservation import Affordable
from tests.ledger.bench import NOON_MS, Bench


@pytest.fixture
def bench(valkey: redis.asyncio.Redis) -> Bench:
    return Bench(valkey)


async def afford(
    bench: Bench, least: int, steps: int, table: PriceTable | None = None, bits: int = 0
) -> Affordable:
    """Of input units: `least` of them, and one more with each step."""
    prices = table or bench.table
    return await bench.ledger.afford(
        bench.account, prices, prices.vector({"input": least}), prices.vector({"input": 1}),
        steps, scope_bits=bits,
    )  # fmt: skip


@pytest.mark.parametrize(("least", "steps", "fits"), [
    (0, 50, 50), (0, 200, 100), (40, 60, 60), (40, 61, 60), (99, 9, 1), (100, 9, 0), (100, 0, 0),
])  # fmt: skip
async def test_it_is_as_many_steps_as_are_available(
    bench: Bench, least: int, steps: int, fits: int
) -> None:
    await bench.open(100)
    answer = await afford(bench, least, steps)
    assert (answer.decision, answer.steps) == ("allow", fits)
    assert (answer.estimate_nano, answer.available_nano) == (least + fits, 100)
    await bench.held("r1", least + fits)  # it does fit


async def test_it_says_whether_the_credit_is_gone_or_held(bench: Bench) -> None:
    await bench.open(100)
    assert (await afford(bench, 101, 5)).decision == "insufficient_credits"
    await bench.held("r1", 60)
    held = await afford(bench, 41, 5)
    assert (held.decision, held.available_nano, held.balance_nano) == ("credit_held", 40, 100)
    fitting = await afford(bench, 40, 5)
    assert (fitting.steps, fitting.open_reservations) == (0, 1)


async def test_what_costs_nothing_needs_no_credit(bench: Bench) -> None:
    await bench.open(1)
    await bench.settle("r1", 11)  # owes ten
    assert (await afford(bench, 0, 5)).decision == "allow"
    assert (await afford(bench, 1, 5)).decision == "insufficient_credits"


async def test_the_unit_that_is_one_too_many_is_refused(bench: Bench) -> None:
    await bench.open(0)
    assert (await afford(bench, 1, 0)).decision == "insufficient_credits"
    await bench.ledger.grant("acme", "g1", 1)
    assert (await afford(bench, 1, 0)).decision == "allow"
    await bench.held("r1", 1)
    assert (await afford(bench, 1, 0)).decision == "credit_held"
    assert (await afford(bench, 0, 3)).steps == 0


async def test_a_scoped_grant_counts_for_its_models_alone(bench: Bench) -> None:
    await bench.open(10)
    await bench.ledger.grant("acme", "g2", 50, scope_bits=2)
    assert [(await afford(bench, 0, 99, bits=bits)).steps for bits in (0, 1, 2, 3)] == [
        10,
        10,
        60,
        60,
    ]


async def test_an_expired_grant_is_gone_to_the_millisecond_and_nothing_is_written(
    bench: Bench,
) -> None:
    await bench.open(10)
    await bench.ledger.grant("acme", "g2", 50, expires_at_ms=NOON_MS + 1000)
    await bench.ledger.allowance("acme", "daily", 7, period="day")
    before = await bench.stamps()
    bench.now += 999
    assert (await afford(bench, 0, 99)).steps == 67
    bench.now += 1
    assert (await afford(bench, 0, 99)).steps == 17
    bench.now = NOON_MS + 86_400_000 // 2  # the allowance of the new day, in place of the old one
    assert (await afford(bench, 0, 99)).steps == 17
    assert await bench.stamps() == before


async def test_an_allowance_counts_from_the_first_millisecond_of_its_period(bench: Bench) -> None:
    await bench.open(10)
    await bench.ledger.allowance("acme", "daily", 7, period="day")
    bench.now = NOON_MS + 86_400_000 // 2
    assert (await afford(bench, 0, 99)).steps == 17


async def test_tiers_count_from_where_the_period_stands(bench: Bench) -> None:
    table = compile_prices([Rate("input", "graduated", (Tier(10, 1_000), Tier(None, 5_000)))])
    await bench.open(100)
    assert (await afford(bench, 0, 99, table)).steps == 20  # at the dearest tier that they reach
    assert (await afford(bench, 0, 10, table)).steps == 10
    await bench.ledger.settle(
        bench.account, "r1", table, table.vector({"input": 10}), bench.facts, tokens=0,
        reserved_at_ms=bench.now,
    )  # fmt: skip
    assert (await afford(bench, 0, 99, table)).steps == 18
    assert (await afford(bench, 1, 99, table)).estimate_nano == 90


async def test_a_frozen_wallet_affords_nothing(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.account("acme", account_rev=2, frozen=True)
    assert (await afford(bench, 1, 5)).decision == "wallet_frozen"
