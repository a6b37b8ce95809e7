"""Every word that a script's header lists is answered by the real script, and what it then wrote.

A word without a scenario here fails: see the last lines.
"""

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import redis.asyncio

from gateway.domain.delivery import Place
from gateway.domain.events import Event, EventKind
from gateway.domain.limits import Limit
from gateway.domain.pricing import compile_prices
from gateway.domain.reservation import Account, IdempotencyKey, Use
from gateway.domain.signals import SignalRules
from gateway.ledger.client.errors import LedgerBug, LedgerRefusal, LedgerUnavailable, TooOld
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.shut_wallets import ShutWallet
from gateway.ledger.exporters import Leases, OtherStore, StoreInUse
from gateway.ledger.losses import Losses
from gateway.ledger.repair import CannotReapply, Reached, Repair
from tests.ledger.bench import NOON_MS, Bench
from tests.ledger.client.test_scripts import VERBS, parse

REPAIRS = {"freeze", "loosen", "reapply", "reopen", "shut"}
"""What is for a shard that cannot serve."""
Scenario = Callable[[Bench], Awaitable[object]]
SCENARIOS: dict[tuple[str, str], Scenario] = {}
BROKEN = ShutWallet("r9:settled", Place(1, 2), "repair: event r9:settled cannot be replayed")
ONCE = IdempotencyKey("d1", bytes(16))
QUIET: set[tuple[str, str]] = set()
"""Those that must not write."""


def scenario(script: str, *words: str, writes: bool = False) -> Callable[[Scenario], Scenario]:
    def register(run: Scenario) -> Scenario:
        for word in words:
            SCENARIOS[script, word] = run
            if not writes:
                QUIET.add((script, word))
        return run

    return register


async def call(bench: Bench, verb: str) -> None:
    """Each verb once, as it usually succeeds or not."""
    bench.now += 1
    match verb:
        case "reserve":
            await bench.reserve("r9")
        case "quote":
            await bench.ledger.quote(bench.account, bench.table, bench.vector(1), tokens=1)
        case "afford":
            await afford(bench)
        case "settle":
            await bench.settle("r1")
        case "release":
            await bench.release("r1")
        case "extend":
            await bench.extend("r1")
        case "expire":
            await bench.expire("r1")
        case "grant":
            await bench.ledger.grant("acme", "g9", 5)
        case "adjust":
            await bench.ledger.adjust("acme", "a9", 5, corrects=None, reason="test")
        case "allowance":
            await bench.ledger.allowance("acme", "monthly", 5)
        case "sweep":
            await bench.ledger.sweep("acme")
        case "void":
            await bench.ledger.void("acme", "v9", 1, reason="test")
        case "refund":
            await refund(bench, "f9", 5)
        case "signals":
            await bench.ledger.signals("acme", SignalRules(exhausted=True))
        case "note":
            await bench.ledger.note("n9", {"action": "key.create"}, "acme")
        case "account":
            await bench.ledger.account("acme", account_rev=9)
        case "freeze":
            await bench.ledger.freeze(0, Place(1, 1000))
        case "loosen":
            await repair(bench).loosen(0, "acme", "r1")
        case "reapply":
            await repair(bench).reapply(event(), {})
        case "reopen":
            await repair(bench).reopen(0, reached(), [])
        case "shut":
            await repair(bench).shut(0, "acme", BROKEN)
        case _:
            await bench.ledger.ack(0, 1, 0)


def repair(bench: Bench) -> Repair:
    return bench.ledger.repair


def reached(last: int = 1) -> Reached:
    """Of a repair that has applied what the store has, 1-1. last: seq of the shard's last entry then"""
    return Reached(Place(1, 1), Place(1, 1), Place(1, last))


def event(kind: EventKind = "grant", grant: int = 2, nano: int = 5, seq: int = 2) -> Event:
    """The event behind those of an opened bench, as a store has it."""
    paid = ((grant, nano),)
    return Event(kind, f"r9:{kind}", 0, 1, seq, NOON_MS, "acme", nano, 0, allocations=paid)


async def frozen(bench: Bench, nano: int = 1000) -> Repair:
    """An opened bench whose shard is frozen."""
    await bench.open(nano)
    await bench.held("r1")
    await set_shard(bench, 1, 1)
    return repair(bench)


