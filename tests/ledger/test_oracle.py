"""Random operations on the real scripts and on the model, compared at every step.

Retries, other parameters, late settles, clock steps in both directions. After each step: the same
answer, the same wallet to the unit, identities 1 and 2, one event per transition, seq without gap.
CREDITGATE_ORACLE_STEPS makes it long, CREDITGATE_ORACLE_SEED makes it another one.
"""

import os
import random
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import msgpack
import pytest
import redis.asyncio

from gateway.domain.limits import SLOTS, Limit, Window
from gateway.domain.pricing import PriceTable, Rate, Tier, compile_prices, per_unit
from gateway.domain.reservation import Account, Denied, Extended, Hold, Settled
from gateway.ledger.accounts import AccountStore, RedisRunner
from gateway.ledger.errors import LedgerRefusal, TooOld
from gateway.ledger.identities import wallet_differences
from gateway.ledger.operations import Ledger
from gateway.ledger.operator import CATEGORIES
from gateway.ledger.records import DueReservation, read_scope
from tests.ledger.model import Model

STEPS = int(os.environ.get("CREDITGATE_ORACLE_STEPS", "1200"))
SEED = int(os.environ.get("CREDITGATE_ORACLE_SEED", "20"))
START_MS = 1_767_225_599_000  # a second before a year, a day and a minute begin
SHARDS = 2
SCOPES = {"customer": "", "project": "team", "key": "k1"}
LIMITS = (
    Limit("customer", "spend", "day", 30_000),
    Limit("project", "tokens", "hour", 400),
    Limit("key", "requests", "minute", 12),
    Limit("project", "concurrent", "total", 6),
)
ROLLING = (
    Limit("customer", "spend", "month", 900_000, rolling=True),
    Limit("customer", "requests", "minute", 2, rolling=True),
    Limit("project", "tokens", "hour", 500, rolling=True),
    Limit("key", "spend", "day", 150_000, rolling=True),
    Limit("key", "tokens", "minute", 220, rolling=True),
    Limit("key", "requests", "month", 200),
    Limit("model", "requests", "hour", 3, rolling=True, model="dear"),
    Limit("model", "spend", "week", 130_000, model="dear"),
    Limit("model", "tokens", "minute", 150, rolling=True, model="cheap"),
    Limit("model", "concurrent", "total", 3, model="cheap"),
)
MODELS = (None, "dear", "cheap")
PACES = (
    (0, 1, 500, 10_000, 70_000, 3_600_000, -20_000, -5),
    (0, 1, 40, 500, 2_000, 5_000, -300),
    (0, 2_000, 60_000, 300_000, 900_000, -400_000),
)
"""Steps of the clock: over windows of every length, within a minute, within hours."""
BORDERS_MS = (5_000, 60_000, 300_000, 3_600_000, 7_200_000)


@dataclass
class Asked:
    """One reservation as it was asked for, so that it can be asked for again."""

    account: Account
    table: PriceTable
    estimate: dict[str, int]
    floor: dict[str, int]
    tokens: int
    bits: int
    model: str | None = None
    settled: tuple[dict[str, int], int] | None = None
    extend_no: int = 0
    reserved_at: int = 0
    facts: bytes = b""


