"""What each verb does to a wallet, on the real scripts; retries, races and lost replies."""

import asyncio
import struct
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.limits import Limit
from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Account, Denied, Extended, Hold, Settled
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.client.scripts import Script
from gateway.ledger.codec.reservation_records import Ended
from gateway.ledger.codec.wallet_records import read_scope
from gateway.ledger.outbox_watermark import OutboxWatermark
from tests.ledger.bench import NOON_MS, Bench
from tests.support.loose_ledger import LooseLedger

HOUR_MS = 3_600_000


@pytest.fixture
async def bench(valkey: redis.asyncio.Redis) -> Bench:
    return Bench(valkey)


# Reserve and settle


async def test_a_hold_is_replaced_by_the_charge(bench: Bench) -> None:
    await bench.open(1000)
    hold = await bench.held("r1", 100)
    assert (hold.held_nano, hold.available_nano) == (100, 900)
    assert (hold.reserved_at_ms, hold.deadline_ms) == (NOON_MS, NOON_MS + 60_000)
    settled = await bench.settle("r1", 40)
    assert settled == Settled("settled", 40, 960, "r1:settled", replayed=False)
    wallet = await bench.wallet()
    assert (wallet.held_nano, wallet.open_reservations, wallet.settled_nano) == (0, 0, 40)
    assert await bench.client.zcard("{cg:0}:due") == 0
    assert await bench.differences() == []


async def test_a_settle_writes_one_event_with_everything_in_it(bench: Bench) -> None:
    await bench.open(1000)
    await bench.held("r1", 100)
    await bench.ledger.settle(
        bench.account, "r1", bench.table, bench.vector(30, output=5), bench.facts, tokens=35,
        reserved_at_ms=bench.now,
    )  # fmt: skip
    *_, stamp = await bench.stamps()
    assert stamp == ["settle", "r1:settled", NOON_MS, 40, 100, 30, 960, [1, 40], [1, 30, 5, 5]]
    ((_, fields),) = await bench.client.xrevrange("{cg:0}:out", count=1)
    assert fields[b"f"] == bench.facts
    assert bench.ledger.seen.place(0) == (1, 2)


async def test_called_again_each_verb_answers_what_it_did(bench: Bench) -> None:
    await bench.open(1000)
    assert await bench.reserve("r1", 100) == await bench.reserve("r1", 100)
    await bench.reserve("r2", 100)
    first, again = await bench.settle("r1", 40), await bench.settle("r1", 40)
    assert (again.charged_nano, again.replayed, first.replayed) == (40, True, False)
    first, again = await bench.release("r2"), await bench.release("r2")
    assert (again.outcome, again.replayed, first.replayed) == ("released", True, False)
    assert (await bench.ledger.grant("acme", "g1", 1000)).replayed
    for replayed in (False, True):
        adjusted = await bench.ledger.adjust("acme", "a1", -60, corrects=None, reason="test")
        assert (adjusted.replayed, adjusted.balance_nano) == (replayed, 900)
    assert len(await bench.stamps()) == 5
    assert await bench.differences() == []


async def test_what_a_hold_lacks_is_taken_unheld_then_owed(bench: Bench) -> None:
    await bench.open(100)
    await bench.held("r1", 50)
    await bench.held("r2", 30)
    assert (await bench.settle("r1", 90)).balance_nano == 10  # 50 held, 20 unheld, 20 owed
    wallet = await bench.wallet()
    assert (wallet.overdraft_nano, wallet.grants[0].remaining_nano) == (20, 30)
    assert (await bench.stamps())[-1][7] == [1, 70, 0, 20]
    assert (await bench.settle("r2", 30)).balance_nano == -20
    assert await bench.differences() == []
    assert isinstance(await bench.reserve("r3", 1), Denied)


async def test_a_settle_without_a_hold_charges_all_the_same(bench: Bench) -> None:
    await bench.open(100)
    assert (await bench.settle("r1", 40)).charged_nano == 40
    assert (await bench.settle("r1", 40)).replayed
    assert (await bench.stamps())[-1][3:5] == [40, 0]
    assert (await bench.denied("r1", 10)).reason == "already_ended"
    assert await bench.differences() == []