async def afford(bench: Bench, units: int = 1, table: Any = None) -> Any:
    """So many units, and up to five more."""
    table = table or bench.table
    least, step = table.vector({"input": units}), table.vector({"input": 1})
    return await bench.ledger.afford(bench.account, table, least, step, 5)


async def refund(bench: Bench, op_id: str, amount: int, **options: Any) -> object:
    """Of a charge of 10 that grant 1 has paid."""
    given: dict[str, Any] = {"charged_nano": 10, "allocations": ((1, 10),)} | options
    return await bench.ledger.refund("acme", op_id, "e9:settled", amount, reason="test", **given)


async def set_shard(bench: Bench, at: int, value: int) -> None:
    await bench.client.setrange("{cg:0}:meta", at, bytes([value]))


def closed(verb: str) -> None:
    """The words of a shard that cannot serve, for one verb."""

    async def went_back(bench: Bench) -> None:
        await bench.open()
        await bench.held("r1")
        bench.ledger.seen.note(0, 1, 1000)
        await call(bench, verb)

    async def shard_frozen(bench: Bench) -> None:
        await bench.open()
        await bench.held("r1")
        await set_shard(bench, 1, 1)
        await call(bench, verb)

    async def wrong_layout(bench: Bench) -> None:
        await bench.open()
        await bench.held("r1")
        await set_shard(bench, 0, 2)
        await call(bench, verb)

    async def unknown_account(bench: Bench) -> None:
        await bench.open()
        await bench.held("r1")
        await bench.client.delete("{cg:0}:a:acme")
        await call(bench, verb)

    scenario(verb, "wrong_layout")(wrong_layout)
    if verb in REPAIRS:
        return
    scenario(verb, "shard_frozen")(shard_frozen)
    if verb != "ack":
        scenario(verb, "went_back")(went_back)
    if verb not in ("ack", "account", "note"):
        scenario(verb, "unknown_account")(unknown_account)


for each in VERBS:
    if each not in ("rate", "lease"):  # they ask no shard
        closed(each)


def bad_arguments(verb: str) -> None:
    async def run(bench: Bench) -> None:
        await bench.open()
        await bench.held("r1")
        with suppress(LedgerUnavailable):  # what is for a frozen shard
            await call(bench, verb)
        _, _, args = bench.runner.call
        nan = struct.pack("<d", float("nan"))
        await bench.runner.again({1: args[0][:8] + nan + args[0][16:]})

    scenario(verb, "bad_arguments", writes=True)(run)


for each in VERBS:
    if each != "loosen":  # it has none
        bad_arguments(each)


def unrated(verb: str) -> None:
    """What the rating refuses, by price rows or quantities that are wrong."""
    rows_at = {"settle": "a4", "quote": "a3", "afford": "a4"}

    async def with_rows(bench: Bench, rows: bytes) -> None:
        await bench.open()
        table = compile_prices({"input": 1000, "output": 2000})
        object.__setattr__(table, "rows", rows)
        if verb == "reserve":
            await bench.reserve("r9", table=table)
        elif verb == "settle":
            await bench.settle("r9", table=table)
        elif verb == "afford":
            await afford(bench, table=table)
        else:
            await bench.ledger.quote(bench.account, table, bench.vector(1), tokens=1)

    def rows(shape: int = 0, nano: float = 1, pico: float = 0) -> bytes:
        return struct.pack("<BBdd", 1, shape, nano, pico) + struct.pack("<BBdd", 5, 0, 2, 0)

    def scene(word: str, changed: bytes) -> None:
        async def run(bench: Bench) -> None:
            with suppress(ValueError):
                await with_rows(bench, changed)

        if verb in ("reserve", *rows_at):
            scenario(verb, word)(run)

    scene("unknown_shape", rows(shape=1))
    scene("bad_rate", rows(nano=0.5))


unrated("reserve")
unrated("settle")
unrated("quote")
unrated("afford")


def quantity(verb: str, value: float) -> Scenario:
    async def run(bench: Bench) -> None:
        await bench.open()
        await bench.held("r1")
        await call(bench, verb)
        _, _, args = bench.runner.call
        wrong = struct.pack("<d", value)
        vector = {"reserve": 3, "settle": 3, "quote": 2, "extend": 3, "afford": 2}[verb]
        changed = {vector: wrong + args[vector - 1][8:]}
        keys = {5: b"{cg:0}:r:r8"}
        await bench.runner.again(changed, keys=keys if verb in ("reserve", "settle") else None)

    return run


