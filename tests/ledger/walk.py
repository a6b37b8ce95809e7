"""What a random walk does: calls drawn by dice, each of the real ledger and of the model.

A call answers alike on both sides. Its ids and numbers are drawn once, so that it can be asked
again with the same arguments (a reply was lost), or at the same time as others.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import msgpack
import redis.asyncio

from gateway.domain.limits import Limit, Window
from gateway.domain.pricing import PriceTable, Rate, Tier, compile_prices, per_unit
from gateway.domain.reservation import Account, Denied, Hold, Settled
from gateway.domain.signals import SignalRules, TopUp, Velocity
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerRefusal, TooOld
from gateway.ledger.client.redis_runner import RedisRunner
from gateway.ledger.codec.operations import CATEGORIES, CATEGORY_NUMBERS, GrantTerms
from gateway.ledger.codec.reservation_records import DueReservation
from tests.ledger.model import Model
from tests.ledger.wallet import Status
from tests.support.loose_ledger import LooseLedger

START_MS = 1_767_225_599_000  # a second before a year, a day and a minute begin
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
TTL_MS = 60_000
SHARDS = 2
Answer = tuple[Any, ...]
TABLES = (
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


W = TypeVar("W", bound="Walk")


@dataclass
class Asked:
    """One reservation as it was asked for, so that it can be asked for again."""

    customer: str
    table: PriceTable
    estimate: dict[str, int]
    floor: dict[str, int]
    tokens: int
    bits: int
    facts: bytes
    model: str | None
    settled: tuple[dict[str, int], int] | None = None
    extend_no: int = 0
    reserved_at: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One operation. `twice`: it may be asked again with the same arguments."""

    name: str
    customer: str
    real: Callable[[], Awaitable[Answer]]
    model: Callable[[], Answer]
    twice: bool = True
    at_once: bool = True
    """Whether others may run at the same time."""


WEIGHTS = {
    "reserve": 30, "again": 4, "extend": 14, "settle": 24, "release": 6, "expire": 14, "grant": 8,
    "adjust": 3, "void": 2, "refund": 4, "allowance": 2, "account": 2, "thaw": 3, "signals": 3,
    "sweep": 4, "note": 2,
}  # fmt: skip
OF_A_LIMIT = ("spend_limit", "rate_limit", "concurrency_limit")
OF_A_RESERVATION = ("again", "extend", "settle", "release", "expire")


