"""How limits stand: what the records say, at a moment that may be later than they are."""

import pytest
import redis.asyncio

from gateway.domain.limits import Limit
from gateway.domain.reservation import Account
from gateway.domain.standing import Standing, standing_document
from gateway.ledger.codec.wallet_records import Counter
from gateway.ledger.identities import Difference, wallet_differences
from gateway.ledger.standing import counted_in, standings_of
from tests.ledger.bench import NOON_MS, Bench

MINUTE_MS = 60_000
ROLLING = Limit("key", "requests", "minute", 9, rolling=True)
DAY = Limit("customer", "spend", "day", 500)
DEAR = Limit("model", "tokens", "hour", 300, model="dear")
RUNNING = Limit("project", "concurrent", "total", 4)


@pytest.fixture
async def bench(valkey: redis.asyncio.Redis) -> Bench:
    return await Bench(valkey).open(1000, ROLLING, DAY, DEAR, RUNNING)


async def stand(bench: Bench, at_ms: int) -> dict[Limit, Standing]:
    keys = counted_in(bench.store.names, bench.account)
    records = [await bench.client.get(key) for key in keys]
    standings = standings_of(bench.account, records, at_ms)
    assert len({standing.limit for standing in standings}) == len(standings)
    return {standing.limit: standing for standing in standings}


async def test_every_limit_stands_as_its_record_says(bench: Bench) -> None:
    await bench.held("r1", 100, model="dear")
    await bench.settle("r1", 60)
    await bench.held("r2", 70)
    now = bench.now
    assert await stand(bench, now) == {
        ROLLING: Standing(ROLLING, "k1", 1, 1, now + 65_000),
        DAY: Standing(DAY, "acme", 60, 70, now + 43_200_000),
        DEAR: Standing(DEAR, "dear", 60, 0, now + 3_600_000),
        RUNNING: Standing(RUNNING, "team", 0, 1, None),
    }
    assert (await stand(bench, now))[DAY].left == 370
    assert (await stand(bench, now + 3_599_999))[DEAR].used == 60
    assert (await stand(bench, now + 3_600_000))[DEAR].used == 0
    assert (await stand(bench, now + 43_200_000))[RUNNING].held == 1


async def test_who_has_asked_for_nothing_has_used_nothing(bench: Bench) -> None:
    standings = await stand(bench, NOON_MS)
    assert {(s.used, s.held) for s in standings.values()} == {(0, 0)}
    assert standings[ROLLING].ends_ms is None
    bench.account = Account("acme", "k1", 0, 1, None, limits=(RUNNING, DAY))
    assert list(await stand(bench, NOON_MS)) == [DAY], "without a project its limits do not count"


async def test_a_rolling_limit_ages_by_itself(bench: Bench) -> None:
    for number in range(3):
        await bench.held(f"r{number}", 1)
        await bench.settle(f"r{number}", 1)
        bench.now += 20_000
    start = NOON_MS
    for at, used, ends in (
        (60_000, 3, 65_000), (64_999, 3, 65_000), (65_000, 2, 85_000), (84_999, 2, 85_000),
        (85_000, 1, 105_000), (104_999, 1, 105_000), (105_000, 0, None), (9_000_000, 0, None),
        (-100_000, 3, 65_000),
    ):  # fmt: skip
        standing = (await stand(bench, start + at))[ROLLING]
        assert (standing.used, standing.ends_ms) == (used, None if ends is None else start + ends)


async def test_the_store_tells_what_several_accounts_share_once(bench: Bench) -> None:
    other = Account("acme", "k2", 0, 1, "team", limits=(ROLLING, DAY, RUNNING))
    standings = await bench.store.wallets.standings([bench.account, other])
    named = [(standing.limit.scope, standing.of) for standing in standings]
    assert sorted(named) == [
        ("customer", "acme"), ("key", "k1"), ("key", "k2"), ("model", "dear"), ("project", "team"),
    ]  # fmt: skip


def test_a_limit_is_shown_in_its_own_unit() -> None:
    spend = Standing(Limit("key", "spend", "day", 5 * 10**8), "k1", 10**8, 5 * 10**8, NOON_MS + 5)
    assert standing_document(spend) == {
        "scope": "key",
        "name": "k1",
        "measure": "spend",
        "window": "day",
        "rolling": False,
        "ceiling": "0.5",
        "used": "0.1",
        "held": "0.5",
        "left": "0",
        "window_end": "2026-01-01T12:00:00.005Z",
    }
    shown = standing_document(Standing(RUNNING, "team", 0, 3, None))
    assert (shown["window"], shown["left"], shown["window_end"]) == (None, 1, None)


async def test_a_ring_that_does_not_add_up_is_a_difference(bench: Bench) -> None:
    await bench.held("r1", 1)
    bench.now += 5_000
    await bench.held("r2", 1)
    assert await bench.differences() == []
    wallet = await bench.wallet()
    holds = await bench.store.holds.open_holds()
    ring = ROLLING.counter_id
    slot = (0, 1)
    for slots, in_slots, expected in (
        (((0, 2), *[(0, 0)] * 11), (0, 2), [("held", 2, 1)]),
        ((slot, *[(0, 0)] * 11), (0, 3), [("held of slots", 3, 1)]),
        ((slot, *[(0, 0)] * 11), (7, 1), [("used of slots", 7, 0)]),
        (((0, 0), slot, *[(0, 0)] * 10), (0, 1), [("held", 0, 1), ("held", 1, 0)]),
    ):
        counter = Counter(ring, bench.now, 0, 1, 5_000, slots, in_slots)
        found = wallet_differences("acme", wallet, holds, [("key", "k1", (counter,))])
        what = f"held of counter {ring} of key k1"
        assert found == [
            Difference("acme", what if sort == "held" else f"{sort} of {what}", recorded, derived)
            for sort, recorded, derived in expected
        ]