for each in ("reserve", "settle", "quote", "extend", "afford"):
    scenario(each, "bad_quantity", writes=True)(quantity(each, -1.0))


def dear(verb: str) -> Scenario:
    async def run(bench: Bench) -> None:
        await bench.open()
        table = compile_prices({"input": 10**15})  # a thousand credits a unit
        vector = table.vector({"input": 10_000})
        with suppress(ValueError):
            if verb == "reserve":
                await bench.ledger.reserve(
                    bench.account, "r9", table, vector, vector, b"", tokens=1, ttl_ms=1
                )
            elif verb == "settle":
                await bench.ledger.settle(
                    bench.account, "r9", table, vector, b"", tokens=1, reserved_at_ms=bench.now
                )
            elif verb == "afford":
                await afford(bench, 10_000, table)
            else:
                await bench.ledger.quote(bench.account, table, vector, tokens=1)

    return run


for each in ("reserve", "settle", "quote", "afford"):
    scenario(each, "too_large")(dear(each))


@scenario("extend", "too_large", writes=True)
async def extend_too_large(bench: Bench) -> None:
    await bench.open()
    table = compile_prices({"input": 10**15})
    vector = table.vector({})
    await bench.ledger.reserve(
        bench.account, "r1", table, vector, vector, bench.facts, tokens=1, ttl_ms=60_000
    )
    with suppress(ValueError):
        await bench.ledger.extend(
            bench.account, "r1", extend_no=1, estimate=table.vector({"input": 10_000}),
            checkpoint=vector, tokens=1, ttl_ms=1,
        )  # fmt: skip


async def spoil_rows(bench: Bench, row: bytes) -> None:
    """Change the first price row inside a hold's record."""
    await bench.open()
    await bench.held("r1")
    record = await bench.client.get("{cg:0}:r:r1")
    at = record.index(bench.table.rows)
    await bench.client.set("{cg:0}:r:r1", record[:at] + row + record[at + len(row) :])
    with suppress(ValueError):
        await bench.extend("r1", used=1)


@scenario("extend", "unknown_shape", writes=True)
async def extend_unknown_shape(bench: Bench) -> None:
    await spoil_rows(bench, struct.pack("<BBdd", 1, 3, 1, 0))


@scenario("extend", "bad_rate", writes=True)
async def extend_bad_rate(bench: Bench) -> None:
    await spoil_rows(bench, struct.pack("<BBdd", 1, 0, 1, 1000))


# reserve


@scenario("reserve", "held", writes=True)
async def held(bench: Bench) -> None:
    await bench.open()
    await bench.held()


@scenario("reserve", "already_ended")
async def already_ended(bench: Bench) -> None:
    await bench.open()
    await bench.release("r1")
    await bench.denied("r1")


@scenario("reserve", "exists_with_different_parameters")
async def reserve_differs(bench: Bench) -> None:
    await bench.open()
    await bench.held("r1", 100)
    await bench.denied("r1", 101)


