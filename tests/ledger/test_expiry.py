"""What time does to a wallet: grants expire once, allowances open and roll over, whoever comes by."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.reservation import Denied
from gateway.ledger.client.errors import LedgerRefusal
from gateway.ledger.codec.operations import allowance_id
from tests.ledger.bench import NOON_MS, Bench

DAY_MS = 86_400_000
JANUARY_MS = NOON_MS - DAY_MS // 2
FEBRUARY_MS = JANUARY_MS + 31 * DAY_MS
MARCH_MS = FEBRUARY_MS + 28 * DAY_MS


@pytest.fixture
async def bench(valkey: redis.asyncio.Redis) -> Bench:
    return Bench(valkey)


async def entries(bench: Bench, kind: str) -> list[tuple[str, int, list[int]]]:
    """Id, amount and allocations of the outbox's entries of a kind."""
    return [(s[1], s[3], s[7]) for s in await bench.stamps() if s[0] == kind]


# Expiry


async def expiring(bench: Bench) -> Bench:
    """A wallet with 1000 for ever and 100 for a second."""
    await bench.open(1000)
    await bench.ledger.grant("acme", "g2", 100, expires_at_ms=NOON_MS + 1000)
    return bench


async def test_what_is_left_of_a_grant_expires_once_by_an_entry(bench: Bench) -> None:
    await expiring(bench)
    bench.now += 999
    assert (await bench.ledger.sweep("acme")).entries == 0
    bench.now += 1
    swept = await bench.ledger.sweep("acme")
    assert (swept.entries, swept.balance_nano) == (1, 1000)
    assert (await bench.ledger.sweep("acme")).entries == 0
    assert await entries(bench, "expire_grant") == [("expire_grant:acme:2:1-3", 100, [2, 100])]
    wallet = await bench.wallet()
    assert (wallet.expired_nano, wallet.balance_nano(bench.now)) == (100, 1000)
    assert await bench.differences() == []


async def test_whichever_script_comes_first_expires_it(bench: Bench) -> None:
    await expiring(bench)
    await bench.held("r1", 150)  # 100 of the one that expires, 50 of the other
    await bench.held("r2", 1)
    bench.now += 1000
    await bench.denied("r3", 10_000)  # a refusal writes nothing
    assert await entries(bench, "expire_grant") == []
    assert (await bench.release("r2")).balance_nano == 1000
    assert await entries(bench, "expire_grant") == []  # all of it is held
    assert (await bench.settle("r1", 60)).balance_nano == 1000
    assert [e[1] for e in await entries(bench, "expire_grant")] == [40]
    assert (await bench.wallet()).expired_nano == 40
    assert await bench.differences() == []


@pytest.mark.parametrize("verb", ["grant", "adjust", "void", "refund", "account", "allowance"])
async def test_an_operators_script_meets_an_expiry_to_the_millisecond(
    bench: Bench, verb: str
) -> None:
    await expiring(bench)
    await bench.ledger.grant("acme", "g3", 7)
    await bench.settle("r1", 30)  # of the one that expires
    ledger, reason = bench.ledger, "test"
    calls: dict[str, Callable[[str], Awaitable[Any]]] = {
        "grant": lambda op: ledger.grant("acme", op, 5),
        "adjust": lambda op: ledger.adjust("acme", op, 5, corrects=None, reason=reason),
        "void": lambda op: ledger.void("acme", op, int(op) * 2 - 3, reason=reason),
        "refund": lambda op: ledger.refund(
            "acme", op, "r1:settled", 5, charged_nano=30, allocations=[(2, 30)], reason=reason
        ),
        "account": lambda op: ledger.account("acme", account_rev=int(op), credit_limit_nano=1),
        "allowance": lambda op: ledger.allowance("acme", op, 5),
    }
    bench.now = NOON_MS + 999
    await calls[verb]("2")
    assert await entries(bench, "expire_grant") == []
    bench.now += 1
    await calls[verb]("3")
    left = 75 if verb == "refund" else 70
    assert [e[1] for e in await entries(bench, "expire_grant")] == [left]
    kinds = [stamp[0] for stamp in await bench.stamps()]
    told = kinds.index("expire_grant")  # first what time has done, then what was asked
    assert kinds[told + 1] == {"refund": "adjust"}.get(verb, verb)
    assert await bench.differences() == []


async def test_a_reserve_that_meets_an_expiry_writes_its_entry(bench: Bench) -> None:
    await expiring(bench)
    bench.now += 1000
    await bench.held("r1", 10)
    await bench.held("r2", 10)
    assert len(await entries(bench, "expire_grant")) == 1
    assert (await bench.reservation("r1")).allocations == ((1, 10),)


async def test_what_a_late_settle_gives_back_to_an_expired_grant_expires(bench: Bench) -> None:
    await expiring(bench)
    await bench.held("r1", 100, floor=80)
    bench.now += 60_000
    expired = await bench.expire("r1")
    assert expired is not None
    assert expired.charged_nano == 80
    assert [e[1] for e in await entries(bench, "expire_grant")] == [20]
    assert (await bench.settle("r1", 50)).balance_nano == 1000
    assert [e[1] for e in await entries(bench, "expire_grant")] == [20, 30]
    assert await bench.differences() == []