@dataclass
class Walk:
    """The ledger as two gates see it, the model, and a clock for all."""

    customers: ClassVar[tuple[str, ...]] = ("plain", "limited", "rolling")
    tables: ClassVar[tuple[PriceTable, ...]] = TABLES
    weights: ClassVar[Mapping[str, int]] = WEIGHTS

    ledgers: list[LooseLedger]
    store: AccountStore
    dice: random.Random
    model: Model = field(default_factory=Model)
    now: int = START_MS
    asked: dict[str, Asked] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    granted: dict[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    recurring: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)
    voids: list[tuple[str, str, int]] = field(default_factory=list)
    refunds: list[tuple[Any, ...]] = field(default_factory=list)
    number: int = 0
    pace: tuple[int, ...] = PACES[0]

    @property
    def ledger(self) -> LooseLedger:
        """One of the gates."""
        return self.dice.choice(self.ledgers)

    async def open(self) -> None:
        """Customers: one with a credit limit, one with limits, one with limits that roll."""
        for customer, limit, day in (("plain", 2_000, 31), ("limited", 0, 1), ("rolling", 0, 1)):
            terms: tuple[int, int, Status, int] = (1, limit, "active", day)
            self.accounts[customer] = Account(
                customer, "k1", self.ledgers[0].keys.shard_of(customer), 1, "team",
                limits={"limited": LIMITS, "rolling": ROLLING}.get(customer, ()),
            )  # fmt: skip
            await self._account(customer, terms).real()
            self.model.account(customer, terms, self.now)

    def later(self) -> None:
        """The clock goes on, stands, or goes back a little."""
        dice = self.dice
        if dice.random() < 0.03:
            self.pace = dice.choice(PACES)
        self.now += dice.choice(self.pace)
        if dice.random() < 0.1:  # to the border of a window or a slot, or a millisecond beside it
            length = dice.choice(BORDERS_MS)
            self.now += length - self.now % length + dice.choice((-1, 0, 1))
        if dice.random() < 0.01:
            self.now += dice.randrange(40 * 86_400_000)

    def draw(self) -> Call:
        """The next call."""
        name = self.dice.choices(list(self.weights), list(self.weights.values()))[0]
        rid = self.some() if name in OF_A_RESERVATION else None
        if rid is not None:
            call: Call = getattr(self, name)(rid)
        else:
            call = getattr(self, "reserve" if name in OF_A_RESERVATION else name)()
        return call

    def some(self) -> str | None:
        """An id that was asked for, more often a recent one that was held."""
        ids = list(self.asked)[-400:]
        held = [rid for rid in ids if self.asked[rid].reserved_at]
        if held and self.dice.random() < 0.85:
            ids = held
        if not ids:
            return None
        return self.dice.choice(ids[-12:] if self.dice.random() < 0.9 else ids)

    # Requests

    def reserve(self) -> Call:
        dice, rid, table = self.dice, self._new_id("r"), self.dice.choice(self.tables)
        customer, estimate = dice.choice(self.customers), self._usage(table)
        self.asked[rid] = Asked(
            customer=customer,
            table=table,
            estimate=estimate,
            floor={unit: q // 3 for unit, q in estimate.items() if q // 3},
            tokens=dice.randrange(150),
            bits=dice.choice((0, 1, 2, 3)),
            facts=msgpack.packb({"customer_id": customer}),
            model=dice.choice(MODELS),
        )
        return self.again(rid)

    def again(self, rid: str) -> Call:
        ask, ledger = self.asked[rid], self.ledger
        account, table = self.accounts[ask.customer], ask.table
        limits = [x for x in account.limits if x.scope != "model" or x.model == ask.model]

        async def real() -> Answer:
            answer = await ledger.reserve(
                account, rid, table, table.vector(ask.estimate), table.vector(ask.floor),
                ask.facts, tokens=ask.tokens, ttl_ms=TTL_MS, scope_bits=ask.bits,
                model=ask.model,
            )  # fmt: skip
            if isinstance(answer, Hold):
                ask.reserved_at = answer.reserved_at_ms
                return "held", answer.held_nano
            assert isinstance(answer, Denied)
            if answer.limit is None:
                return (answer.reason,)
            return answer.reason, answer.limit, answer.limit_left, answer.retry_after_ms

        def model() -> Answer:
            word, held = self.model.reserve(
                ask.customer, rid, table, ask.estimate, ask.floor, ask.tokens, TTL_MS, ask.bits,
                limits, SCOPES, self.now,
            )  # fmt: skip
            if word == "held":
                return word, held
            return (word, *(self.model.refusal or ())) if word in OF_A_LIMIT else (word,)

        return Call("again" if ask.reserved_at else "reserve", ask.customer, real, model)

    def extend(self, rid: str) -> Call:
        ask, ledger, dice = self.asked[rid], self.ledger, self.dice
        ask.extend_no += dice.random() < 0.8
        number = max(1, ask.extend_no)
        grown = {unit: q + dice.randrange(60) for unit, q in ask.estimate.items()}
        used = {unit: q // 2 for unit, q in grown.items() if q // 2}
        tokens = ask.tokens + dice.randrange(40)

        async def real() -> Answer:
            answer = await ledger.extend(
                self.accounts[ask.customer], rid, extend_no=number,
                estimate=ask.table.vector(grown), checkpoint=ask.table.vector(used),
                tokens=tokens, ttl_ms=TTL_MS,
            )  # fmt: skip
            if answer is None:
                return "unknown_reservation", 0
            if isinstance(answer, Settled):
                return answer.outcome, answer.charged_nano
            return "extended" if answer.grown else "not_grown", answer.held_nano

        def model() -> Answer:
            return self.model.extend(rid, number, grown, used, tokens, TTL_MS, self.now)

        return Call("extend", ask.customer, real, model)

    def settle(self, rid: str) -> Call:
        ask, ledger, dice = self.asked[rid], self.ledger, self.dice
        if ask.settled is None or dice.random() < 0.2:
            ask.settled = (self._usage(ask.table, dice.choice((20, 120, 400))), dice.randrange(200))
        usage, tokens = ask.settled
        too_old = not ask.reserved_at and dice.random() < 0.2
        reserved_at = 1 if too_old else ask.reserved_at or self.now

        async def real() -> Answer:
            answer = await ledger.settle(
                self.accounts[ask.customer], rid, ask.table, ask.table.vector(usage), ask.facts,
                tokens=tokens, reserved_at_ms=reserved_at,
            )  # fmt: skip
            return "differs" if answer.differs else answer.outcome, answer.charged_nano

        def model() -> Answer:
            return self.model.settle(
                ask.customer, rid, ask.table, usage, tokens, reserved_at, self.now
            )

        return Call("settle", ask.customer, _worded(real), model)

    def release(self, rid: str) -> Call:
        ask, ledger, reserved_at = self.asked[rid], self.ledger, self.asked[rid].reserved_at

        async def real() -> Answer:
            account = self.accounts[ask.customer]
            answer = await ledger.release(account, rid, ask.facts, reserved_at_ms=reserved_at)
            return answer.outcome, answer.charged_nano

        return Call(
            "release",
            ask.customer,
            _worded(real),
            lambda: self.model.release(rid, reserved_at, self.now),
        )

    def expire(self, rid: str) -> Call:
        account, ledger = self.accounts[self.asked[rid].customer], self.ledger

        async def real() -> Answer:
            answer = await ledger.expire(DueReservation(account.shard, rid, account))
            return (answer.outcome, answer.charged_nano) if answer else ("none", 0)

        def model() -> Answer:
            word, charged = self.model.expire(rid, self.now)
            return ("none", 0) if word in ("not_due", "gone") else (word, charged)

        return Call("expire", account.customer_id, real, model)

    # What an operator does

    def grant(self) -> Call:
        dice, ledger = self.dice, self.ledger
        op = self._new_id("g") if dice.random() < 0.8 else f"g{dice.randrange(self.number + 1)}"
        terms = (
            dice.randrange(1, dice.choice((20_000, 20_000, 400_000))),
            dice.choice(CATEGORIES),
            dice.randrange(3),
            dice.randrange(4),
            dice.choice((0, 0, self.now + dice.randrange(90_000))),
            dice.choice((0, self.now + dice.choice((1, 40)) * dice.randrange(-1000, 200_000))),
        )
        customer, known = self.granted.setdefault(op, (dice.choice(self.customers), terms))
        if dice.random() < 0.7:
            terms = known
        amount, category, priority, bits, effective_at, expires_at = terms

        async def real() -> Answer:
            answer = await ledger.grant(
                customer, op, amount, category=category, priority=priority, scope_bits=bits,
                effective_at_ms=effective_at, expires_at_ms=expires_at,
            )  # fmt: skip
            return ("replayed" if answer.replayed else "granted"), 0

        return Call(
            "grant",
            customer,
            _worded(real),
            lambda: (self.model.grant(customer, op, terms, self.now), 0),
        )

    def adjust(self) -> Call:
        op, amount = self._new_id("a"), self.dice.randrange(-3_000, 3_000) or 1
        customer, ledger = self.dice.choice(self.customers), self.ledger

        async def real() -> Answer:
            answer = await ledger.adjust(customer, op, amount, corrects="e", reason="random")
            return ("replayed" if answer.replayed else "adjusted"), 0

        return Call(
            "adjust",
            customer,
            _worded(real),
            lambda: (self.model.adjust(customer, op, amount, self.now), 0),
        )

    def void(self) -> Call:
        dice, ledger, customer = self.dice, self.ledger, self.dice.choice(self.customers)
        wallet = self.model.wallets[customer]
        living = [grant.no for grant in wallet.grants if grant.remaining > grant.held]
        no = dice.choice(living) if living and dice.random() < 0.8 else dice.randrange(1, 99)
        if self.voids and dice.random() < 0.1:
            customer, op, known = dice.choice(self.voids)
            no = known if dice.random() < 0.7 else no
        else:
            op = self._new_id("v")
            self.voids.append((customer, op, no))

        async def real() -> Answer:
            answer = await ledger.void(customer, op, no, reason="random")
            return "replayed" if answer.replayed else "voided", answer.voided_nano

        return Call(
            "void", customer, _worded(real), lambda: self.model.void(customer, op, no, self.now)
        )

    def refund(self) -> Call:
        dice, ledger = self.dice, self.ledger
        charges = [name for name, charge in self.model.charges.items() if charge.net][-40:]
        if not charges:
            return self.grant()
        event = dice.choice(charges)
        net, terms = self.model.charges[event].net, dict[int, Any]()
        wallet = self.model.wallets[self.model.charges[event].customer]
        for no, _ in self.model.charges[event].paid:
            if no in wallet.terms and dice.random() < 0.8:
                terms[no] = wallet.terms[no]
        amount = dice.choice((net, 1, dice.randrange(1, net + 1), dice.randrange(1, net + 9)))
        op = self._new_id("f")
        if self.refunds and dice.random() < 0.15:
            op, event, amount, terms = dice.choice(self.refunds)
            amount += dice.random() < 0.2
        else:
            self.refunds = [*self.refunds[-40:], (op, event, amount, terms)]
        charge = self.model.charges[event]

        async def real() -> Answer:
            answer = await ledger.refund(
                charge.customer, op, event, amount, charged_nano=charge.net,
                allocations=charge.paid, reason="random",
                terms={no: GrantTerms(CATEGORY_NUMBERS[t[0]], *t[1:]) for no, t in terms.items()},
            )  # fmt: skip
            return "replayed" if answer.replayed else "refunded", answer.left_nano

        return Call(
            "refund",
            charge.customer,
            _worded(real),
            lambda: self.model.refund(op, event, amount, terms, self.now),
        )

    def allowance(self) -> Call:
        dice, ledger = self.dice, self.ledger
        customer, name = dice.choice(self.customers), dice.choice(("a", "b"))
        periods: tuple[Window, ...] = ("minute", "hour", "day", "week", "month")
        terms = (
            dice.choice(periods),
            dice.choice(CATEGORIES),
            dice.randrange(3),
            dice.choice((0, 0, 15, 31)),
            dice.choice((0, 0, 1)),
            dice.choice((0, 500, 500, 4_000)),
            dice.choice((0, 300, 10_000)),
        )
        if (customer, name) in self.recurring and dice.random() < 0.2:
            terms = self.recurring[customer, name]
        self.recurring[customer, name] = terms
        period, category, priority, day, bits, amount, rollover = terms

        async def real() -> Answer:
            changed = await ledger.allowance(
                customer, name, amount, period=period, rollover_max_nano=rollover,
                category=category, priority=priority, scope_bits=bits, day=day,
            )  # fmt: skip
            return (changed,)

        return Call(
            "allowance",
            customer,
            real,
            lambda: (self.model.allowance(customer, name, terms, self.now),),
        )

    def account(self) -> Call:
        dice, customer = self.dice, self.dice.choice(self.customers)
        rev = self.model.wallets[customer].rev + dice.choice((0, 1, 1, 1, 1, -1))
        limit = dice.choice((0, 0, 500, 2_000))
        status: Status = "active"
        if dice.random() < 0.2:
            status = dice.choice(("frozen", "killed"))
        return self._account(customer, (rev, limit, status, dice.choice((1, 15, 31))))

    def thaw(self) -> Call:
        """An operator looks at a frozen wallet; at one that is not, raises its revision."""
        customer = self.dice.choice(self.customers)
        wallet = self.model.wallets[customer]
        if wallet.status != "active":
            rev, limit = wallet.rev + 1, wallet.credit_limit
            return self._account(customer, (rev, limit, "active", wallet.billing_day))
        return self._account(customer, None)

    def signals(self) -> Call:
        dice, ledger, customer = self.dice, self.ledger, self.dice.choice(self.customers)
        levels = (-500, 100, 900, 1_000, 2_500, 5_000, 9_000, 20_000, 60_000)[1:]
        rules = SignalRules(
            low_balance_nano=tuple(sorted(dice.sample(levels, dice.choice((0, 1, 3, 8))))),
            exhausted=dice.random() < 0.7,
            expiring_before_ms=dice.choice((0, 600_000, 3_600_000, 3_600_000)),
            topup=dice.choice((
                None,
                TopUp(2_000, 10_000, 30_000, 3, 900_000),
                TopUp(9_000, 500, 3_600_000, 1, 600_000),
                TopUp(40_000, 1, 0, 5, 86_400_000),
            )),
            velocity=dice.choice((
                None,
                Velocity(2_000, 100, dice.choice((0, 1, 3)), freeze=False),
                Velocity(1_500, 4_000, 6, freeze=True),
            )),
        )  # fmt: skip
        if dice.random() < 0.1:
            rules = SignalRules()

        async def real() -> Answer:
            return (await ledger.signals(customer, rules),)

        return Call(
            "signals", customer, real, lambda: (self.model.signals(customer, rules, self.now),)
        )

    def sweep(self) -> Call:
        customer, ledger = self.dice.choice(self.customers), self.ledger
        due = False

        async def real() -> Answer:
            nonlocal due
            due = self.now >= (await self.store.wallets.read([customer]))[customer].sweep_at_ms
            swept = await ledger.sweep(customer)
            return swept.entries, swept.balance_nano

        def model() -> Answer:
            entries = self.model.sweep(customer, due, self.now)
            return entries, self.model.wallets[customer].balance(self.now)

        return Call("sweep", customer, real, model, at_once=False)

    def note(self) -> Call:
        """Of a change that moves nothing; now and then once more."""
        customer, ledger = self.dice.choice(self.customers), self.ledger
        if self.dice.random() < 0.7:
            self.number += 1
        op = f"n{self.number}:{customer}"

        async def real() -> Answer:
            return (await ledger.note(op, {"action": "random"}, customer),)

        return Call("note", customer, real, lambda: (self.model.note(customer, op),))

    # Parts

    def _account(self, customer: str, terms: tuple[int, int, Status, int] | None) -> Call:
        ledger = self.ledger

        async def real() -> Answer:
            if terms is None:
                state = await ledger.bump(customer)
            else:
                rev, limit, status, day = terms
                state = await ledger.account(
                    customer, account_rev=rev, credit_limit_nano=limit, billing_day=day,
                    frozen=status == "frozen", killed=status == "killed",
                )  # fmt: skip
            return "updated" if state.changed else "unchanged", state.account_rev

        async def known() -> Answer:
            answer = await _worded(real)()
            rev = (await self.store.wallets.read([customer]))[customer].account_rev
            self.accounts[customer] = _at_revision(self.accounts[customer], rev)
            return answer[0], 0

        def model() -> Answer:
            return self.model.account(customer, terms, self.now)[0], 0

        return Call("account", customer, known, model, twice=terms is not None, at_once=False)

    def _new_id(self, kind: str) -> str:
        self.number += 1
        return f"{kind}{self.number}"

    def _usage(self, table: PriceTable, most: int = 120) -> dict[str, int]:
        """Random quantities of what the table prices; zero is left out."""
        quantities = {unit: self.dice.randrange(most) for unit in table.units if unit != "request"}
        if "request" in table.units:
            quantities["request"] = 1
        return {unit: quantity for unit, quantity in quantities.items() if quantity}


def _at_revision(account: Account, rev: int) -> Account:
    return account if account.account_rev == rev else replace(account, account_rev=rev)


def _worded(real: Callable[[], Awaitable[Answer]]) -> Callable[[], Awaitable[Answer]]:
    """With refusals as answers."""

    async def answer() -> Answer:
        try:
            return await real()
        except TooOld:
            return "too_old", 0
        except LedgerRefusal as refused:
            return refused.word.replace("exists_with_different_parameters", "different"), 0

    return answer


def two_gates(kind: type[W], client: redis.asyncio.Redis, seed: int) -> W:
    """A walk of that kind through two gates, which do not know of each other."""
    walk: W
    ledgers = [
        LooseLedger(RedisRunner(client), shard_count=SHARDS, clock_ms=lambda: walk.now)
        for _ in range(2)
    ]
    walk = kind(ledgers, AccountStore(client, shard_count=SHARDS), random.Random(seed))
    return walk
