"""The ledger in exact integers and fractions: the only second implementation of its rules.

Small and slow on purpose. It follows the prose of `lua/README.md`, not the scripts: lists of
grants, dictionaries of holds, a list of events. `test_oracle.py` compares the two at every step.
"""

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.domain.limits import SLOTS, Limit, window_borders_ms
from gateway.domain.pricing import PriceTable
from tests.ledger import rating
from tests.ledger.rating import Mark, Periods, Row, rows_of

RANK = {"promotional": 0, "allowance": 1, "adjustment": 2, "paid": 3}
FOREVER = 1 << 60
SETTLE_MAX_AGE_MS = 3_300_000
GROWTH_MARK_MS = 500
DEAD_AFTER_MS = 33 * 86_400_000


Told = list[tuple[str, str, int, int]]
"""Entries of the outbox: kind, id, amount, balance."""


@dataclass(slots=True)
class ModelGrant:
    no: int
    category: str
    priority: int
    bits: int
    remaining: int
    effective_at: int
    expires_at: int
    held: int = 0

    def eligible(self, now: int, bits: int) -> bool:
        return self.active(now) and (not self.bits or bool(self.bits & bits))

    def active(self, now: int) -> bool:
        return self.effective_at <= now and not 0 < self.expires_at <= now

    def burns(self) -> tuple[int, int, int, int, int]:
        rank = RANK[self.category]
        return (self.priority, self.expires_at or FOREVER, rank, self.effective_at, self.no)


@dataclass(slots=True)
class ModelCounter:
    """What is used and held in each slot that counts; a calendar window is a single one."""

    window: int
    slot: int = 0
    slots: dict[int, list[int]] = field(default_factory=dict)

    @property
    def used(self) -> int:
        return sum(used for used, _ in self.slots.values())

    @property
    def held(self) -> int:
        return sum(held for _, held in self.slots.values())

    def counts(self, window: int) -> bool:
        return self.window - SLOTS * self.slot <= window <= self.window

    def move(self, window: int) -> None:
        self.window = max(window, self.window)
        self.slots = {start: slot for start, slot in self.slots.items() if self.counts(start)}

    def add(self, window: int, used: int, held: int) -> None:
        if self.counts(window):
            slot = self.slots.setdefault(window, [0, 0])
            slot[0] += used
            slot[1] += held

    def wait(self, limit: Limit, adds: int, ends: int, now: int) -> int:
        """Until it has room for so much, if nobody held anything."""
        if adds > limit.ceiling:
            return FOREVER
        if self.used + adds <= limit.ceiling:
            return 0
        if not self.slot:
            return FOREVER if "total" in (limit.window, _window(limit)) else ends - now
        for oldest in sorted(self.slots):
            later = sum(used for start, (used, _) in self.slots.items() if start > oldest)
            if later + adds <= limit.ceiling:
                return oldest + (SLOTS + 1) * self.slot - now
        raise AssertionError("nothing used is room enough")


def _window(limit: Limit) -> Any:
    return "total" if limit.measure == "concurrent" else limit.window


def _record(limit: Limit) -> str:
    """The scope in whose record a limit counts."""
    return "customer" if limit.scope == "model" else limit.scope


@dataclass(slots=True)
class ModelHold:
    customer: str
    held: int
    parts: dict[int, int]
    bits: int
    estimate: dict[str, int]
    checkpoint: dict[str, int]
    rows: list[Row]
    deadline: int
    tokens: int
    counted: list[tuple[Limit, int, int]]  # limit, window, held
    scopes: Mapping[str, str]
    marks: list[Mark]
    extend_no: int = 0

    def kept(self) -> list[tuple[int, int, int, int]]:
        """What it keeps in the counters of its periods."""
        counting = [row for row in self.rows if row.counter is not None]
        return [
            (row.counter or 0, start, 0, self.estimate.get(row.unit, 0))
            for row, (start, _) in zip(counting, self.marks, strict=True)
        ]


@dataclass(slots=True)
class ModelEnded:
    outcome: str
    charged: int
    usage: dict[str, int]
    paid: list[tuple[int, int]] = field(default_factory=list)
    counted: list[tuple[Limit, int, int]] = field(default_factory=list)
    held: int = 0
    marks: list[Mark] = field(default_factory=list)
    credited: int = 0