async def test_a_release_that_overtakes_its_reserve_stops_it(bench: Bench) -> None:
    await bench.open(100)
    released = await bench.release("r1", reserved_at_ms=0)
    assert (released.outcome, released.replayed) == ("released", False)
    assert (await bench.denied("r1", 10)).reason == "already_ended"
    assert len(await bench.stamps()) == 2  # account and grant: nothing was pending, so no event


async def test_tombstones_live_an_hour(bench: Bench) -> None:
    await bench.open(100)
    await bench.held("r1")
    assert await bench.client.pttl("{cg:0}:r:r1") == -1
    await bench.settle("r1")
    assert HOUR_MS - 5000 < await bench.client.pttl("{cg:0}:r:r1") <= HOUR_MS
    await bench.release("r2")
    assert HOUR_MS - 5000 < await bench.client.pttl("{cg:0}:r:r2") <= HOUR_MS


async def test_what_costs_nothing_needs_no_credit(bench: Bench) -> None:
    await bench.open(0)
    assert (await bench.held("r1", 0)).held_nano == 0
    assert (await bench.settle("r1", 0)).charged_nano == 0


async def test_the_credit_limit_is_held_and_owed(bench: Bench) -> None:
    await bench.open(30, credit_limit=50)
    assert (await bench.held("r1", 70)).available_nano == 10
    assert (await bench.reservation("r1")).allocations == ((1, 30), (0, 40))
    assert (await bench.denied("r2", 11)).reason == "credit_held"
    assert (await bench.denied("r2", 81)).reason == "insufficient_credits"
    assert (await bench.settle("r1", 45)).balance_nano == -15
    assert await bench.differences() == []


async def test_credit_that_came_meanwhile_pays_before_the_overdraft(bench: Bench) -> None:
    await bench.open(0, credit_limit=50)
    await bench.held("r1", 50)
    await bench.ledger.grant("acme", "g1", 20)
    assert (await bench.settle("r1", 50)).balance_nano == -30
    assert (await bench.stamps())[-1][7] == [1, 20, 0, 30]
    assert await bench.differences() == []


async def test_usage_of_another_order_of_rows_is_refused(bench: Bench) -> None:
    await bench.open(100)
    await bench.held("r1")
    with pytest.raises(ValueError, match="exists_with_different_prices"):
        await bench.settle("r1", table=compile_prices({"input": 1000, "output": 2001}))


# Release, extend, expire


async def test_a_release_gives_everything_back_and_says_so(bench: Bench) -> None:
    await bench.open(100, Limit("customer", "requests", "day", 1))
    await bench.held("r1")
    await bench.release("r1")
    assert (await bench.stamps())[-1] == ["release", "r1:released", NOON_MS, 0, 100, False, 100, [], []]  # fmt: skip
    assert isinstance(await bench.reserve("r2"), Hold)  # its request was not counted
    assert await bench.differences() == []


async def test_an_extend_grows_moves_the_deadline_and_keeps_the_checkpoint(bench: Bench) -> None:
    await bench.open(200)
    await bench.held("r1", 100)
    bench.now += 50_000
    extended = await bench.extend("r1", 150, used=60)
    assert extended == Extended(True, 150, 50, bench.now + 60_000, account_rev=1)
    reservation = await bench.reservation("r1")
    assert (reservation.estimate, reservation.checkpoint) == ({"input": 150}, {"input": 60})
    assert await bench.client.zscore("{cg:0}:due", "r1") == bench.now + 60_000
    bench.now += 1000
    assert await bench.extend("r1", 150, used=60) == extended
    smaller = await bench.extend("r1", 20, number=2)
    assert isinstance(smaller, Extended)
    assert (smaller.grown, smaller.held_nano) == (True, 150)
    assert await bench.differences() == []


async def test_an_extend_that_cannot_be_paid_keeps_the_hold_alive(bench: Bench) -> None:
    await bench.open(120)
    await bench.held("r1", 100)
    await bench.held("r2", 10)
    bench.now += 50_000
    refused = await bench.extend("r1", 121, used=90)
    assert refused == Extended(False, 100, 10, bench.now + 60_000, "insufficient_credits", 1)
    assert (await bench.reservation("r1")).checkpoint == {"input": 90}
    refused = await bench.extend("r1", 120, number=2, used=90)
    assert isinstance(refused, Extended)
    assert refused.reason == "credit_held"
    assert await bench.differences() == []