@scenario("reserve", "wallet_frozen")
async def wallet_frozen(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.account("acme", account_rev=2, frozen=True)
    await bench.denied()


@scenario("reserve", "stale_account")
async def stale_account(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.bump("acme")
    assert (await bench.denied()).account_rev == 2


@scenario("reserve", "repeated")
async def repeated(bench: Bench) -> None:
    await bench.open()
    await bench.held("r1", idempotency=ONCE)
    await bench.reserve("r2", idempotency=ONCE)


@scenario("reserve", "outbox_full")
async def outbox_full(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.adjust("acme", "a1", 1, corrects=None, reason="third entry")
    await bench.denied()


@scenario("reserve", "bad_limits")
async def bad_limits(bench: Bench) -> None:
    await bench.open(1000, Limit("customer", "spend", "day", 500))
    await bench.held("r1")
    _, _, args = bench.runner.call
    await bench.runner.again({4: b"\0\x09" + args[3][2:]}, keys={5: b"{cg:0}:r:r2"})


@scenario("reserve", "stale_windows")
async def stale_windows(bench: Bench) -> None:
    await bench.open(1000, Limit("customer", "spend", "minute", 500))
    await bench.held("r1")
    _, _, args = bench.runner.call
    late = struct.pack("<d", bench.now + 120_000) + args[0][8:]
    await bench.runner.again({1: late}, keys={5: b"{cg:0}:r:r2"})


@scenario("reserve", "insufficient_credits")
async def insufficient(bench: Bench) -> None:
    await bench.open(99)
    denied = await bench.denied(units=100)
    assert (denied.estimate_nano, denied.available_nano, denied.balance_nano) == (100, 99, 99)


@scenario("reserve", "credit_held")
async def credit_held(bench: Bench) -> None:
    await bench.open(100)
    await bench.held("r1", 1)
    assert (await bench.denied("r2", 100)).available_nano == 99


def limited(word: str, limit: Limit, left: int) -> None:
    async def reserve(bench: Bench) -> None:
        await bench.open(1000, Limit("key", "requests", "day", 50), limit)
        await bench.held("r1", 60)
        denied = await bench.denied("r2", 60)
        assert (denied.limit, denied.limit_left) == (limit, left)
        assert denied.retry_after_ms == 0, "what others hold is all that is in the way"

    async def quote(bench: Bench) -> None:
        await reserve(bench)
        quoted = await bench.ledger.quote(bench.account, bench.table, bench.vector(60), tokens=60)
        assert (quoted.decision, quoted.estimate_nano) == (word, 60)

    scenario("reserve", word)(reserve)
    scenario("quote", word)(quote)


limited("spend_limit", Limit("customer", "spend", "day", 100), 40)
limited("rate_limit", Limit("project", "tokens", "minute", 119, rolling=True), 59)
limited("concurrency_limit", Limit("key", "concurrent", "total", 1), 0)


# quote


def quoted(word: str, nano: int, units: int, **account: object) -> None:
    async def run(bench: Bench) -> None:
        await bench.open(nano)
        if account:
            await bench.ledger.account("acme", account_rev=2, **account)  # type: ignore[arg-type]
        await bench.reserve("r1", 1)
        await bench.ledger.quote(bench.account, bench.table, bench.vector(units), tokens=1)

    scenario("quote", word)(run)


quoted("allow", 100, 99)
quoted("insufficient_credits", 100, 101)
quoted("credit_held", 100, 100)
quoted("wallet_frozen", 100, 1, frozen=True)


def rates(word: str, rates_pico: dict[str, int], units: float, day: int = 1) -> None:
    """What a past use comes to, or why it cannot be rated."""

    async def run(bench: Bench) -> None:
        table = compile_prices(rates_pico)
        if word in ("bad_rate", "unknown_shape"):
            shape, nano = (1, 1.0) if word == "unknown_shape" else (0, 0.5)
            object.__setattr__(table, "rows", struct.pack("<BBdd", 1, shape, nano, 0))
        use = Use(NOON_MS, struct.pack("<d", units))
        await bench.ledger.rate(table, [use], billing_day=day)

    scenario("rate", word)(run)


rates("rated", {"input": 1000}, 3)
rates("bad_arguments", {"input": 1000}, 3, day=32)
rates("bad_rate", {"input": 1000}, 3)
rates("unknown_shape", {"input": 1000}, 3)
rates("bad_quantity", {"input": 1000}, 0.5)
rates("too_large", {"input": 10**15}, 10_000)


@scenario("quote", "stale_windows")
async def quote_stale(bench: Bench) -> None:
    await bench.open(1000, Limit("customer", "spend", "minute", 500))
    await bench.held("r1")
    bench.now += 600_000
    await bench.ledger.quote(bench.account, bench.table, bench.vector(1), tokens=1)


@scenario("quote", "bad_limits")
async def quote_bad_limits(bench: Bench) -> None:
    await bench.open(1000, Limit("customer", "spend", "day", 500))
    await bench.ledger.quote(bench.account, bench.table, bench.vector(1), tokens=1)
    _, _, args = bench.runner.call
    await bench.runner.again({4: b"\x01" + args[3][1:]})


# afford


def afforded(word: str, nano: int, held: int, units: int, **account: object) -> None:
    async def run(bench: Bench) -> None:
        await bench.open(nano)
        if account:
            await bench.ledger.account("acme", account_rev=2, **account)  # type: ignore[arg-type]
        await bench.reserve("r1", held)
        assert (await afford(bench, units)).decision == ("allow" if word == "affordable" else word)

    scenario("afford", word)(run)


afforded("affordable", 100, 10, 90)
afforded("insufficient_credits", 100, 10, 101)
afforded("credit_held", 100, 10, 91)
afforded("wallet_frozen", 100, 10, 1, frozen=True)


# extend


@scenario("extend", "extended", writes=True)
async def extended(bench: Bench) -> None:
    await bench.open()
    await bench.held()
    await bench.extend()


@scenario("extend", "not_grown", writes=True)
async def not_grown(bench: Bench) -> None:
    await bench.open(120)
    await bench.held()
    await bench.extend()


@scenario("extend", "unknown_reservation")
async def unknown_reservation(bench: Bench) -> None:
    await bench.open()
    assert await bench.extend() is None


# How a reservation ended, told to each verb that comes after


async def end(bench: Bench, outcome: str) -> None:
    await bench.open()
    await bench.held()
    if outcome == "released":
        await bench.release()
    elif outcome == "settled":
        await bench.settle()
    else:
        bench.now += 60_000
        await bench.expire()
    if outcome == "settled_late":
        await bench.settle()


def after(verb: str, outcome: str) -> None:
    async def run(bench: Bench) -> None:
        await end(bench, outcome)
        before = await bench.dump()
        await call(bench, verb)
        assert await bench.dump() == before, "a reservation that has ended was changed"

    scenario(verb, outcome)(run)


for ended_as in ("settled", "released", "expired", "settled_late"):
    for each in ("release", "extend", "expire", "settle"):
        if (each, ended_as) != ("settle", "expired"):
            after(each, ended_as)


# settle, release, expire


@scenario("settle", "exists_with_different_usage")
async def different_usage(bench: Bench) -> None:
    await end(bench, "settled")
    before = await bench.dump()
    answer = await bench.settle(units=41)
    assert (answer.differs, answer.charged_nano) == (True, 40)
    assert await bench.dump() == before


@scenario("settle", "exists_with_different_prices")
async def different_prices(bench: Bench) -> None:
    await bench.open()
    await bench.held()
    with suppress(ValueError):
        await bench.settle(table=compile_prices({"input": 2000, "output": 2000}))


@scenario("settle", "too_old")
async def settle_too_old(bench: Bench) -> None:
    await bench.open()
    with suppress(TooOld):
        await bench.settle(reserved_at_ms=bench.now - 3_300_001)


@scenario("release", "too_old")
async def release_too_old(bench: Bench) -> None:
    await bench.open()
    with suppress(TooOld):
        await bench.release(reserved_at_ms=bench.now - 3_300_001)


def wrong_scopes(verb: str) -> None:
    async def run(bench: Bench) -> None:
        limits = (Limit("key", "spend", "day", 500), Limit("project", "requests", "day", 9))
        await bench.open(1000, *limits)
        await bench.held("r1")
        bench.now += 60_000
        bench.account = Account("acme", "k1", 0, 1, "team")  # as a journal knows it
        await call(bench, verb)
        assert bench.runner.words[-1] in ("settled", "released", "extended", "expired")
        assert await bench.differences() == []
        bench.runner.word = bench.runner.words[-2]  # the ledger asked again by itself

    scenario(verb, "wrong_scopes", writes=True)(run)


for each in ("settle", "release", "extend", "expire"):
    wrong_scopes(each)


@scenario("expire", "not_due")
async def not_due(bench: Bench) -> None:
    await bench.open()
    await bench.held()
    bench.now += 59_999
    await bench.expire()


@scenario("expire", "gone", writes=True)
async def gone(bench: Bench) -> None:
    await bench.open()
    await bench.held()
    await bench.client.delete("{cg:0}:r:r1")
    await bench.expire()
    assert await bench.client.zcard("{cg:0}:due") == 0


async def nearly_full(bench: Bench) -> None:
    """A wallet that has settled almost as much as a number holds."""
    await bench.open(1000, credit_limit=9 * 10**15 - 1000)
    table = compile_prices({"input": 10**15})
    vector = table.vector({"input": 8_999})
    await bench.ledger.settle(
        bench.account, "r0", table, vector, bench.facts, tokens=1, reserved_at_ms=bench.now
    )


@scenario("settle", "total_too_large")
async def settled_too_much(bench: Bench) -> None:
    await nearly_full(bench)
    table = compile_prices({"input": 10**15})
    with suppress(ValueError):
        await bench.ledger.settle(
            bench.account, "r1", table, table.vector({"input": 2}), b"", tokens=1,
            reserved_at_ms=bench.now,
        )  # fmt: skip


@scenario("expire", "total_too_large", writes=True)
async def expired_too_much(bench: Bench) -> None:
    await nearly_full(bench)
    table = compile_prices({"input": 10**15})
    nothing, much = table.vector({}), table.vector({"input": 2})
    await bench.ledger.reserve(
        bench.account, "r1", table, nothing, much, bench.facts, tokens=1, ttl_ms=1
    )
    bench.now += 1
    with suppress(ValueError):
        await bench.expire()


# The operator's verbs


@scenario("account", "updated", writes=True)
async def updated(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.account("acme", account_rev=2)


@scenario("account", "unchanged")
async def unchanged(bench: Bench) -> None:
    await bench.open(0)
    assert not (await bench.ledger.account("acme", account_rev=1)).changed


@scenario("account", "exists_with_different_parameters")
async def account_differs(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.account("acme", account_rev=1, credit_limit_nano=5)


@scenario("account", "old_revision")
async def old_revision(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.bump("acme")
    await bench.ledger.account("acme", account_rev=1)


@scenario("account", "unknown_account")
async def bump_of_none(bench: Bench) -> None:
    await bench.ledger.bump("acme")


@scenario("grant", "granted", writes=True)
async def granted(bench: Bench) -> None:
    await bench.open(5)


@scenario("grant", "exists_with_different_parameters")
async def grant_differs(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.grant("acme", "g1", 6)


@scenario("grant", "already_expired")
async def already_expired(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.grant("acme", "g2", 6, expires_at_ms=bench.now)


@scenario("grant", "too_many_grants")
async def too_many_grants(bench: Bench) -> None:
    await bench.open(0)
    for number in range(65):
        await bench.ledger.grant("acme", f"g{number}", 1)


@scenario("grant", "total_too_large")
async def granted_too_much(bench: Bench) -> None:
    await bench.open(9 * 10**15)
    await bench.ledger.grant("acme", "g2", 1)


@scenario("adjust", "adjusted", writes=True)
async def adjusted(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.adjust("acme", "a1", -7, corrects="e", reason="test")


@scenario("adjust", "exists_with_different_parameters")
async def adjust_differs(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.adjust("acme", "a1", 7, corrects="e", reason="test")
    await bench.ledger.adjust("acme", "a1", -7, corrects="e", reason="test")


@scenario("adjust", "too_many_grants")
async def adjust_too_many(bench: Bench) -> None:
    await bench.open(0)
    for number in range(64):
        await bench.ledger.grant("acme", f"g{number}", 1)
    await bench.ledger.adjust("acme", "a1", 1, corrects=None, reason="test")


@scenario("adjust", "total_too_large")
async def adjusted_too_much(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.adjust("acme", "a1", -(9 * 10**15), corrects=None, reason="test")
    await bench.ledger.adjust("acme", "a2", -1, corrects=None, reason="test")


@scenario("allowance", "updated", writes=True)
async def allowance_updated(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.allowance("acme", "monthly", 7)


@scenario("allowance", "unchanged")
async def allowance_unchanged(bench: Bench) -> None:
    await allowance_updated(bench)
    assert not await bench.ledger.allowance("acme", "monthly", 7)


@scenario("allowance", "too_many_allowances")
async def too_many_allowances(bench: Bench) -> None:
    await bench.open(5)
    for number in range(17):
        await bench.ledger.allowance("acme", f"n{number}", 7)


@scenario("sweep", "swept", writes=True)
async def swept(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.grant("acme", "g2", 6, expires_at_ms=bench.now + 1)
    bench.now += 1
    assert (await bench.ledger.sweep("acme")).entries == 1


@scenario("void", "voided", writes=True)
async def voided(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.void("acme", "v1", 1, reason="test")


@scenario("void", "exists_with_different_parameters")
async def void_differs(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.void("acme", "v1", 1, reason="test")
    await bench.ledger.void("acme", "v1", 2, reason="test")


@scenario("void", "unknown_grant")
async def void_of_nothing(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.void("acme", "v1", 2, reason="test")


@scenario("void", "total_too_large")
async def voided_too_much(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.void("acme", "v1", 1, reason="test")
    await bench.ledger.grant("acme", "g2", 5 * 10**15)
    await bench.ledger.void("acme", "v2", 2, reason="test")
    await bench.ledger.adjust("acme", "a1", 5 * 10**15, corrects=None, reason="test")
    await bench.ledger.void("acme", "v3", 3, reason="test")


@scenario("refund", "refunded", writes=True)
async def refunded(bench: Bench) -> None:
    await bench.open(5)
    await refund(bench, "f1", 10)


@scenario("refund", "exists_with_different_parameters")
async def refund_differs(bench: Bench) -> None:
    await bench.open(5)
    await refund(bench, "f1", 5)
    await refund(bench, "f1", 4)


@scenario("refund", "more_than_charged")
async def refunded_twice(bench: Bench) -> None:
    await bench.open(5)
    await refund(bench, "f1", 6)
    await refund(bench, "f2", 5)


@scenario("refund", "too_many_grants")
async def refund_too_many(bench: Bench) -> None:
    await bench.open(0)
    for number in range(64):
        await bench.ledger.grant("acme", f"g{number}", 1)
    await refund(bench, "f1", 5, allocations=((0, 10),))


@scenario("refund", "total_too_large")
async def refunded_beyond(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.adjust("acme", "a1", 9 * 10**15, corrects=None, reason="test")
    await refund(bench, "f1", 1)


@scenario("signals", "updated", writes=True)
async def signals_set(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.signals("acme", SignalRules(low_balance_nano=(3,)))


@scenario("signals", "unchanged")
async def signals_known(bench: Bench) -> None:
    await bench.open(5)
    await bench.ledger.signals("acme", SignalRules(low_balance_nano=(3,)))
    await bench.ledger.signals("acme", SignalRules(low_balance_nano=(3,)))


@scenario("note", "noted", writes=True)
async def noted(bench: Bench) -> None:
    await bench.ledger.note("n1", {"action": "key.create"})


@scenario("ack", "acked", writes=True)
async def acked(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.ack(0, 1, 1)


@scenario("ack", "not_written")
async def not_written(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.ack(0, 1, 2)


@scenario("ack", "unknown_shard")
async def unknown_shard(bench: Bench) -> None:
    await bench.ledger.ack(0, 1, 0)


@scenario("freeze", "frozen", writes=True)
async def freeze(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.freeze(0, Place(1, 2))
    assert await bench.client.get("{cg:0}:meta") == struct.pack("<BBHdddd", 1, 1, 0, 1, 1, -1, 0)


@scenario("freeze", "intact")
async def intact(bench: Bench) -> None:
    await bench.open()
    await bench.ledger.freeze(0, Place(1, 1))


for each in ("loosen", "reapply", "shut"):

    async def not_frozen(bench: Bench, verb: str = each) -> None:
        await bench.open()
        await bench.held("r1")
        await call(bench, verb)

    scenario(each, "not_frozen")(not_frozen)


for each in ("loosen", "reapply"):

    async def nobody_to_repair(bench: Bench, verb: str = each) -> None:
        await frozen(bench)
        await bench.client.delete("{cg:0}:a:acme")
        with suppress(CannotReapply):
            await call(bench, verb)

    scenario(each, "unknown_account")(nobody_to_repair)


@scenario("loosen", "gone")
async def nothing_to_loosen(bench: Bench) -> None:
    await (await frozen(bench)).loosen(0, "acme", "r8")


@scenario("loosen", "loosened", writes=True)
async def loosened(bench: Bench) -> None:
    await (await frozen(bench)).loosen(0, "acme", "r1")
    assert (await bench.reservation("r1")).allocations == ((0, 100),)
    wallet = await bench.wallet()
    assert (wallet.held_nano, wallet.held_credit_nano, wallet.grants[0].held_nano) == (100, 100, 0)


@scenario("reapply", "applied", writes=True)
async def applied(bench: Bench) -> None:
    mender = await frozen(bench)
    await mender.reapply(event(), {})
    await mender.reapply(event(), {})
    wallet = await bench.wallet()
    assert (wallet.granted_nano, wallet.next_grant_no, len(wallet.grants)) == (1005, 3, 2)


@scenario("reapply", "other_grant")
async def other_grant(bench: Bench) -> None:
    with suppress(CannotReapply):
        await (await frozen(bench)).reapply(event(grant=1), {})


@scenario("reapply", "unknown_grant")
async def grant_to_charge_is_unknown(bench: Bench) -> None:
    with suppress(CannotReapply):
        await (await frozen(bench)).reapply(event("settle", grant=7), {})


@scenario("reapply", "not_enough")
async def not_enough(bench: Bench) -> None:
    with suppress(CannotReapply):
        await (await frozen(bench)).reapply(event("settle", grant=1, nano=901), {})


@scenario("reopen", "open")
async def never_shut(bench: Bench) -> None:
    await bench.open()
    with pytest.raises(LedgerUnavailable, match="cannot be reopened: open"):
        await call(bench, "reopen")


@scenario("reopen", "went_back")
async def lost_more_meanwhile(bench: Bench) -> None:
    await (await frozen(bench)).reopen(0, reached(last=2), [])


@scenario("shut", "shut", writes=True)
async def shut(bench: Bench) -> None:
    await (await frozen(bench)).shut(0, "acme", BROKEN)
    assert (await bench.wallet()).frozen
    [listed] = (await Losses(bench.client, bench.ledger.keys).shut_wallets()).items()
    assert listed == ("acme", (0, BROKEN))
    assert await bench.client.get("{cg:0}:meta") == struct.pack("<BBHdddd", 1, 1, 0, 1, 1, 2, 1)


@scenario("reopen", "not_reapplied")
async def not_reapplied(bench: Bench) -> None:
    await (await frozen(bench)).reopen(0, reached(), [])


@scenario("reopen", "reopened", writes=True)
async def reopened(bench: Bench) -> None:
    """Entry 1-1 is kept; 1-0 is the store's."""
    mender = await frozen(bench)
    at = Reached(Place(1, 1), Place(0, -1), Place(1, 1))
    await mender.reopen(0, at, [(Place(1, 1), "")])
    assert [entry for entry, _ in await bench.client.xrange("{cg:0}:out")] == [b"2-0"]
    assert await bench.client.get("{cg:0}:meta") == struct.pack("<BBHdddd", 1, 0, 0, 2, 0, 1, 1)


def leases(bench: Bench, member: str = "a") -> Leases:
    return Leases(bench.runner, Keys("cg", 1), member)


@scenario("lease", "bad_arguments")
async def no_shards(bench: Bench) -> None:
    with suppress(LedgerBug):
        await Leases(bench.runner, Keys("cg", 0), "a").lease("s1", "events")


@scenario("lease", "leased", writes=True)
async def leased(bench: Bench) -> None:
    assert (await leases(bench).lease("s1", "events")).shards == {0}
    assert await bench.client.hget("{cg}:exporters", "s:0") == b"a"


@scenario("lease", "other_store")
async def other_store(bench: Bench) -> None:
    await leases(bench).lease("s1", "events")
    with suppress(OtherStore):
        await leases(bench, "b").lease("s2", "warehouse")


@scenario("lease", "in_use")
async def store_in_use(bench: Bench) -> None:
    await leases(bench).lease("s1", "events")
    with suppress(StoreInUse):
        await leases(bench, "b").adopt("s2", "warehouse")


@scenario("lease", "left", writes=True)
async def left(bench: Bench) -> None:
    member = leases(bench)
    await member.lease("s1", "events")
    await member.leave()
    assert await bench.client.hgetall("{cg}:exporters") == {
        b"store_id": b"s1",
        b"store_name": b"events",
    }


LISTED = [(name, word) for name in VERBS for word in parse(name).words]


async def run_scenario(name: str, word: str, client: redis.asyncio.Redis) -> None:
    """Play it on an empty server, and check the answer and that a refusal wrote nothing."""
    run = SCENARIOS[name, word]
    bench = Bench(client, max_backlog=3 if word == "outbox_full" else 0)
    before: dict[bytes, bytes] = {}
    original = bench.runner.run

    async def watched(*call: object) -> object:
        before.clear()
        before.update(await bench.dump())
        return await original(*call)  # type: ignore[arg-type]

    bench.runner.run = watched  # type: ignore[method-assign, assignment]
    with suppress(LedgerUnavailable, LedgerRefusal, ValueError):
        await run(bench)
    assert bench.runner.call[0].name == name
    assert bench.runner.word == word
    if (name, word) in QUIET:
        assert await bench.dump() == before, "an answer that refuses wrote something"


@pytest.mark.parametrize(("name", "word"), LISTED)
async def test_answers_what_its_header_lists(
    name: str, word: str, valkey: redis.asyncio.Redis
) -> None:
    await run_scenario(name, word, valkey)


def test_no_scenario_is_for_a_word_that_no_header_lists() -> None:
    assert set(SCENARIOS) <= set(LISTED)