@dataclass(slots=True)
class ModelAllowance:
    period: str
    category: str
    priority: int
    day: int
    bits: int
    amount: int
    rollover: int
    start: int = 0
    end: int = 0
    grant: int = 0
    carry: int = 0


class ModelWallet:
    """One customer's wallet."""

    def __init__(self, credit_limit: int, billing_day: int) -> None:
        self.credit_limit = credit_limit
        self.billing_day = billing_day
        self.status = "active"
        self.growth_wanted_until = 0
        self.periods: Periods = {}
        self.allowances: dict[int, ModelAllowance] = {}
        self.expired = 0
        self.grants: list[ModelGrant] = []
        self.next_no = 1
        self.overdraft = self.held_credit = 0
        self.granted = self.settled = self.adjusted = 0
        self.counters: dict[tuple[str, str, int], ModelCounter] = {}

    def balance(self, now: int) -> int:
        return sum(g.remaining for g in self.grants if g.active(now)) - self.overdraft

    def available(self, now: int, bits: int) -> int:
        free = sum(g.remaining - g.held for g in self.grants if g.eligible(now, bits))
        return free - self.overdraft - self.held_credit + self.credit_limit

    def payable(self, now: int, bits: int) -> int:
        return (
            sum(g.remaining for g in self.grants if g.eligible(now, bits))
            - self.overdraft
            + self.credit_limit
        )

    def grant_named(self, no: int) -> ModelGrant | None:
        return next((g for g in self.grants if g.no == no), None)

    def add(self, grant: ModelGrant) -> None:
        self.grants.append(grant)
        self.grants.sort(key=ModelGrant.burns)

    def new_no(self) -> int:
        self.next_no += 1
        return self.next_no - 1

    def drop_exhausted(self) -> None:
        self.grants = [g for g in self.grants if g.remaining or g.held]

    def credit(self, grant: ModelGrant, amount: int, now: int) -> None:
        """A grant of that amount; it repays the overdraft first if it can."""
        repaid = min(self.overdraft, amount) if not grant.bits and grant.effective_at <= now else 0
        self.overdraft -= repaid
        self.granted += amount
        if amount > repaid:
            grant.remaining = amount - repaid
            self.add(grant)

    def catch_up(self, customer: str, now: int) -> Told:
        """What time has done: grants have expired, allowances open."""
        told: Told = []
        for grant in self.grants:
            left = grant.remaining - grant.held
            if left and 0 < grant.expires_at <= now:
                grant.remaining = grant.held
                self.expired += left
                for allowance in self.allowances.values():
                    if allowance.grant == grant.no:
                        allowance.carry += left
                told.append(
                    ("expire_grant", f"expire_grant:{customer}:{grant.no}", left, self.balance(now))
                )
        for number, allowance in self.allowances.items():
            if now < allowance.end:
                continue
            self.drop_exhausted()
            if len(self.grants) >= 64:
                continue
            day = allowance.day or self.billing_day
            allowance.start, allowance.end = rating.period(allowance.period, now, day)
            amount = allowance.amount + min(allowance.carry, allowance.rollover)
            allowance.carry, allowance.grant = 0, self.new_no()
            self.credit(
                ModelGrant(
                    allowance.grant,
                    allowance.category,
                    allowance.priority,
                    allowance.bits,
                    0,
                    allowance.start,
                    allowance.end,
                ),
                amount,
                now,
            )
            event_id = f"allowance:{customer}:{number}:{allowance.start}"
            told.append(("grant", event_id, amount, self.balance(now)))
        return told

    def free_parts(self, amount: int, now: int, bits: int) -> list[tuple[int, int]]:
        """Unheld eligible remainder in burn order, the rest as grant 0."""
        parts = []
        for grant in self.grants:
            part = min(amount, grant.remaining - grant.held)
            if part > 0 and grant.eligible(now, bits):
                parts.append((grant.no, part))
                amount -= part
        return [*parts, (0, amount)] if amount else parts

    def hold(self, amount: int, now: int, bits: int, parts: dict[int, int]) -> None:
        for no, part in self.free_parts(amount, now, bits):
            parts[no] = parts.get(no, 0) + part
            grant = self.grant_named(no)
            if grant is None:
                self.held_credit += part
            else:
                grant.held += part

    def unhold(self, parts: Mapping[int, int]) -> None:
        for no, part in parts.items():
            grant = self.grant_named(no)
            if grant is None:
                self.held_credit -= part
            else:
                grant.held -= part

    def take(self, amount: int, now: int, bits: int) -> list[tuple[int, int]]:
        parts = self.free_parts(amount, now, bits)
        for no, part in parts:
            grant = self.grant_named(no)
            if grant is None:
                self.overdraft += part
            else:
                grant.remaining -= part
        return parts