async def test_an_extend_counts_under_its_limits(bench: Bench) -> None:
    spend, tokens = Limit("key", "spend", "day", 140), Limit("project", "tokens", "day", 150)
    await bench.open(1000, spend, tokens)
    await bench.held("r1", 100)
    refused = await bench.extend("r1", 141)
    assert isinstance(refused, Extended)
    assert refused.reason == "spend_limit"
    refused = await bench.extend("r1", 140, number=2, tokens=151)
    assert isinstance(refused, Extended)
    assert refused.reason == "rate_limit"
    grown = await bench.extend("r1", 140, number=3, tokens=150)
    assert isinstance(grown, Extended)
    assert grown.grown
    assert await bench.differences() == []


async def test_a_frozen_wallet_grows_no_hold(bench: Bench) -> None:
    await bench.open(1000)
    await bench.held("r1", 100)
    await bench.ledger.account("acme", account_rev=2, frozen=True)
    refused = await bench.extend("r1", 101)
    assert isinstance(refused, Extended)
    assert (refused.grown, refused.reason) == (False, "wallet_frozen")
    assert (await bench.settle("r1", 100)).charged_nano == 100


async def test_an_expiry_charges_the_checkpoint_at_the_deadline(bench: Bench) -> None:
    await bench.open(1000, Limit("key", "tokens", "day", 500))
    await bench.held("r1", 100, floor=20)
    bench.now += 59_999
    assert await bench.expire("r1") is None
    bench.now += 1
    (due,) = await bench.store.holds.due()  # by the server's clock it is long due
    expired = await bench.ledger.expire(due)
    assert expired == Settled("expired", 20, 980, "r1:expired", replayed=False)
    stamp = (await bench.stamps())[-1]
    assert stamp[:2] == ["expire", "r1:expired"]
    assert stamp[2:] == [bench.now, 20, 100, 20, 980, [1, 20], [1, 20]]
    (counter,) = read_scope(await bench.client.get("{cg:0}:k:acme:k1"))
    assert (counter.used, counter.held) == (20, 0)
    assert (await bench.expire("r1")) == Settled("expired", 20, 980, "r1:expired", replayed=True)
    assert await bench.differences() == []


@pytest.mark.parametrize(("used", "balance", "difference"), [(70, 930, 50), (20, 980, 0), (5, 995, -15)])  # fmt: skip
async def test_a_late_settle_charges_the_difference_once(
    bench: Bench, used: int, balance: int, difference: int
) -> None:
    await bench.open(1000, Limit("customer", "spend", "day", 5000))
    await bench.held("r1", 100, floor=20)
    bench.now += 60_000
    await bench.expire("r1")
    late = await bench.settle("r1", used)
    assert late == Settled("settled_late", used, balance, "r1:settled_late", replayed=False)
    stamp = (await bench.stamps())[-1]
    assert stamp[:2] == ["settle_late", "r1:settled_late"]
    assert (stamp[3], stamp[5]) == (difference, difference)  # its cost is a nano a unit too
    assert (await bench.settle("r1", used)).replayed
    wallet = await bench.wallet()
    assert (wallet.settled_nano, wallet.counters[0].used) == (used, used)
    assert await bench.differences() == []


async def test_a_late_settle_gives_back_what_was_repaid_meanwhile(bench: Bench) -> None:
    await bench.open(10, credit_limit=100)
    await bench.held("r1", 100, floor=60)
    bench.now += 60_000
    await bench.expire("r1")  # 10 from the grant, 50 owed
    await bench.ledger.grant("acme", "g2", 45)  # all of it repays; 5 are still owed
    assert (await bench.settle("r1", 15)).balance_nano == 40
    wallet = await bench.wallet()
    assert wallet.overdraft_nano == 0
    assert [(g.category, g.remaining_nano) for g in wallet.grants] == [("adjustment", 40)]
    assert await bench.differences() == []


async def test_a_release_or_an_extend_after_expiry_changes_nothing(bench: Bench) -> None:
    await bench.open(1000)
    await bench.held("r1", 100, floor=20)
    bench.now += 60_000
    await bench.expire("r1")
    for answer in (await bench.release("r1"), await bench.extend("r1")):
        assert isinstance(answer, Settled)
        assert (answer.outcome, answer.charged_nano, answer.replayed) == ("expired", 20, True)


# Limits and windows