async def test_many_sweeps_at_once_expire_it_once(bench: Bench) -> None:
    await expiring(bench)
    bench.now += 5000
    swept = await asyncio.gather(*(bench.ledger.sweep("acme") for _ in range(20)))
    assert sorted(sweep.entries for sweep in swept) == [0] * 19 + [1]


async def test_a_wallet_says_when_time_will_change_it(bench: Bench) -> None:
    await expiring(bench)
    assert (await bench.wallet()).sweep_at_ms == NOON_MS + 1000
    await bench.ledger.allowance("acme", "minutely", 5, period="minute")
    bench.now += 1000
    assert (await bench.ledger.sweep("acme")).sweep_at_ms == NOON_MS + 60_000


# Allowances


async def test_an_allowance_opens_each_month_and_rolls_over_up_to_its_maximum(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.allowance("acme", "monthly", 100, rollover_max_nano=30)
    assert (await bench.wallet()).balance_nano(bench.now) == 100
    await bench.settle("r1", 50)
    bench.now = FEBRUARY_MS
    assert (await bench.held("r2", 130)).available_nano == 0  # 100 and 30 of the 50 left
    number = allowance_id("monthly")
    assert await entries(bench, "grant") == [
        (f"allowance:acme:{number}:{JANUARY_MS}", 100, [1, 100]),
        (f"allowance:acme:{number}:{FEBRUARY_MS}", 130, [2, 130]),
    ]
    assert await entries(bench, "expire_grant") == [("expire_grant:acme:1:1-4", 50, [1, 50])]
    (grant,) = (await bench.wallet()).grants
    assert (grant.category, grant.effective_at_ms, grant.expires_at_ms) == (
        "allowance",
        0,
        MARCH_MS,
    )
    assert await bench.differences() == []


async def test_an_allowance_follows_the_billing_day(bench: Bench) -> None:
    await bench.ledger.account("acme", account_rev=1, billing_day=31)
    await bench.ledger.allowance("acme", "monthly", 100)
    (allowance,) = (await bench.wallet()).allowances
    assert allowance.start_ms == JANUARY_MS - DAY_MS  # 31 December
    assert allowance.end_ms == FEBRUARY_MS - DAY_MS  # 31 January
    bench.now = MARCH_MS - 1
    await bench.ledger.sweep("acme")
    (allowance,) = (await bench.wallet()).allowances
    assert allowance.start_ms == MARCH_MS - DAY_MS  # 28 February, its last day


async def test_an_allowance_repays_the_overdraft_first(bench: Bench) -> None:
    await bench.open(0, credit_limit=500)
    await bench.settle("r1", 40)
    await bench.ledger.allowance("acme", "monthly", 100)
    wallet = await bench.wallet()
    assert (wallet.overdraft_nano, wallet.grants[0].remaining_nano) == (0, 60)
    assert (await entries(bench, "grant"))[-1][2] == [0, 40, 1, 60]


async def test_other_terms_hold_from_the_next_period_on(bench: Bench) -> None:
    await bench.open(0)
    assert await bench.ledger.allowance("acme", "monthly", 100)
    assert await bench.ledger.allowance("acme", "monthly", 70)
    assert not await bench.ledger.allowance("acme", "monthly", 70)
    assert (await bench.wallet()).balance_nano(bench.now) == 100
    bench.now = FEBRUARY_MS
    assert (await bench.ledger.sweep("acme")).balance_nano == 70
    assert await bench.ledger.allowance("acme", "monthly", 0)
    bench.now = MARCH_MS
    assert (await bench.ledger.sweep("acme")).balance_nano == 0
    assert (await bench.wallet()).allowances == ()
    assert await bench.differences() == []


async def test_periods_in_which_nobody_came_give_nothing(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.allowance("acme", "monthly", 100)
    bench.now = MARCH_MS + DAY_MS
    assert (await bench.ledger.sweep("acme")).balance_nano == 100
    assert (await bench.wallet()).granted_nano == 200


async def test_a_quote_and_a_refused_reserve_see_the_new_period_and_write_nothing(
    bench: Bench,
) -> None:
    await bench.open(0)
    await bench.ledger.allowance("acme", "monthly", 100)
    await bench.settle("r1", 100)
    bench.now = FEBRUARY_MS
    assert (await bench.denied("r2", 101)).available_nano == 100
    before = await bench.dump()
    quote = await bench.ledger.quote(bench.account, bench.table, bench.vector(100), tokens=1)
    assert (quote.decision, quote.available_nano) == ("allow", 100)
    assert await bench.dump() == before


async def test_an_allowance_waits_for_room_among_the_grants(bench: Bench) -> None:
    await bench.open(0)
    for number in range(64):
        await bench.ledger.grant("acme", f"g{number}", 1)
    await bench.ledger.allowance("acme", "monthly", 100)
    assert (await bench.wallet()).balance_nano(bench.now) == 64
    await bench.settle("r1", 1)
    assert (await bench.ledger.sweep("acme")).balance_nano == 163


async def test_a_wallet_has_at_most_sixteen_allowances(bench: Bench) -> None:
    await bench.open(0)
    for number in range(16):
        await bench.ledger.allowance("acme", f"n{number}", 1)
    with pytest.raises(LedgerRefusal, match="too_many_allowances"):
        await bench.ledger.allowance("acme", "n16", 1)
    assert isinstance(await bench.reserve("r1", 17), Denied)
