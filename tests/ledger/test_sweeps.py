"""When time changes a wallet next, and what it does where grants, counters and allowances stand
beside each other in one record."""

import struct

import pytest
import redis.asyncio

from gateway.domain.limits import Limit, Window
from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.domain.pricing import Rate, Tier, compile_prices
from gateway.ledger.codec.operations import allowance_id
from gateway.ledger.codec.wallet_records import read_wallet
from tests.ledger.bench import NOON_MS, Bench
from tests.ledger.raw import NAMES, Raw, vector

DAY_MS = 86_400_000
MIDNIGHT_MS = NOON_MS + DAY_MS // 2
JANUARY_MS = NOON_MS - DAY_MS // 2
FEBRUARY_MS = JANUARY_MS + 31 * DAY_MS
TIERED = compile_prices(
    [
        Rate("input", "per_unit", (Tier(None, 1_000),), included=10, period="day"),
        Rate("output", "per_unit", (Tier(None, 1_000),), included=10, period="total"),
    ]
)


@pytest.fixture
def bench(valkey: redis.asyncio.Redis) -> Bench:
    return Bench(valkey)


async def count(bench: Bench, units: int) -> None:
    """So many units in two counters of periods."""
    vector = TIERED.vector({"input": units, "output": units})
    await bench.ledger.settle(
        bench.account, f"c{bench.now}", TIERED, vector, bench.facts, tokens=0,
        reserved_at_ms=bench.now,
    )  # fmt: skip


async def test_what_never_expires_waits_for_no_sweep(bench: Bench) -> None:
    await bench.open(1000)
    await bench.held("r1", 100)
    await bench.settle("r1", 40)
    await bench.held("r2", 100)
    await bench.release("r2")
    await bench.held("r3", 100, floor=50)
    bench.now += 60_000
    await bench.expire("r3")
    await bench.settle("r3", 10)  # gives back
    assert (await bench.wallet()).sweep_at_ms == MAX_AMOUNT_NANO
    await bench.ledger.refund(
        "acme", "f1", "r1:settled", 12, charged_nano=40, allocations=[(1, 40)], reason="test"
    )
    assert (await bench.wallet()).sweep_at_ms == MAX_AMOUNT_NANO


async def test_the_last_of_many_grants_expires_to_the_last_unit(bench: Bench) -> None:
    await bench.open(1000)
    for number in range(2, 12):
        ends = MIDNIGHT_MS if number == 11 else 0
        await bench.ledger.grant("acme", f"g{number}", 1, priority=100 + number, expires_at_ms=ends)
    assert (await bench.wallet()).sweep_at_ms == MIDNIGHT_MS
    bench.now = MIDNIGHT_MS
    await bench.ledger.sweep("acme")
    assert (await bench.wallet()).expired_nano == 1


async def test_a_grant_keeps_its_age_when_another_goes(bench: Bench) -> None:
    await bench.open(5)
    for number in (2, 3, 4):
        bench.now += 1000
        await bench.ledger.grant("acme", f"g{number}", 5, priority=100 + number)
    await bench.settle("r1", 5)  # the first
    bench.now += 1000
    await bench.ledger.grant("acme", "g5", 5, priority=0)
    assert [(grant.no, grant.created_at_ms - NOON_MS) for grant in (await bench.wallet()).grants] == [
        (5, 4000), (2, 1000), (3, 2000), (4, 3000),
    ]  # fmt: skip
    assert (await bench.wallet()).sweep_at_ms == MAX_AMOUNT_NANO


@pytest.mark.parametrize("counted", [0, 70])
async def test_allowances_carry_their_own_rest_beside_counters(bench: Bench, counted: int) -> None:
    await bench.open(7)
    await count(bench, 0)
    if counted:
        await count(bench, 10)
    spent = 40
    terms = (("a", 50, 20, 1), ("b", 60, 1000, 2), ("c", 70, 0, 3), ("d", 80, 30, 4))
    for name, amount, most, priority in terms:
        await bench.ledger.allowance(
            "acme", name, amount, period="day", rollover_max_nano=most, priority=priority
        )
    await bench.settle("r1", spent)
    bench.now = MIDNIGHT_MS
    await bench.ledger.sweep("acme")
    carried = {"a": 50 + 10, "b": 60 + 60, "c": 70, "d": 80 + 30}
    opened = {s[1]: s[3] for s in await bench.stamps() if s[0] == "grant" and s[2] == MIDNIGHT_MS}
    assert opened == {
        f"allowance:acme:{allowance_id(name)}:{MIDNIGHT_MS}": amount
        for name, amount in carried.items()
    }
    assert (await bench.wallet()).sweep_at_ms == MIDNIGHT_MS + DAY_MS
    bench.now += DAY_MS
    await bench.ledger.sweep("acme")
    rested = {a.allowance_id: (a.start_ms, a.carry_nano) for a in (await bench.wallet()).allowances}
    assert rested == {allowance_id(name): (bench.now, 0) for name in carried}
    last = {s[1]: s[3] for s in await bench.stamps() if s[0] == "grant" and s[2] == bench.now}
    assert sorted(last.values()) == [70, 50 + 20, 80 + 30, 60 + 120]
    assert await bench.differences() == []


