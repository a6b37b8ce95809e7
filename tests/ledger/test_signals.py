"""What wallets announce: once per crossing, in the step that moved the balance."""

from dataclasses import replace
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.reservation import Denied
from gateway.domain.signals import SignalRules, TopUp, Velocity
from tests.ledger.bench import Bench

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
LOW = SignalRules(low_balance_nano=(10, 50), exhausted=True)


@pytest.fixture
def bench(valkey: redis.asyncio.Redis) -> Bench:
    return Bench(valkey)


async def told(bench: Bench) -> list[list[Any]]:
    """Signals of all entries so far, oldest first."""
    found: list[list[Any]] = []
    for stamp in await bench.stamps():
        found += stamp[9] if len(stamp) > 9 else []
    return found


async def spend(bench: Bench, rid: str, amount: int) -> None:
    await bench.held(rid, amount)
    await bench.settle(rid, amount)


async def test_a_settle_that_crosses_a_threshold_says_so_once(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", LOW)
    await spend(bench, "r1", 40)
    assert await told(bench) == []
    await spend(bench, "r2", 11)
    assert (await bench.stamps())[-1][9] == [["low_balance", 50]]
    await spend(bench, "r3", 5)
    assert len((await bench.stamps())[-1]) == 9
    assert await told(bench) == [["low_balance", 50]]


async def test_one_step_may_cross_several_thresholds(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", LOW)
    await spend(bench, "r1", 100)
    assert await told(bench) == [["low_balance", 50], ["low_balance", 10], ["exhausted", 0]]


async def test_a_threshold_is_reached_only_below_it(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", LOW)
    await spend(bench, "r1", 50)
    assert await told(bench) == []
    await spend(bench, "r2", 1)
    assert await told(bench) == [["low_balance", 50]]


async def test_a_wallet_recovers_once_and_can_be_low_again(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", LOW)
    await spend(bench, "r1", 100)
    await bench.ledger.grant("acme", "g2", 20)
    assert (await bench.stamps())[-1][9] == [["recovered", 10]]
    await bench.ledger.grant("acme", "g3", 40)
    assert (await bench.stamps())[-1][9] == [["recovered", 50]]
    await spend(bench, "r2", 15)
    assert (await bench.stamps())[-1][9] == [["low_balance", 50]]
    assert await bench.differences() == []


async def test_exhausted_is_the_end_of_the_credit_limit(bench: Bench) -> None:
    await bench.open(100, credit_limit=30)
    await bench.ledger.signals("acme", SignalRules(exhausted=True))
    await spend(bench, "r1", 129)
    assert await told(bench) == []
    await spend(bench, "r2", 1)
    assert await told(bench) == [["exhausted", -30]]


async def test_another_credit_limit_moves_the_end(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", SignalRules(exhausted=True))
    await spend(bench, "r1", 100)
    await bench.ledger.account("acme", account_rev=2, credit_limit_nano=10)
    assert await told(bench) == [["exhausted", 0], ["recovered", -10]]


async def test_a_wallet_found_below_a_new_threshold_says_so_at_once(bench: Bench) -> None:
    await bench.open(100)
    await spend(bench, "r1", 70)
    assert await bench.ledger.signals("acme", LOW)
    assert await told(bench) == [["low_balance", 50]]
    assert not await bench.ledger.signals("acme", LOW)
    assert await bench.ledger.signals("acme", replace(LOW, low_balance_nano=(50, 60)))
    assert await told(bench) == [["low_balance", 50], ["low_balance", 60]]


async def test_a_wallet_that_has_not_begun_is_not_low(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.signals("acme", LOW)
    assert await told(bench) == []
    await bench.ledger.grant("acme", "g1", 100)
    assert await told(bench) == []
    await spend(bench, "r1", 60)
    assert await told(bench) == [["low_balance", 50]]


async def test_a_first_grant_below_a_threshold_is_low(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.signals("acme", LOW)
    await bench.ledger.grant("acme", "g1", 20)
    assert await told(bench) == [["low_balance", 50]]


async def test_a_first_charge_on_credit_is_low(bench: Bench) -> None:
    await bench.open(0, credit_limit=100)
    await bench.ledger.signals("acme", LOW)
    await bench.ledger.adjust("acme", "a1", -5, corrects="e", reason="test")
    assert await told(bench) == []  # it has not begun
    await spend(bench, "r1", 20)
    assert await told(bench) == [["low_balance", 50], ["low_balance", 10]]


async def test_a_rule_that_went_does_not_remember(bench: Bench) -> None:
    await bench.open(100)
    only = SignalRules(low_balance_nano=(10,))
    await bench.ledger.signals("acme", LOW)
    await spend(bench, "r1", 100)
    assert len(await told(bench)) == 3
    await bench.ledger.signals("acme", only)  # 10 stays, and was announced
    assert len(await told(bench)) == 3
    await bench.ledger.signals("acme", LOW)
    assert (await told(bench))[3:] == [["low_balance", 50], ["exhausted", 0]]


async def test_a_release_announces_what_time_has_moved(bench: Bench) -> None:
    await bench.open(40)
    await bench.ledger.signals("acme", LOW)
    await bench.ledger.grant("acme", "g2", 30, expires_at_ms=bench.now + 1000)
    assert await told(bench) == [["low_balance", 50], ["recovered", 50]]
    await bench.held("r1", 35)
    bench.now += 1000
    await bench.release("r1")
    assert (await bench.stamps())[-2][9:] == [[["low_balance", 50]]]  # of the release
    assert (await told(bench))[2:] == [["low_balance", 50]]


async def test_an_expiry_announces_as_a_settle_does(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", LOW)
    await bench.held("r1", 100, floor=60)
    bench.now += 60_000
    await bench.expire("r1")
    assert (await bench.stamps())[-1][9] == [["low_balance", 50]]


async def test_a_repeated_settle_announces_nothing_more(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", LOW)
    await spend(bench, "r1", 60)
    await bench.settle("r1", 60)
    assert await told(bench) == [["low_balance", 50]]


async def test_rules_that_say_nothing_leave_no_trace_in_the_record(bench: Bench) -> None:
    await bench.open(100)
    before = await bench.client.get("{cg:0}:a:acme")
    await bench.ledger.signals("acme", LOW)
    assert await bench.client.get("{cg:0}:a:acme") != before
    assert await bench.ledger.signals("acme", SignalRules())
    assert await bench.client.get("{cg:0}:a:acme") == before
    assert not await bench.ledger.signals("acme", SignalRules())


@pytest.mark.parametrize(
    "rules", [SignalRules(low_balance_nano=tuple(range(1, 10))), SignalRules(expiring_before_ms=-1)]
)
async def test_rules_out_of_bounds_are_refused(bench: Bench, rules: SignalRules) -> None:
    await bench.open(100)
    with pytest.raises(ValueError, match="bad_arguments"):
        await bench.ledger.signals("acme", rules)


# Grants that expire


async def test_a_grant_is_announced_once_before_it_expires_by_whoever_comes(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", SignalRules(expiring_before_ms=DAY_MS))
    ends = bench.now + 3 * DAY_MS
    await bench.ledger.grant("acme", "g2", 30, expires_at_ms=ends)
    await spend(bench, "r1", 10)
    assert await told(bench) == []
    bench.now += 2 * DAY_MS
    await spend(bench, "r2", 5)
    assert (await bench.stamps())[-1][9] == [["grant_expiring", 2, 15, ends]]
    bench.now += HOUR_MS
    await spend(bench, "r3", 5)
    assert len(await told(bench)) == 1


async def test_a_sweep_announces_for_a_wallet_that_nobody_uses(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", SignalRules(expiring_before_ms=DAY_MS))
    ends = bench.now + 3 * DAY_MS
    await bench.ledger.grant("acme", "g2", 30, expires_at_ms=ends)
    assert (await bench.wallet()).sweep_at_ms == ends - DAY_MS
    bench.now += 2 * DAY_MS
    assert (await bench.ledger.sweep("acme")).entries == 1
    stamp = (await bench.stamps())[-1]
    assert (stamp[0], stamp[3], stamp[9]) == ("signals", 0, [["grant_expiring", 2, 30, ends]])
    swept = await bench.ledger.sweep("acme")
    assert (swept.entries, swept.sweep_at_ms) == (0, ends)


async def test_a_grant_with_nothing_left_is_not_announced(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.signals("acme", SignalRules(expiring_before_ms=DAY_MS))
    await bench.ledger.grant("acme", "g2", 30, expires_at_ms=bench.now + 2 * DAY_MS)
    await spend(bench, "r1", 30)
    bench.now += DAY_MS
    await bench.ledger.sweep("acme")
    assert await told(bench) == []


async def test_a_grant_made_later_than_its_announcement_is_not_announced(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", SignalRules(expiring_before_ms=HOUR_MS))
    bench.now += 1
    now = bench.now
    for name, ends in (("late", now + HOUR_MS - 1), ("just", now + HOUR_MS)):
        await bench.ledger.grant("acme", name, 30, expires_at_ms=ends)
    await spend(bench, "r1", 1)
    bench.now += 1
    await spend(bench, "r2", 1)
    assert await told(bench) == [["grant_expiring", 3, 30, now + HOUR_MS]]
    assert (await bench.ledger.sweep("acme")).entries == 0


async def test_a_grant_is_announced_that_an_allowance_opened(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", SignalRules(expiring_before_ms=HOUR_MS))
    await bench.ledger.allowance("acme", "daily", 5, period="day", category="promotional")
    midnight = bench.now + 12 * HOUR_MS
    for ends in (midnight, midnight + DAY_MS):
        assert (await bench.wallet()).sweep_at_ms == ends - HOUR_MS
        bench.now = ends - HOUR_MS
        assert (await bench.ledger.sweep("acme")).entries == 1
        assert (await bench.ledger.sweep("acme")).sweep_at_ms == ends
        bench.now = ends
        await bench.ledger.sweep("acme")
    assert [signal[3] for signal in await told(bench)] == [midnight, midnight + DAY_MS]


async def test_an_allowance_is_not_announced_and_moves_no_sweep(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", SignalRules(expiring_before_ms=HOUR_MS))
    await bench.ledger.allowance("acme", "daily", 5, period="day")
    midnight = bench.now + 12 * HOUR_MS
    assert (await bench.wallet()).sweep_at_ms == midnight
    bench.now = midnight - 1
    await spend(bench, "r1", 1)
    assert await told(bench) == []


async def test_what_a_refund_gives_back_is_announced(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.signals("acme", SignalRules(expiring_before_ms=HOUR_MS))
    ends = bench.now + 2 * HOUR_MS
    await bench.ledger.grant("acme", "g1", 30, expires_at_ms=ends)
    await spend(bench, "r1", 30)
    await bench.ledger.refund(
        "acme", "f1", "r1:settled", 12, charged_nano=30, allocations=[(1, 30)], reason="test"
    )
    bench.now += HOUR_MS
    assert (await bench.ledger.sweep("acme")).entries == 1
    assert await told(bench) == [["grant_expiring", 1, 12, ends]]


# Top-ups

TOPUP = SignalRules(topup=TopUp(50, 200, HOUR_MS, 2, 10 * DAY_MS))


async def test_a_top_up_is_asked_for_once_and_again_after_the_cooldown(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", TOPUP)
    await spend(bench, "r1", 51)
    assert await told(bench) == [["topup_wanted", 50, 200, 1]]
    await spend(bench, "r2", 1)
    bench.now += HOUR_MS - 1
    await spend(bench, "r3", 1)
    assert len(await told(bench)) == 1
    bench.now += 1
    await spend(bench, "r4", 1)
    assert (await told(bench))[1:] == [["topup_wanted", 50, 200, 2]]


async def test_no_more_top_ups_are_asked_for_than_a_period_allows(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", TOPUP)
    await spend(bench, "r1", 51)
    for number in range(2, 6):
        bench.now += 2 * HOUR_MS
        await bench.ledger.sweep("acme")
        await spend(bench, f"r{number}", 1)
    assert len(await told(bench)) == 2
    bench.now += 10 * DAY_MS
    await bench.ledger.sweep("acme")
    assert (await told(bench))[2:] == [["topup_wanted", 50, 200, 1]]


async def test_a_topped_up_wallet_is_asked_for_nothing(bench: Bench) -> None:
    await bench.open(100)
    await bench.ledger.signals("acme", TOPUP)
    await spend(bench, "r1", 51)
    await bench.ledger.grant("acme", "g2", 200)
    bench.now += 5 * HOUR_MS
    await spend(bench, "r2", 1)
    assert len(await told(bench)) == 1


# Velocity


def fast(*, freeze: bool = False, floor: int = 1) -> SignalRules:
    return SignalRules(velocity=Velocity(3000, floor, 4, freeze))


async def hours(bench: Bench, *amounts: int) -> None:
    """Spend so much in each hour, and begin the next."""
    for number, amount in enumerate(amounts):
        if amount:
            await spend(bench, f"h{bench.now}-{number}", amount)
        bench.now += HOUR_MS


async def test_an_hour_beyond_the_usual_is_announced_once(bench: Bench) -> None:
    await bench.open(10**12)
    await bench.ledger.signals("acme", fast())
    await hours(bench, *[1_000_000] * 5)
    await spend(bench, "r1", 2_000_000)
    assert await told(bench) == []
    await spend(bench, "r2", 2_000_000)
    ((name, spent, usual, frozen),) = await told(bench)
    assert (name, spent, frozen) == ("spending_fast", 4_000_000, 0)
    assert abs(usual - 1_000_000) < 80_000
    await spend(bench, "r3", 2_000_000)
    assert len(await told(bench)) == 1
    bench.now += HOUR_MS
    await spend(bench, "r4", 5_000_000)
    assert len(await told(bench)) == 2


async def test_nothing_is_unusual_before_enough_hours_are_known(bench: Bench) -> None:
    await bench.open(10**12)
    await bench.ledger.signals("acme", fast())
    await hours(bench, 1000, 1000)
    await spend(bench, "r1", 10**9)
    assert await told(bench) == []


async def test_a_wallet_of_which_no_hour_is_known_has_no_usual_one(bench: Bench) -> None:
    await bench.open(10**12)
    await bench.ledger.signals("acme", SignalRules(velocity=Velocity(3000, 1, 0, freeze=False)))
    await hours(bench, 500, 2_000)
    assert await told(bench) == [["spending_fast", 2_000, 515, 0]]


async def test_little_spending_is_never_unusual(bench: Bench) -> None:
    await bench.open(10**12)
    await bench.ledger.signals("acme", fast(floor=5000))
    await hours(bench, *[1] * 5)
    await spend(bench, "r1", 5000)
    assert await told(bench) == []
    await spend(bench, "r2", 1)
    assert len(await told(bench)) == 1


async def test_hours_without_requests_count_as_such(bench: Bench) -> None:
    await bench.open(10**12)
    await bench.ledger.signals("acme", fast(floor=10))
    await hours(bench, 1_000_000, 0, 0, 0, 0)
    await spend(bench, "r1", 1_000_000)
    assert await told(bench) == [["spending_fast", 1_000_000, 0, 0]]


async def test_only_the_last_week_counts(bench: Bench) -> None:
    await bench.open(10**12)
    await bench.ledger.signals("acme", fast(floor=10))
    await hours(bench, *[1_000_000] * 5)
    bench.now += 400 * HOUR_MS
    await spend(bench, "r1", 1_000_000)
    assert await told(bench) == [["spending_fast", 1_000_000, 0, 0]]
    assert await bench.differences() == []


async def test_a_wallet_can_be_frozen_for_it_and_thawed(bench: Bench) -> None:
    await bench.open(10**12)
    await bench.ledger.signals("acme", fast(freeze=True))
    await hours(bench, *[1_000_000] * 5)
    await spend(bench, "r1", 4_000_000)
    assert (await told(bench))[0][3] == 1
    assert (await bench.wallet()).frozen
    denied = await bench.reserve("r2", 1)
    assert isinstance(denied, Denied)
    assert denied.reason == "wallet_frozen"


async def test_all_signals_together_leave_the_record_whole(bench: Bench) -> None:
    await bench.open(1000)
    rules = replace(
        LOW,
        expiring_before_ms=DAY_MS,
        topup=TopUp(50, 200, HOUR_MS, 2, 10 * DAY_MS),
        velocity=Velocity(3000, 10**9, 4, True),
    )
    await bench.ledger.signals("acme", rules)
    await bench.ledger.grant("acme", "g2", 30, expires_at_ms=bench.now + 2 * DAY_MS)
    await hours(bench, 3, 0, 500, 0, 0, 100)
    await bench.ledger.grant("acme", "g3", 30, expires_at_ms=bench.now + 200 * DAY_MS)
    bench.now += 2 * DAY_MS
    await bench.ledger.sweep("acme")
    await bench.ledger.signals("acme", replace(rules, topup=None))
    wallet = await bench.wallet()
    assert [grant.no for grant in wallet.grants if grant.remaining_nano] == [3, 1]
    assert await bench.differences() == []