@dataclass
class World:
    """The ledger, the model, and a clock for both."""

    ledger: Ledger
    store: AccountStore
    client: Any
    dice: random.Random
    model: Model = field(default_factory=Model)
    now: int = START_MS
    asked: dict[str, Asked] = field(default_factory=dict)
    number: int = 0
    pace: tuple[int, ...] = PACES[0]

    tables: ClassVar[tuple[PriceTable, ...]] = (
        compile_prices({"input": 1_500, "output": 7_001}, {"input": 700}),
        compile_prices({"input": 999, "cache_read": 1, "output": 1_000_000, "request": 1}),
        compile_prices({"input": 0}),
        compile_prices(
            [
                Rate(
                    "input", "graduated",
                    (Tier(300, 1_500, 7), Tier(700, 2_999), Tier(None, 501, 900)),
                    included=150, period="hour",
                ),
                Rate("output", "volume", (Tier(200, 9_000), Tier(500, 4_001, 50), Tier(None, 2_000))),
                per_unit("request", 12_345),
            ],
            {"input": 700, "cache_read": 70},
        ),
        compile_prices(
            [
                Rate(
                    "input", "volume", (Tier(90, 1_000), Tier(400, 1_777, 3), Tier(None, 300, 20)),
                    included=40, period="minute", minimum_per_request_nano=60,
                ),
                Rate("output", "package", (Tier(None, 1_234_567),), package_units=70, period="day"),
                Rate("request", "flat", (Tier(None, 0, 2_500),), included=2, period="day"),
            ]
        ),
        compile_prices(
            [
                Rate(
                    "output", "per_unit", (Tier(None, 3_333),), included=100, period="week",
                    minimum_per_request_nano=25,
                ),
                Rate("tool_call", "package", (Tier(None, 999_999),), package_units=9, period="total"),
            ],
            counter="shared",
        ),
        compile_prices(
            [
                Rate(
                    "input", "graduated", (Tier(250, 800), Tier(None, 433, 40)),
                    included=60, period="hour", minimum_per_period_nano=333,
                ),
                Rate(
                    "output", "volume", (Tier(150, 5_000), Tier(None, 1_777)), period="day",
                    minimum_per_period_nano=640,
                ),
                Rate("request", "flat", (Tier(None, 0, 90),), 1, minimum_per_period_nano=120),
            ],
            {"input": 700, "cache_read": 70},
            counter="least",
        ),
    )  # fmt: skip

    async def setup(self) -> None:
        for customer in ("plain", "limited", "rolling"):
            limit = 2_000 if customer == "plain" else 0
            day = 31 if customer == "plain" else 1
            await self.ledger.account(
                customer, account_rev=1, credit_limit_nano=limit, billing_day=day
            )
            self.model.account(customer, limit, self.now, day)
        self.accounts = [
            Account(
                name,
                "k1",
                self.ledger.keys.shard_of(name),
                1,
                "team",
                limits={"limited": LIMITS, "rolling": ROLLING}.get(name, ()),
            )
            for name in ("plain", "limited", "rolling")
        ]

    def new_id(self, kind: str) -> str:
        self.number += 1
        return f"{kind}{self.number}"

    def usage(self, table: PriceTable, most: int = 120) -> dict[str, int]:
        """Random quantities of what the table prices; zero is left out."""
        quantities = {unit: self.dice.randrange(most) for unit in table.units if unit != "request"}
        if "request" in table.units:
            quantities["request"] = 1
        return {unit: quantity for unit, quantity in quantities.items() if quantity}

    def some(self) -> str | None:
        """An id that was asked for, more often a recent one."""
        ids = list(self.asked)
        return self.dice.choice(ids[-12:] if self.dice.random() < 0.9 else ids) if ids else None

    # Operations

    async def reserve(self, rid: str | None = None) -> None:
        dice = self.dice
        if rid is None:
            rid, table = self.new_id("r"), dice.choice(self.tables)
            account = dice.choice(self.accounts)
            estimate = self.usage(table)
            ask = Asked(
                account=account,
                table=table,
                estimate=estimate,
                floor={unit: q // 3 for unit, q in estimate.items() if q // 3},
                tokens=dice.randrange(150),
                bits=dice.choice((0, 1, 2, 3)),
                facts=msgpack.packb({"customer_id": account.customer_id}),
                model=dice.choice(MODELS),
            )
            self.asked[rid] = ask
        ask = self.asked[rid]
        table = ask.table
        ask.account = next(a for a in self.accounts if a.customer_id == ask.account.customer_id)
        answer = await self.ledger.reserve(
            ask.account,
            rid,
            table,
            table.vector(ask.estimate),
            table.vector(ask.floor),
            ask.facts,
            tokens=ask.tokens,
            ttl_ms=60_000,
            scope_bits=ask.bits,
            model=ask.model,
        )
        limits = [x for x in ask.account.limits if x.scope != "model" or x.model == ask.model]
        word, held = self.model.reserve(
            ask.account.customer_id,
            rid,
            table,
            ask.estimate,
            ask.floor,
            ask.tokens,
            60_000,
            ask.bits,
            limits,
            SCOPES,
            self.now,
        )
        if isinstance(answer, Hold):
            assert (word, held) == ("held", answer.held_nano)
            ask.reserved_at = answer.reserved_at_ms
        else:
            assert isinstance(answer, Denied)
            assert word == answer.reason
            if answer.limit is not None:
                named = (answer.limit, answer.limit_left, answer.retry_after_ms)
                assert named == self.model.refusal

    async def extend(self, rid: str) -> None:
        ask = self.asked[rid]
        more = self.dice.random() < 0.8
        ask.extend_no += more
        grown = {unit: q + self.dice.randrange(60) for unit, q in ask.estimate.items()}
        used = {unit: q // 2 for unit, q in grown.items() if q // 2}
        tokens, ttl_ms = ask.tokens + self.dice.randrange(40), 60_000
        answer = await self.ledger.extend(
            ask.account,
            rid,
            ask.table,
            extend_no=max(1, ask.extend_no),
            estimate=ask.table.vector(grown),
            checkpoint=ask.table.vector(used),
            tokens=tokens,
            ttl_ms=ttl_ms,
        )
        word, nano = self.model.extend(
            rid, max(1, ask.extend_no), grown, used, tokens, ttl_ms, self.now
        )
        if isinstance(answer, Extended):
            assert (word, nano) == ("extended" if answer.grown else "not_grown", answer.held_nano)
        elif isinstance(answer, Settled):
            assert (word, nano) == (answer.outcome, answer.charged_nano)
        else:
            assert word == "unknown_reservation"

    async def settle(self, rid: str) -> None:
        ask = self.asked[rid]
        again = ask.settled is not None and self.dice.random() < 0.8
        if not again:
            tokens = self.dice.randrange(200)
            ask.settled = (self.usage(ask.table, most=self.dice.choice((20, 120, 400))), tokens)
        assert ask.settled is not None
        usage, tokens = ask.settled
        too_old = not ask.reserved_at and self.dice.random() < 0.2
        reserved_at = 1 if too_old else ask.reserved_at or self.now
        word, charged = self.model.settle(
            ask.account.customer_id,
            rid,
            ask.table,
            usage,
            tokens,
            reserved_at,
            self.now,
        )
        try:
            answer = await self.ledger.settle(
                ask.account,
                rid,
                ask.table,
                ask.table.vector(usage),
                ask.facts,
                tokens=tokens,
                reserved_at_ms=reserved_at,
            )
        except TooOld:
            assert word == "too_old"
        else:
            assert (word, charged) == (
                "differs" if answer.differs else answer.outcome,
                answer.charged_nano,
            )

    async def release(self, rid: str) -> None:
        ask = self.asked[rid]
        word, charged = self.model.release(rid, ask.reserved_at, self.now)
        try:
            answer = await self.ledger.release(
                ask.account, rid, ask.facts, reserved_at_ms=ask.reserved_at
            )
        except TooOld:
            assert word == "too_old"
        else:
            assert (word, charged) == (answer.outcome, answer.charged_nano)

    async def expire(self, rid: str) -> None:
        ask = self.asked[rid]
        due = DueReservation(ask.account.shard, rid, ask.account)
        answer = await self.ledger.expire(due)
        word, charged = self.model.expire(rid, self.now)
        if answer is None:
            assert word in ("not_due", "gone")
        else:
            assert (word, charged) == (answer.outcome, answer.charged_nano)

    async def grant(self) -> None:
        dice = self.dice
        op = self.new_id("g") if dice.random() < 0.8 else f"g{dice.randrange(self.number + 1)}"
        effective_at = dice.choice((0, 0, self.now + dice.randrange(90_000)))
        expires_at = dice.choice((0, self.now + dice.randrange(-1000, 200_000)))
        category = dice.choice(CATEGORIES)
        amount, priority, bits = dice.randrange(1, 20_000), dice.randrange(3), dice.randrange(4)
        customer = dice.choice(self.accounts).customer_id
        if op in self.model.ops and dice.random() < 0.7 and self.model.ops[op][0] == "grant":
            customer, terms = self.granted[op]
            amount, category, priority, bits, effective_at, expires_at = terms
        terms = (amount, category, priority, bits, effective_at, expires_at)
        if op in self.granted:
            customer = self.granted[op][0]  # an id is one customer's
        else:
            self.granted[op] = (customer, terms)
        word = self.model.grant(customer, op, terms, self.now)
        try:
            answer = await self.ledger.grant(
                customer,
                op,
                amount,
                category=category,
                priority=priority,
                scope_bits=bits,
                effective_at_ms=effective_at,
                expires_at_ms=expires_at,
            )
            said = "replayed" if answer.replayed else "granted"
        except LedgerRefusal as refused:
            said = refused.word.replace("exists_with_different_parameters", "different")
        assert said == word

    async def adjust(self) -> None:
        op, amount = self.new_id("a"), self.dice.randrange(-3_000, 3_000) or 1
        customer = self.dice.choice(self.accounts).customer_id
        for _ in range(self.dice.choice((1, 1, 2))):
            word = self.model.adjust(customer, op, amount, self.now)
            try:
                answer = await self.ledger.adjust(
                    customer, op, amount, corrects="e", reason="random"
                )
                said = "replayed" if answer.replayed else "adjusted"
            except LedgerRefusal as refused:
                said = refused.word
            assert said == word

    async def allowance(self) -> None:
        dice = self.dice
        customer, name = dice.choice(self.accounts).customer_id, dice.choice(("a", "b"))
        periods: tuple[Window, ...] = ("minute", "hour", "day", "week", "month")
        period = dice.choice(periods)
        terms = (
            period,
            dice.choice(CATEGORIES),
            dice.randrange(3),
            dice.choice((0, 0, 15, 31)),
            dice.choice((0, 0, 1)),
            dice.choice((0, 500, 500, 4_000)),
            dice.choice((0, 300, 10_000)),
        )
        known = self.recurring.get((customer, name))
        if known is not None and dice.random() < 0.2:
            terms = known
        self.recurring[customer, name] = terms
        period, category, priority, day, bits, amount, rollover = terms
        changed = await self.ledger.allowance(
            customer,
            name,
            amount,
            period=period,
            rollover_max_nano=rollover,
            category=category,
            priority=priority,
            scope_bits=bits,
            day=day,
        )
        assert changed == self.model.allowance(customer, name, terms, self.now)

    async def status(self) -> None:
        """Freeze or kill now and then, and thaw soon."""
        at = self.dice.randrange(len(self.accounts))
        account = self.accounts[at]
        customer = account.customer_id
        known = self.model.wallets[customer]
        status = "active"
        if known.status == "active" and self.dice.random() < 0.4:
            status = self.dice.choice(("frozen", "killed"))
        self.accounts[at] = account = replace(account, account_rev=account.account_rev + 1)
        await self.ledger.account(
            customer,
            account_rev=account.account_rev,
            credit_limit_nano=known.credit_limit,
            billing_day=known.billing_day,
            frozen=status == "frozen",
            killed=status == "killed",
        )
        self.model.account(customer, known.credit_limit, self.now, known.billing_day, status)

    async def sweep(self) -> None:
        customer = self.dice.choice(self.accounts).customer_id
        swept = await self.ledger.sweep(customer)
        assert swept.entries == self.model.sweep(customer, self.now)
        assert swept.balance_nano == self.model.wallets[customer].balance(self.now)

    async def step(self) -> str:
        dice = self.dice
        if dice.random() < 0.03:
            self.pace = dice.choice(PACES)
        self.now += dice.choice(self.pace)
        if dice.random() < 0.1:  # to the border of a window or a slot, or a millisecond beside it
            length = dice.choice(BORDERS_MS)
            self.now += length - self.now % length + dice.choice((-1, 0, 1))
        if dice.random() < 0.01:
            self.now += dice.randrange(40 * 86_400_000)
        rid = self.some()
        name = dice.choices(
            (
                "reserve", "again", "extend", "settle", "release", "expire", "grant", "adjust",
                "allowance", "sweep", "status",
            ),
            (30, 4, 14, 24, 6, 14, 7, 3, 2, 3, 3),
        )[0]  # fmt: skip
        operator = {"grant": self.grant, "adjust": self.adjust, "allowance": self.allowance}
        operator |= {"sweep": self.sweep, "status": self.status}
        if name == "reserve" or (rid is None and name not in operator):
            await self.reserve()
        elif name in operator:
            await operator[name]()
        else:
            assert rid is not None
            await getattr(self, {"again": "reserve"}.get(name, name))(rid)
        return name

    # What must hold after every step

    async def check(self) -> None:
        wallets = await self.store.wallets(self.model.wallets)
        for name, expected in self.model.wallets.items():
            wallet = wallets[name]
            assert [
                (g.no, g.category, g.remaining_nano, g.held_nano, g.expires_at_ms)
                for g in wallet.grants
            ] == [(g.no, g.category, g.remaining, g.held, g.expires_at) for g in expected.grants]
            assert (
                wallet.overdraft_nano,
                wallet.held_credit_nano,
                wallet.granted_nano,
                wallet.settled_nano,
                wallet.adjusted_nano,
                wallet.expired_nano,
                wallet.balance_nano(self.now),
                wallet.growth_wanted_until_ms,
                (wallet.frozen, wallet.killed),
            ) == (
                expected.overdraft,
                expected.held_credit,
                expected.granted,
                expected.settled,
                expected.adjusted,
                expected.expired,
                expected.balance(self.now),
                expected.growth_wanted_until,
                (expected.status != "active", expected.status == "killed"),
            )
            assert {
                p.counter_id: (
                    p.start_ms,
                    p.end_ms,
                    p.used,
                    p.held,
                    p.before_start_ms,
                    p.before_used,
                )
                for p in wallet.periods
            } == {
                number: (p.start, p.end, p.used, p.held, p.before_start, p.before_used)
                for number, p in expected.periods.items()
            }
            assert {
                a.allowance_id: (a.amount_nano, a.start_ms, a.end_ms, a.grant_no, a.carry_nano)
                for a in wallet.allowances
            } == {
                number: (a.amount, a.start, a.end, a.grant, a.carry)
                for number, a in expected.allowances.items()
            }
            holds = await self.store.open_holds(name)
            assert {hold.reservation_id for hold in holds} == {
                rid for rid, hold in self.model.holds.items() if hold.customer == name
            }
            scopes = await self.scope_records(name)
            assert wallet_differences(name, wallet, holds, scopes) == []
            counters = {
                (scope, who, counter.counter_id): counter
                for scope, who, counters in [("customer", "", wallet.counters), *scopes]
                for counter in counters
            }
            assert {
                key: (c.window_start_ms, c.slot_ms, (c.used, c.held), *c.slots)
                for key, c in counters.items()
            } == {
                key: (
                    c.window,
                    c.slot,
                    *(
                        tuple(c.slots.get(c.window - back * c.slot, (0, 0)))
                        for back in range(SLOTS + 1 if c.slot else 1)
                    ),
                )
                for key, c in expected.counters.items()
            }

    async def scope_records(self, name: str) -> list[Any]:
        found = []
        shard = self.ledger.keys.shard_of(name)
        account = next(a for a in self.accounts if a.customer_id == name)
        for scope, who, key in zip(
            ("project", "key"), ("team", "k1"), self.ledger.keys.scopes(account, 3), strict=True
        ):
            record = await self.client.get(key)
            if record:
                found.append((scope, who, read_scope(record)))
        assert account.shard == shard
        return found

    async def check_events(self) -> None:
        """One event per transition, in the order of the model's, seq without a gap."""
        written = []
        for shard in range(SHARDS):
            entries = await self.client.xrange(self.ledger.keys.out(shard))
            assert [entry_id for entry_id, _ in entries] == [
                b"1-%d" % seq for seq in range(len(entries))
            ]
            for _, fields in entries:
                kind, event_id, at, amount, _, _, balance, moved, _ = msgpack.unpackb(fields[b"s"])
                if kind == "expire_grant":
                    event_id = event_id.rpartition(":")[0]
                if kind not in ("account", "allowance"):
                    written.append((kind, event_id, amount, balance))
                if kind in ("settle", "expire", "settle_late"):
                    assert sum(moved[1::2]) == amount
                assert at > START_MS - 10**7
        model = [event for event in self.model.events if event[0] not in ("account", "allowance")]
        assert sorted(written) == sorted(model)

    granted: dict[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    recurring: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)


async def wander(client: redis.asyncio.Redis, steps: int, seed: int) -> None:
    """So many random steps, each of them checked."""
    world: World
    ledger = Ledger(RedisRunner(client), shard_count=SHARDS, clock_ms=lambda: world.now)
    store = AccountStore(client, shard_count=SHARDS)
    world = World(ledger, store, client, random.Random(seed))
    await world.setup()
    seen: dict[str, int] = {}
    for step in range(steps):
        name = await world.step()
        seen[name] = seen.get(name, 0) + 1
        try:
            await world.check()
        except AssertionError as error:
            error.add_note(f"after step {step}, {name}, seed {seed}")
            raise
    await world.check_events()
    assert len(seen) == 11, seen
    kinds = {kind for kind, *_ in world.model.events}
    assert kinds == {
        "account", "settle", "release", "expire", "settle_late", "grant", "expire_grant", "adjust",
        "allowance",
    }  # fmt: skip


@pytest.mark.timeout(0)
async def test_random_operations_agree_with_the_model(valkey: redis.asyncio.Redis) -> None:
    await wander(valkey, STEPS, SEED)
