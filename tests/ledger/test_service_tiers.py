"""One price that holds several service tiers: the scripts rate what the vector says, whichever
tier was held."""

from gateway.domain.limits import Limit
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Hold
from tests.ledger.bench import Bench
from tests.ledger.test_expiry import bench

__all__ = ["bench"]

TABLE = compile_prices(
    {
        "input": 2000,
        "output": 2000,
        "request": 1000,
        "flex.input": 1000,
        "flex.output": 1000,
        "flex.request": 0,
    },
    {"input": 20_000, "output": 20_000, "flex.input": 10_000, "flex.output": 10_000},
)


async def hold(bench: Bench, tokens_limit: int = 0) -> None:
    limits = (Limit("customer", "tokens", "day", tokens_limit),) if tokens_limit else ()
    await bench.open(10_000, *limits)
    asked = TABLE.vector({"input": 100, "output": 100, "request": 1})
    floor = TABLE.vector({"flex.input": 100, "flex.reasoning": 5, "flex.request": 1})
    answer = await bench.ledger.reserve(
        bench.account, "r1", TABLE, asked, floor, bench.facts, tokens=200, ttl_ms=60_000
    )
    assert isinstance(answer, Hold)
    assert answer.held_nano == 401


async def test_a_hold_at_one_tier_s_price_is_settled_at_another_s(bench: Bench) -> None:
    await hold(bench)
    settled = await bench.ledger.settle(
        bench.account,
        "r1",
        TABLE,
        TABLE.vector({"flex.input": 100, "flex.output": 50, "flex.request": 1}),
        bench.facts,
        tokens=150,
        reserved_at_ms=bench.now,
    )
    assert settled.charged_nano == 150
    assert (await bench.stamps())[-1][5] == 1500
    assert await bench.differences() == []


async def test_an_expiry_charges_the_tier_of_its_checkpoint_and_counts_its_tokens(
    bench: Bench,
) -> None:
    await hold(bench, tokens_limit=304)
    bench.now += 60_001
    expired = await bench.expire("r1")
    assert expired is not None
    assert expired.charged_nano == 105
    # 105 of 304 tokens are used: 200 more would pass the limit, were the request counted as one.
    again = await bench.reserve("r2", 1, tokens=200)
    assert not isinstance(again, Hold)
    assert again.limit_left == 199
    assert isinstance(await bench.reserve("r3", 1, tokens=199), Hold)
    assert await bench.differences() == []