async def test_a_window_rolls_and_a_late_refund_leaves_the_new_one_alone(bench: Bench) -> None:
    limit = Limit("customer", "spend", "hour", 150)
    await bench.open(1000, limit)
    await bench.held("r1", 100)
    assert (await bench.denied("r2", 51)).retry_after_ms == 0
    bench.now += HOUR_MS
    await bench.held("r2", 120)
    await bench.settle("r1", 90)
    (counter,) = (await bench.wallet()).counters
    assert (counter.window_start_ms, counter.used, counter.held) == (bench.now, 0, 120)
    await bench.settle("r2", 110)
    assert (await bench.denied("r3", 41)).retry_after_ms == HOUR_MS
    assert (await bench.denied("r3", 151)).retry_after_ms is None


async def test_a_clock_that_goes_back_reopens_no_window(bench: Bench) -> None:
    bench.now -= HOUR_MS
    await bench.open(1000, Limit("customer", "spend", "hour", 150))
    bench.now += HOUR_MS
    await bench.held("r1", 100)
    bench.now -= 2
    denied = await bench.denied("r2", 51)
    assert (denied.reason, denied.limit_left) == ("spend_limit", 50)


async def test_rows_of_an_old_window_are_repacked_by_the_ledgers_clock(bench: Bench) -> None:
    await bench.open(1000, Limit("key", "requests", "minute", 1))
    await bench.held("r1")
    bench.now += 10 * HOUR_MS
    await bench.held("r2")
    assert bench.runner.words[-2:] == ["stale_windows", "held"]
    await bench.settle("r2")
    assert (await bench.denied("r3")).retry_after_ms == 60_000


async def test_of_two_limits_on_the_same_count_the_lower_holds_once(bench: Bench) -> None:
    low, high = Limit("key", "requests", "day", 2), Limit("key", "requests", "day", 3)
    await bench.open(1000, high, low)
    await bench.held("r1")
    await bench.held("r2")
    assert (await bench.denied("r3")).limit == low


async def test_a_project_limit_is_of_the_project_alone(bench: Bench) -> None:
    limit = Limit("project", "concurrent", "total", 1)
    await bench.open(1000, limit)
    await bench.held("r1")
    other = Account("acme", "k1", 0, 1, "other", limits=(limit,))
    none = Account("acme", "k1", 0, 1, None, limits=(limit,))
    await bench.held("r2", account=other)
    await bench.held("r3", account=none)
    assert (await bench.denied("r4", account=other)).reason == "concurrency_limit"


# Grants


async def test_grants_burn_in_order(bench: Bench) -> None:
    await bench.open(0)
    later, sooner = bench.now + 2 * HOUR_MS, bench.now + HOUR_MS
    terms: list[tuple[str, dict[str, Any]]] = [
        ("last", {"priority": 101}),
        ("paid", {}),
        ("later", {"expires_at_ms": later}),
        ("sooner", {"expires_at_ms": sooner}),
        ("promotional", {"category": "promotional"}),
        ("first", {"priority": 1}),
    ]
    for op_id, options in terms:
        await bench.ledger.grant("acme", op_id, 10, **options)
    names = {number: op_id for number, (op_id, _) in enumerate(terms, 1)}
    order = [names[grant.no] for grant in (await bench.wallet()).grants]
    assert order == ["first", "sooner", "later", "promotional", "paid", "last"]
    await bench.held("r1", 35)
    await bench.settle("r1", 25)
    moved = (await bench.stamps())[-1][7]
    assert [names[no] for no in moved[::2]] == ["first", "sooner", "later"]
    assert moved[1::2] == [10, 10, 5]