class Model:
    """All wallets, holds and events. Methods answer the words of the scripts."""

    def __init__(self) -> None:
        self.wallets: dict[str, ModelWallet] = {}
        self.holds: dict[str, ModelHold] = {}
        self.ended: dict[str, ModelEnded] = {}
        self.ops: dict[str, tuple[Any, ...]] = {}
        self.events: list[tuple[str, str, int, int]] = []  # kind, id, amount, balance
        self.refusal: tuple[Limit, int, int | None] | None = None
        """The limit that refused last, what was left in it, and for how long it will refuse."""

    def begin(self, customer: str, now: int) -> tuple[ModelWallet, Told]:
        """A wallet to change and to keep if the operation is done, after what time has done."""
        wallet = copy.deepcopy(self.wallets[customer])
        return wallet, wallet.catch_up(customer, now)

    def keep(self, customer: str, wallet: ModelWallet, told: Told) -> None:
        self.wallets[customer] = wallet
        self.events += told

    def account(
        self,
        customer: str,
        credit_limit: int,
        now: int,
        billing_day: int,
        status: str = "active",
    ) -> None:
        if customer not in self.wallets:
            self.wallets[customer] = ModelWallet(credit_limit, billing_day)
        wallet, told = self.begin(customer, now)
        wallet.credit_limit, wallet.status = credit_limit, status
        self.keep(customer, wallet, told)
        self.events.append(("account", "", 0, wallet.balance(now)))

    def grant(self, customer: str, op: str, terms: tuple[Any, ...], now: int) -> str:
        if op in self.ops:
            return "replayed" if self.ops[op] == ("grant", terms) else "different"
        amount, category, priority, bits, effective_at, expires_at = terms
        effective_at = effective_at or now
        if 0 < expires_at <= max(now, effective_at):
            return "already_expired"
        wallet, told = self.begin(customer, now)
        wallet.drop_exhausted()
        if len(wallet.grants) >= 64:
            return "too_many_grants"
        wallet.credit(
            ModelGrant(wallet.new_no(), category, priority, bits, 0, effective_at, expires_at),
            amount,
            now,
        )
        self.ops[op] = ("grant", terms)
        self.keep(customer, wallet, [*told, ("grant", op, amount, wallet.balance(now))])
        return "granted"

    def allowance(self, customer: str, name: str, terms: tuple[Any, ...], now: int) -> bool:
        wallet, told = self.begin(customer, now)
        number = zlib.crc32(name.encode())
        allowance = ModelAllowance(*terms)
        known = wallet.allowances.get(number)
        if known is not None:
            same = (known.period, known.category, known.priority, known.day, known.bits)
            if (*same, known.amount, known.rollover) == terms:
                return False
            allowance.start, allowance.end = known.start, known.end
            allowance.grant, allowance.carry = known.grant, known.carry
        if allowance.amount:
            wallet.allowances[number] = allowance
        elif known is None:
            return False
        else:
            del wallet.allowances[number]
        told.append(("allowance", "", 0, wallet.balance(now)))
        self.keep(customer, wallet, told + wallet.catch_up(customer, now))
        return True

    def sweep(self, customer: str, now: int) -> int:
        wallet, told = self.begin(customer, now)
        self.keep(customer, wallet, told)
        return len(told)

    def adjust(self, customer: str, op: str, amount: int, now: int) -> str:
        if op in self.ops:
            return "replayed" if self.ops[op] == ("adjust", amount) else "different"
        wallet, told = self.begin(customer, now)
        if amount < 0:
            wallet.take(-amount, now, 0xFFFFFFFF)
        else:
            wallet.drop_exhausted()
            if len(wallet.grants) >= 64 and amount > wallet.overdraft:
                return "too_many_grants"
            self._credit(wallet, amount, now, priority=100)
        wallet.adjusted += amount
        self.ops[op] = ("adjust", amount)
        self.keep(customer, wallet, [*told, ("adjust", op, amount, wallet.balance(now))])
        return "adjusted"

    def reserve(
        self,
        customer: str,
        rid: str,
        table: PriceTable,
        estimate: dict[str, int],
        checkpoint: dict[str, int],
        tokens: int,
        ttl: int,
        bits: int,
        limits: Sequence[Limit],
        scopes: Mapping[str, str],
        now: int,
    ) -> tuple[str, int]:
        if rid in self.ended:
            return "already_ended", 0
        if rid in self.holds:
            return "held", self.holds[rid].held
        wallet, told = self.begin(customer, now)
        rows = rows_of(table)
        rated = rating.estimate(rows, estimate, wallet.periods, None, now, wallet.billing_day)
        amount = rated.charge_nano
        refused = None
        longest = -1
        staged = []
        for limit in limits:
            counter, ends = self._counter(wallet, limit, scopes, now)
            adds = {"spend": amount, "tokens": tokens}.get(limit.measure, 1)
            left = limit.ceiling - counter.used - counter.held
            if adds > left and counter.wait(limit, adds, ends, now) > longest:
                longest = counter.wait(limit, adds, ends, now)
                refused = {
                    "spend": "spend_limit",
                    "concurrent": "concurrency_limit",
                }.get(limit.measure, "rate_limit")
                wait = None if longest == FOREVER else longest
                self.refusal = (limit, max(0, left), wait)
            staged.append((limit, counter.window, adds))
        if wallet.status != "active":
            return "wallet_frozen", amount
        if amount and amount > wallet.payable(now, bits):
            return "insufficient_credits", amount
        if refused:
            return refused, amount
        stands_back = 0 < wallet.growth_wanted_until - now <= GROWTH_MARK_MS
        if amount and (amount > wallet.available(now, bits) or stands_back):
            return "credit_held", amount
        parts: dict[int, int] = {}
        wallet.hold(amount, now, bits, parts)
        for limit, window, adds in staged:
            counter, _ = self._counter(wallet, limit, scopes, now, roll=True)
            counter.add(window, 0, adds)
        self.holds[rid] = ModelHold(
            customer,
            amount,
            parts,
            bits,
            estimate,
            checkpoint,
            rows,
            now + ttl,
            tokens,
            staged,
            scopes,
            rated.marks,
        )
        rating.move(wallet.periods, rated.moves)
        self.keep(customer, wallet, told)
        return "held", amount

    def extend(
        self,
        rid: str,
        extend_no: int,
        estimate: dict[str, int],
        checkpoint: dict[str, int],
        tokens: int,
        ttl: int,
        now: int,
    ) -> tuple[str, int]:
        if rid in self.ended:
            return self.ended[rid].outcome, self.ended[rid].charged
        hold = self.holds.get(rid)
        if hold is None:
            return "unknown_reservation", 0
        wallet, told = self.begin(hold.customer, now)
        rating.move(wallet.periods, hold.kept(), -1)
        rated = rating.estimate(hold.rows, estimate, wallet.periods, hold.marks, now, 0)
        total = rated.charge_nano
        if extend_no <= hold.extend_no:
            return ("not_grown" if total > hold.held else "extended"), hold.held
        growth, more = max(0, total - hold.held), max(0, tokens - hold.tokens)
        refused = growth > 0 and growth > wallet.available(now, hold.bits)
        held_by_others = refused and growth <= wallet.payable(now, hold.bits) - hold.held
        if wallet.status == "killed" or (growth and wallet.status == "frozen"):
            refused, held_by_others = True, False
        live = []
        for limit, window, _ in hold.counted:
            adds = {"spend": growth, "tokens": more}.get(limit.measure, 0)
            counter = self._known(wallet, limit, hold.scopes)
            if not counter.counts(window):
                adds = 0
            if adds and counter.used + counter.held + adds > limit.ceiling:
                refused = True
            live.append((counter, adds))
        hold.deadline, hold.extend_no, hold.checkpoint = now + ttl, extend_no, checkpoint
        if held_by_others:
            self.wallets[hold.customer].growth_wanted_until = now + GROWTH_MARK_MS
        if refused:
            return "not_grown", hold.held
        if growth or more:
            wallet.hold(growth, now, hold.bits, hold.parts)
            hold.held += growth
            hold.tokens += more
            hold.estimate = estimate
            for at, (counter, adds) in enumerate(live):
                limit, window, held = hold.counted[at]
                counter.add(window, 0, adds)
                hold.counted[at] = (limit, window, held + adds)
            rating.move(wallet.periods, hold.kept())
            self.keep(hold.customer, wallet, told)
        return "extended", hold.held

    def settle(
        self,
        customer: str,
        rid: str,
        table: PriceTable,
        usage: dict[str, int],
        tokens: int,
        reserved_at: int,
        now: int,
    ) -> tuple[str, int]:
        rows = rows_of(table)
        if rid in self.holds:
            return "settled", self._end(rid, "settled", "settle", usage, 1, tokens, now)
        wallet, told = self.begin(customer, now)
        ended = self.ended.get(rid)
        if ended is None:
            if now - reserved_at > SETTLE_MAX_AGE_MS:
                return "too_old", 0
            marks = [
                (rating.opened(wallet.periods, row, reserved_at, wallet.billing_day).start, 0)
                for row in rows
                if row.counter is not None
            ]
            rated = rating.charge(rows, usage, wallet.periods, marks)
            rating.move(wallet.periods, rated.moves)
            charge = max(0, rated.charge_nano)
            wallet.take(charge, now, 0)
            wallet.settled += charge
            self.ended[rid] = ModelEnded("settled", charge, usage)
            told.append(("settle", f"{rid}:settled", charge, wallet.balance(now)))
            self._reprice(wallet, rid, rated.charge_nano, now, told)
            self.keep(customer, wallet, told + wallet.catch_up(customer, now))
            return "settled", charge
        if ended.outcome != "expired":
            if ended.outcome != "released" and ended.usage != usage:
                return "differs", ended.charged
            return ended.outcome, ended.charged
        rated = rating.charge(rows, usage, wallet.periods, ended.marks, ended.usage)
        rating.move(wallet.periods, rated.moves)
        whole = rated.charge_nano + ended.credited
        charge = max(0, whole)
        more = charge - ended.charged
        for limit, window, counted in ended.counted:
            used = {"spend": charge, "tokens": tokens}.get(limit.measure)
            if used is not None:
                self._known(wallet, limit, _SCOPES).add(window, used - counted, 0)
        if more >= 0:
            wallet.take(more, now, 0)
        else:
            self._give_back(wallet, -more, ended.paid, now)
        wallet.settled += more
        self.ended[rid] = ModelEnded("settled_late", charge, usage)
        told.append(("settle_late", f"{rid}:settled_late", more, wallet.balance(now)))
        self._reprice(wallet, rid, whole, now, told, "repriced_late")
        self.keep(customer, wallet, told + wallet.catch_up(customer, now))
        return "settled_late", charge

    def release(self, rid: str, reserved_at: int, now: int) -> tuple[str, int]:
        if rid in self.holds:
            self._end(rid, "released", "release", {}, 0, 0, now)
            return "released", 0
        ended = self.ended.get(rid)
        if ended is not None:
            return ended.outcome, ended.charged
        if 0 < reserved_at < now - SETTLE_MAX_AGE_MS:
            return "too_old", 0
        self.ended[rid] = ModelEnded("released", 0, {})
        return "released", 0

    def expire(self, rid: str, now: int) -> tuple[str, int]:
        hold = self.holds.get(rid)
        if hold is None:
            ended = self.ended.get(rid)
            return (ended.outcome, ended.charged) if ended else ("gone", 0)
        if now < hold.deadline:
            return "not_due", 0
        usage = hold.checkpoint
        tokens = sum(
            quantity for unit, quantity in usage.items() if unit not in ("request", "tool_call")
        )
        return "expired", self._end(rid, "expired", "expire", usage, 1, tokens, now)

    def _end(
        self,
        rid: str,
        outcome: str,
        kind: str,
        usage: dict[str, int],
        requests: int,
        tokens: int,
        now: int,
    ) -> int:
        hold = self.holds.pop(rid)
        wallet, told = self.begin(hold.customer, now)
        rating.move(wallet.periods, hold.kept(), -1)
        marks: list[Mark] = []
        whole = charge = 0
        if outcome != "released":
            rated = rating.charge(hold.rows, usage, wallet.periods, hold.marks)
            rating.move(wallet.periods, rated.moves)
            whole, marks = rated.charge_nano, rated.marks
            charge = max(0, whole)
        counted = []
        for limit, window, held in hold.counted:
            used = {"spend": charge, "requests": requests, "tokens": tokens}.get(limit.measure, 0)
            self._known(wallet, limit, hold.scopes).add(window, used, -held)
            counted.append((limit, window, used))
        wallet.unhold(hold.parts)
        left, paid = charge, []
        for no, part in hold.parts.items():
            grant = wallet.grant_named(no)
            part = min(part, left)
            if grant is not None and part:
                grant.remaining -= part
                paid.append((no, part))
                left -= part
        for no, part in wallet.take(left, now, hold.bits):
            known = next((at for at, (other, _) in enumerate(paid) if other == no), None)
            if known is None:
                paid.append((no, part))
            else:
                paid[known] = (no, paid[known][1] + part)
        wallet.settled += charge
        self.ended[rid] = ModelEnded(
            outcome, charge, usage, paid, counted, hold.held, marks, max(0, -whole)
        )
        told.append((kind, f"{rid}:{outcome}", charge, wallet.balance(now)))
        self._reprice(wallet, rid, whole, now, told)
        self.keep(hold.customer, wallet, told + wallet.catch_up(hold.customer, now))
        return charge

    def _reprice(
        self, wallet: ModelWallet, rid: str, charge: int, now: int, told: Told,
        name: str = "repriced",
    ) -> None:  # fmt: skip
        """What a step of a volume tier gives back."""
        if charge < 0:
            self._credit(wallet, -charge, now, priority=255)
            wallet.adjusted -= charge
            told.append(("adjust", f"{rid}:{name}", -charge, wallet.balance(now)))

    def _credit(self, wallet: ModelWallet, amount: int, now: int, *, priority: int) -> None:
        repaid = min(wallet.overdraft, amount)
        wallet.overdraft -= repaid
        if amount > repaid:
            no = wallet.new_no()
            wallet.add(ModelGrant(no, "adjustment", priority, 0, amount - repaid, now, 0))

    def _give_back(
        self, wallet: ModelWallet, amount: int, paid: Sequence[tuple[int, int]], now: int
    ) -> None:
        repaid = min(wallet.overdraft, amount)
        wallet.overdraft -= repaid
        amount -= repaid
        for no, part in reversed(paid):
            grant = wallet.grant_named(no)
            if grant is not None:
                grant.remaining += min(part, amount)
                amount -= min(part, amount)
        if amount:
            self._credit(wallet, amount, now, priority=255)

    def _counter(
        self,
        wallet: ModelWallet,
        limit: Limit,
        scopes: Mapping[str, str],
        now: int,
        *,
        roll: bool = False,
    ) -> tuple[ModelCounter, int]:
        """The counter as it stands in the window of `now`, and when that ends. A counter from a
        later window stays; `roll` makes the change last."""
        if limit.rolling:
            start, ends = now - now % limit.slot_ms, 0
        else:
            _, start, ends, _ = window_borders_ms(_window(limit), now)
        who = _record(limit), scopes[_record(limit)]
        key = (*who, limit.counter_id)
        counter = wallet.counters.get(key)
        if roll and counter is None:
            wallet.counters = {
                other: known
                for other, known in wallet.counters.items()
                if other[:2] != who or not 0 < known.window < now - DEAD_AFTER_MS
            }
        if counter is None:
            counter = ModelCounter(start, limit.slot_ms if limit.rolling else 0)
        elif not roll:
            counter = copy.deepcopy(counter)
        counter.move(start)
        if roll:
            wallet.counters[key] = counter
        return counter, ends + counter.window - start

    def _known(self, wallet: ModelWallet, limit: Limit, scopes: Mapping[str, str]) -> ModelCounter:
        """The counter of a hold's limit; one that nobody keeps where it is gone."""
        key = (_record(limit), scopes[_record(limit)], limit.counter_id)
        return wallet.counters.get(key) or ModelCounter(-1)


_SCOPES = {"customer": "", "project": "team", "key": "k1"}