@pytest.mark.parametrize("allowances", [0, 1, 13])
async def test_what_expires_is_carried_by_its_own_allowance_alone(
    bench: Bench, allowances: int
) -> None:
    """Nothing else in the record that reads like the grant's number is taken for it."""
    windows: tuple[Window, ...] = ("minute", "hour", "day", "week", "month")
    limits = [Limit("customer", "requests", window, 9) for window in windows]
    await bench.open(0, *limits)
    await bench.ledger.grant("acme", "g1", 7, expires_at_ms=bench.now + 1000)
    for number in range(allowances):
        await bench.ledger.allowance("acme", f"a{number}", 5, priority=200)
    await bench.held("r1", 2)
    await bench.settle("r1", 2)  # every counter stands at 1, the grant's number
    before = await bench.wallet()
    bench.now += 1000
    await bench.ledger.sweep("acme")
    after = await bench.wallet()
    assert after.expired_nano == 5
    assert (after.counters, after.allowances) == (before.counters, before.allowances)


@pytest.mark.parametrize("counters", [0, 1, 8])
async def test_a_counter_and_an_allowance_may_have_the_same_number(
    valkey: redis.asyncio.Redis, counters: int
) -> None:
    def row(unit: int, number: int) -> bytes:
        tier = struct.pack("<dddd", 0, 1, 0, 0)
        return struct.pack("<BBBBIdddd", unit, 1, 1, 3, number, 0, 0, 1, 0) + tier

    raw = await Raw(valkey).open()
    await raw("allowance", allowance=77)
    for number in (*range(1, counters + 1), 77):
        rows, one = row(1, number), vector(1)
        at = f"r{number}"
        assert (await raw("reserve", at, estimate=one, floor=one, price_rows=rows))[0] == "held"
        assert (await raw("settle", at, used=one, price_rows=rows))[:2] == ["settled", 1]
    wallet = read_wallet(await raw.client.get(NAMES["account"]))
    assert [(p.counter_id, p.used) for p in wallet.periods] == [
        (number, 1) for number in (*range(1, counters + 1), 77)
    ]
    assert [a.amount_nano for a in wallet.allowances] == [10]


@pytest.mark.parametrize("counted", [0, 9])
async def test_a_month_begins_on_the_allowances_day_or_on_the_billing_day(
    bench: Bench, counted: int
) -> None:
    await bench.ledger.account("acme", account_rev=1, billing_day=15)
    await count(bench, counted)
    for name, day in (("billing", 0), ("first", 1), ("twentieth", 20)):
        await bench.ledger.allowance("acme", name, 5, day=day)
    allowances = (await bench.wallet()).allowances
    assert [(a.start_ms - JANUARY_MS) // DAY_MS for a in allowances] == [14 - 31, 0, 19 - 31]
    bench.now = FEBRUARY_MS
    await bench.ledger.sweep("acme")
    allowances = (await bench.wallet()).allowances
    assert [(a.start_ms - FEBRUARY_MS) // DAY_MS for a in allowances] == [14 - 31, 0, 19 - 31]


async def test_an_allowance_opens_up_to_the_bound_of_what_is_ever_granted(bench: Bench) -> None:
    await bench.open(MAX_AMOUNT_NANO - 10)
    await bench.ledger.allowance("acme", "more", 11, period="day")
    assert (await bench.wallet()).granted_nano == MAX_AMOUNT_NANO - 10  # it waits
    await bench.ledger.allowance("acme", "just", 10, period="day")
    assert (await bench.wallet()).granted_nano == MAX_AMOUNT_NANO
    assert [allowance.end_ms for allowance in (await bench.wallet()).allowances] == [0, MIDNIGHT_MS]


async def test_what_is_given_back_to_a_grant_expires_with_it(bench: Bench) -> None:
    hour = NOON_MS + 3_600_000
    await bench.open(0)
    await bench.ledger.grant("acme", "g0", 5, priority=0, scope_bits=2)  # stands first
    await bench.ledger.grant("acme", "g1", 100, priority=1, expires_at_ms=MIDNIGHT_MS)
    await bench.ledger.grant("acme", "g2", 5, priority=9, expires_at_ms=hour)
    await bench.held("r1", 100)
    bench.now = hour
    await bench.ledger.sweep("acme")
    assert (await bench.wallet()).sweep_at_ms == MAX_AMOUNT_NANO  # all that is left is held
    await bench.settle("r1", 40)
    assert (await bench.wallet()).sweep_at_ms == MIDNIGHT_MS


async def test_what_a_late_settle_gives_back_to_a_grant_expires_with_it(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.grant("acme", "g0", 5, priority=0, scope_bits=2)  # stands first
    await bench.ledger.grant("acme", "g1", 100, priority=1, expires_at_ms=MIDNIGHT_MS)
    await bench.ledger.grant("acme", "g2", 5, priority=9, expires_at_ms=NOON_MS + 60_001)
    await bench.held("r1", 100, floor=100)
    bench.now += 60_000
    await bench.expire("r1")
    bench.now += 1
    await bench.ledger.sweep("acme")
    assert (await bench.wallet()).sweep_at_ms == MAX_AMOUNT_NANO  # all is spent
    await bench.settle("r1", 10)
    assert (await bench.wallet()).sweep_at_ms == MIDNIGHT_MS


async def test_what_is_given_back_delays_no_sweep(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.grant("acme", "g1", 100, priority=1, expires_at_ms=MIDNIGHT_MS + DAY_MS)
    await bench.ledger.grant("acme", "g2", 5, priority=9, expires_at_ms=MIDNIGHT_MS)
    await bench.held("r1", 100, floor=60)
    bench.now += 60_000
    await bench.expire("r1")
    await bench.settle("r1", 10)
    assert (await bench.wallet()).sweep_at_ms == MIDNIGHT_MS