async def test_grants_count_while_they_are_active_and_for_their_models(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.grant("acme", "scoped", 10, scope_bits=2)
    await bench.ledger.grant("acme", "future", 20, effective_at_ms=bench.now + 1)
    await bench.ledger.grant("acme", "ending", 40, expires_at_ms=bench.now + 1)

    async def available(bits: int) -> int:
        quote = await bench.ledger.quote(
            bench.account, bench.table, bench.vector(0), tokens=0, scope_bits=bits
        )
        return quote.available_nano

    assert [await available(bits) for bits in (0, 1, 2, 3)] == [40, 40, 50, 50]
    bench.now += 1
    assert [await available(bits) for bits in (0, 2)] == [20, 30]


async def test_a_hold_taken_before_an_expiry_still_settles_from_that_grant(bench: Bench) -> None:
    await bench.open(0)
    await bench.ledger.grant("acme", "g1", 100, expires_at_ms=bench.now + 1000)
    await bench.held("r1", 60)
    bench.now += 1000
    assert isinstance(await bench.reserve("r2", 1), Denied)
    assert (await bench.settle("r1", 50)).balance_nano == 0
    wallet = await bench.wallet()
    assert (wallet.overdraft_nano, wallet.grants[0].remaining_nano) == (0, 0)
    assert (wallet.settled_nano, wallet.expired_nano) == (50, 50)


async def test_only_an_active_unscoped_grant_repays_the_overdraft(bench: Bench) -> None:
    await bench.open(0, credit_limit=100)
    await bench.settle("r1", 30)
    await bench.ledger.grant("acme", "scoped", 50, scope_bits=1)
    await bench.ledger.grant("acme", "future", 50, effective_at_ms=bench.now + 5)
    assert (await bench.wallet()).overdraft_nano == 30
    granted = await bench.ledger.grant("acme", "now", 50)
    assert granted.balance_nano == 70  # 50 of the scoped one, 20 of this one
    wallet = await bench.wallet()
    assert wallet.overdraft_nano == 0
    assert sorted(grant.remaining_nano for grant in wallet.grants) == [20, 50, 50]
    assert await bench.differences() == []


async def test_exhausted_grants_make_room(bench: Bench) -> None:
    await bench.open(0)
    for number in range(100):
        await bench.ledger.grant("acme", f"g{number}", 5)
        await bench.settle(f"r{number}", 5)
    assert len((await bench.wallet()).grants) == 1
    assert (await bench.ledger.grant("acme", "g0", 5)).replayed  # remembered for ever
    assert await bench.differences() == []


# Numbers


async def test_amounts_stay_exact_up_to_the_bound(bench: Bench) -> None:
    await bench.open(MAX_AMOUNT_NANO)
    table = compile_prices({"input": 10**12, "output": 1})  # a credit, a thousandth nano
    most = table.vector({"input": 8_999_999, "output": 10**12 - 1})  # …,999,999,999 and rest
    hold = await bench.ledger.reserve(
        bench.account, "r1", table, most, most, bench.facts, tokens=1, ttl_ms=60_000
    )
    assert isinstance(hold, Hold)
    assert hold.held_nano == 8_999_999 * 10**9 + 10**9 == MAX_AMOUNT_NANO
    assert (await bench.reservation("r1")).held_nano == MAX_AMOUNT_NANO
    settled = await bench.ledger.settle(
        bench.account, "r1", table, table.vector({"input": 1_000_000, "output": 1}), bench.facts,
        tokens=1, reserved_at_ms=bench.now,
    )  # fmt: skip
    assert settled.charged_nano == 10**15 + 1
    assert settled.balance_nano == 8 * 10**15 - 1
    assert (await bench.stamps())[-1][3] == 10**15 + 1
    assert await bench.differences() == []


@pytest.mark.parametrize(
    ("pico", "quantity"),
    [(1, 1), (1, 999), (1, 1000), (1, 1001), (999, 10**12), (999, 9 * 10**12 // 1000 + 1), (333, 10**12 - 1)],
)  # fmt: skip
async def test_a_charge_is_rounded_up_once(bench: Bench, pico: int, quantity: int) -> None:
    await bench.open(MAX_AMOUNT_NANO)
    table = compile_prices({"input": pico, "output": pico})
    vector = table.vector({"input": quantity, "output": quantity})
    quote = await bench.ledger.quote(bench.account, table, vector, tokens=1)
    assert quote.estimate_nano == -(-2 * quantity * pico // 1000)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.5, 9e15 + 2, float(2**53)])
async def test_numbers_that_are_no_amounts_are_refused_before_a_write(
    bench: Bench, value: float
) -> None:
    await bench.open(1000)
    await bench.held("r1")
    before = await bench.dump()
    packed = struct.pack("<d", value)
    _, _, args = bench.runner.call
    for at in range(1, 7):  # each double of the head but the clock
        head = args[0][: 8 * at] + packed + args[0][8 * at + 8 :]
        reply = await bench.runner.again({1: head}, keys={5: b"{cg:0}:r:r2"})
        assert reply[0] == b"bad_arguments"
    reply = await bench.runner.again(
        {1: args[0], 3: packed + args[2][8:]}, keys={5: b"{cg:0}:r:r2"}
    )
    assert reply[0] == b"bad_quantity"
    assert await bench.dump() == before


# Faults


def calls(bench: Bench) -> dict[str, Any]:
    """Each verb once, so that it would write."""
    adjust = bench.ledger.adjust("acme", "a9", -5, corrects=None, reason="test")
    return {
        "reserve": bench.reserve("r9", 10),
        "extend": bench.extend("r1", 150),
        "settle": bench.settle("r1"),
        "release": bench.release("r1"),
        "expire": bench.expire("r1"),
        "grant": bench.ledger.grant("acme", "g9", 5),
        "adjust": adjust,
        "account": bench.ledger.account("acme", account_rev=2),
        "ack": bench.ledger.ack(0, 1, 0),
    }


VERBS = ["reserve", "extend", "settle", "release", "expire", "grant", "adjust", "account", "ack"]


@pytest.mark.parametrize("verb", VERBS)
async def test_a_key_of_the_wrong_type_leaves_nothing_half_done(
    verb: str, bench: Bench, valkey: redis.asyncio.Redis
) -> None:
    limits = (Limit("project", "spend", "day", 500), Limit("key", "concurrent", "total", 9))
    probe = Bench(valkey)

    async def prepare(which: Bench) -> None:
        await valkey.flushall()
        await which.open(1000, *limits)
        await which.held("r1")
        which.now += 60_000

    async def run(which: Bench) -> Any:
        made = calls(which)
        wanted = made.pop(verb)
        for other in made.values():
            other.close()
        return await wanted

    await prepare(probe)
    await run(probe)
    touched = probe.runner.call[1]
    assert touched
    if verb in ("reserve", "extend"):  # they write to the outbox only what time has done, first
        touched.remove(b"{cg:0}:out")
    for key in touched:
        fresh = Bench(valkey)
        await prepare(fresh)
        await valkey.delete(key)
        wrong: Any = valkey.lpush(key, "wrong")
        await wrong
        before = await fresh.dump()
        with pytest.raises(LedgerBug):
            await run(fresh)
        assert await fresh.dump() == before, key


class LosesReplies(RedisRunner):
    """Runs everything, and loses the reply every other time."""

    calls = 0

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        self.calls += 1
        reply = await super().run(script, keys, args)
        if self.calls % 2:
            raise LedgerUnavailable("the reply was lost", unknown=True)
        return reply


async def test_a_lost_reply_is_asked_again_and_done_once(bench: Bench) -> None:
    await bench.open(10_000)
    lossy = LooseLedger(LosesReplies(bench.client), shard_count=1, clock_ms=lambda: bench.now)
    bench.ledger = lossy

    async def insist(call: Any) -> Any:
        with pytest.raises(LedgerUnavailable) as lost:
            await call()
        assert lost.value.unknown
        return await call()

    await insist(lambda: lossy.grant("acme", "g2", 5))
    await insist(lambda: lossy.adjust("acme", "a1", -5, corrects=None, reason="test"))
    for number in range(20):
        rid = f"r{number}"
        assert isinstance(await insist(lambda rid=rid: bench.reserve(rid, 100)), Hold)
        await insist(lambda rid=rid: bench.extend(rid, 120))
        match number % 3:
            case 0:
                await insist(lambda rid=rid: bench.settle(rid, 70))
            case 1:
                await insist(lambda rid=rid: bench.release(rid))
            case _:
                bench.now += 60_001
                await insist(lambda rid=rid: bench.expire(rid))
    wallet = await bench.wallet()
    assert (wallet.settled_nano, wallet.open_reservations) == (7 * 70, 0)
    assert len(await bench.stamps()) == 4 + 20
    assert await bench.differences() == []


async def test_500_at_once_for_100_admit_exactly_100(bench: Bench, valkey_socket: Path) -> None:
    await bench.open(100)
    endpoint, vector = Endpoint.from_socket(valkey_socket), bench.vector(1)
    async with AsyncExitStack() as stack:
        gates = [
            LooseLedger(
                await stack.enter_async_context(CoalescingRunner(endpoint, name=f"gate-{number}")),
                shard_count=1,
            )
            for number in range(4)
        ]

        async def one(number: int) -> Hold | Denied:
            return await gates[number % 4].reserve(
                bench.account, f"r{number}", bench.table, vector, vector, bench.facts,
                tokens=1, ttl_ms=60_000,
            )  # fmt: skip

        answers = await asyncio.gather(*(one(number) for number in range(500)))
    assert sum(isinstance(answer, Hold) for answer in answers) == 100
    assert {a.reason for a in answers if isinstance(a, Denied)} == {"credit_held"}
    assert (await bench.wallet()).available_nano(await bench.store.now_ms()) == 0
    assert await bench.differences() == []


async def test_when_memory_is_full_admission_stops_and_settlement_does_not(bench: Bench) -> None:
    await bench.open(1000)
    await bench.held("r1")
    await bench.held("r2")
    await bench.held("r3")
    await bench.client.config_set("maxmemory", "1mb")
    try:
        before = await bench.dump()
        with pytest.raises(LedgerUnavailable) as refused:
            await bench.reserve("r4")
        assert not refused.value.unknown
        assert await bench.dump() == before
        assert (await bench.settle("r1", 40)).outcome == "settled"
        assert (await bench.release("r2")).outcome == "released"
        assert isinstance(await bench.extend("r3"), Extended)
        await bench.ledger.grant("acme", "g2", 5)
        await bench.ledger.ack(0, 1, 1)
        bench.now += 60_000
        expired = await bench.expire("r3")
        assert expired is not None
    finally:
        await bench.client.config_set("maxmemory", "0")
    assert await bench.differences() == []


async def test_a_shard_that_lost_a_tail_says_so_to_all_ledgers_of_the_process(bench: Bench) -> None:
    seen = OutboxWatermark()
    admission = LooseLedger(bench.runner, shard_count=1, seen=seen, clock_ms=lambda: bench.now)
    settlement = LooseLedger(bench.runner, shard_count=1, seen=seen, clock_ms=lambda: bench.now)
    await bench.open(1000)
    await bench.held("r1")
    snapshot = {key: await bench.client.dump(key) async for key in bench.client.scan_iter()}
    bench.ledger = settlement
    await bench.settle("r1")
    await bench.client.flushall()
    for key, value in snapshot.items():
        await bench.client.restore(key, 0, value)
    bench.ledger = admission
    assert (await bench.denied("r2")).reason == "went_back"
    with pytest.raises(LedgerUnavailable, match="went_back"):
        await bench.settle("r1")
    fresh = Bench(bench.client)
    assert isinstance(await fresh.reserve("r3"), Hold)  # who has seen nothing misses nothing


async def test_an_acknowledgement_trims_and_is_remembered(bench: Bench) -> None:
    await bench.open(1000)
    for number in range(5):
        await bench.settle(f"r{number}", 1)
    await bench.ledger.ack(0, 1, 3)
    await bench.ledger.ack(0, 1, 1)  # an older one changes nothing
    entries = await bench.client.xrange("{cg:0}:out")
    assert [entry_id for entry_id, _ in entries] == [b"1-4", b"1-5", b"1-6"]
    full = LooseLedger(bench.runner, shard_count=1, max_backlog=3)
    bench.ledger = full
    assert (await bench.denied("r9")).reason == "outbox_full"
    await full.ack(0, 1, 4)
    assert isinstance(await bench.reserve("r9"), Hold)


async def test_an_unknown_word_is_a_bug(bench: Bench) -> None:
    class Strange:
        async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> Any:
            return [b"surprise"]

    await bench.open()
    bench.ledger = LooseLedger(Strange(), shard_count=1)
    made = calls(bench)
    made["quote"] = bench.ledger.quote(bench.account, bench.table, bench.vector(1), tokens=1)
    for call in made.values():
        with pytest.raises(LedgerBug, match="surprise"):
            await call


async def test_ended_records_say_what_they_were(bench: Bench) -> None:
    await bench.open(1000)
    await bench.held("r1", 100, floor=20)
    bench.now += 60_000
    await bench.expire("r1")
    ended = await bench.store.holds.reservation("acme", "r1")
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.charged_nano, ended.held_nano) == ("expired", 20, 100)
    assert (ended.epoch, ended.seq, ended.allocations) == (1, 2, ((1, 20),))
    assert ended.quantities == (20, 0)
