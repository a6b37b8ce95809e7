"""The ledger in exact integers and fractions: the only second implementation of its rules.

Small and slow on purpose. It follows the prose of `lua/README.md`, not the scripts: lists of
grants, dictionaries of holds, a list of events. `test_oracle.py` compares the two at every step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

from gateway.domain.limits import Limit, window_borders_ms

RANK = {"promotional": 0, "allowance": 1, "adjustment": 2, "paid": 3}
FOREVER = 1 << 60
SETTLE_MAX_AGE_MS = 3_300_000


def charge_nano(rates_pico: Mapping[str, int], usage: Mapping[str, int]) -> int:
    """What usage costs: exact, rounded up once."""
    return ceil(
        sum(Fraction(rates_pico[unit] * quantity, 1000) for unit, quantity in usage.items())
    )


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
    window: int
    used: int = 0
    held: int = 0
    previous: int = 0


@dataclass(slots=True)
class ModelHold:
    customer: str
    held: int
    parts: dict[int, int]
    bits: int
    estimate: dict[str, int]
    checkpoint: dict[str, int]
    rates: Mapping[str, int]
    deadline: int
    tokens: int
    counted: list[tuple[Limit, int, int]]  # limit, window, held
    scopes: Mapping[str, str]
    extend_no: int = 0


@dataclass(slots=True)
class ModelEnded:
    outcome: str
    charged: int
    usage: dict[str, int]
    paid: list[tuple[int, int]] = field(default_factory=list)
    counted: list[tuple[Limit, int, int]] = field(default_factory=list)
    held: int = 0


class ModelWallet:
    """One customer's wallet."""

    def __init__(self, credit_limit: int) -> None:
        self.credit_limit = credit_limit
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

    def account(self, customer: str, credit_limit: int, now: int) -> None:
        wallet = self.wallets.setdefault(customer, ModelWallet(credit_limit))
        wallet.credit_limit = credit_limit
        self.events.append(("account", "", 0, wallet.balance(now)))

    def grant(self, customer: str, op: str, terms: tuple[Any, ...], now: int) -> str:
        if op in self.ops:
            return "replayed" if self.ops[op] == ("grant", terms) else "different"
        amount, category, priority, bits, effective_at, expires_at = terms
        effective_at = effective_at or now
        if 0 < expires_at <= max(now, effective_at):
            return "already_expired"
        wallet = self.wallets[customer]
        wallet.drop_exhausted()
        if len(wallet.grants) >= 64:
            return "too_many_grants"
        repaid = min(wallet.overdraft, amount) if not bits and effective_at <= now else 0
        wallet.overdraft -= repaid
        wallet.granted += amount
        no = wallet.new_no()
        if amount > repaid:
            wallet.add(
                ModelGrant(no, category, priority, bits, amount - repaid, effective_at, expires_at)
            )
        self.ops[op] = ("grant", terms)
        self.events.append(("grant", op, amount, wallet.balance(now)))
        return "granted"

    def adjust(self, customer: str, op: str, amount: int, now: int) -> str:
        if op in self.ops:
            return "replayed" if self.ops[op] == ("adjust", amount) else "different"
        wallet = self.wallets[customer]
        if amount < 0:
            wallet.take(-amount, now, 0xFFFFFFFF)
        else:
            wallet.drop_exhausted()
            if len(wallet.grants) >= 64 and amount > wallet.overdraft:
                return "too_many_grants"
            self._credit(wallet, amount, now, priority=100)
        wallet.adjusted += amount
        self.ops[op] = ("adjust", amount)
        self.events.append(("adjust", op, amount, wallet.balance(now)))
        return "adjusted"

    def reserve(
        self,
        customer: str,
        rid: str,
        rates: Mapping[str, int],
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
        wallet = self.wallets[customer]
        amount = charge_nano(rates, estimate)
        refused = None
        staged = []
        for limit in limits:
            counter, window = self._counter(wallet, limit, scopes, now)
            adds = {"spend": amount, "tokens": tokens}.get(limit.measure, 1)
            if counter.used + counter.held + adds > limit.ceiling:
                refused = refused or {
                    "spend": "spend_limit",
                    "concurrent": "concurrency_limit",
                }.get(limit.measure, "rate_limit")
            staged.append((limit, window, adds))
        if amount and amount > wallet.payable(now, bits):
            return "insufficient_credits", amount
        if refused:
            return refused, amount
        if amount and amount > wallet.available(now, bits):
            return "credit_held", amount
        parts: dict[int, int] = {}
        wallet.hold(amount, now, bits, parts)
        for limit, _, adds in staged:
            counter, _ = self._counter(wallet, limit, scopes, now, roll=True)
            counter.held += adds
        self.holds[rid] = ModelHold(
            customer,
            amount,
            parts,
            bits,
            estimate,
            checkpoint,
            rates,
            now + ttl,
            tokens,
            staged,
            scopes,
        )
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
        total = charge_nano(hold.rates, estimate)
        if extend_no <= hold.extend_no:
            return ("not_grown" if total > hold.held else "extended"), hold.held
        wallet = self.wallets[hold.customer]
        growth, more = max(0, total - hold.held), max(0, tokens - hold.tokens)
        refused = growth > 0 and growth > wallet.available(now, hold.bits)
        live = []
        for limit, window, _ in hold.counted:
            adds = {"spend": growth, "tokens": more}.get(limit.measure, 0)
            counter = wallet.counters[limit.scope, hold.scopes[limit.scope], limit.counter_id]
            if counter.window != window:
                adds = 0
            if adds and counter.used + counter.held + adds > limit.ceiling:
                refused = True
            live.append((counter, adds))
        hold.deadline, hold.extend_no, hold.checkpoint = now + ttl, extend_no, checkpoint
        if refused:
            return "not_grown", hold.held
        if growth or more:
            wallet.hold(growth, now, hold.bits, hold.parts)
            hold.held += growth
            hold.tokens += more
            hold.estimate = estimate
            for at, (counter, adds) in enumerate(live):
                counter.held += adds
                limit, window, held = hold.counted[at]
                hold.counted[at] = (limit, window, held + adds)
        return "extended", hold.held

    def settle(
        self,
        customer: str,
        rid: str,
        rates: Mapping[str, int],
        usage: dict[str, int],
        tokens: int,
        reserved_at: int,
        now: int,
    ) -> tuple[str, int]:
        wallet = self.wallets[customer]
        charge = charge_nano(rates, usage)
        if rid in self.holds:
            self._end(rid, "settled", "settle", usage, charge, 1, tokens, now)
            return "settled", charge
        ended = self.ended.get(rid)
        if ended is None:
            if now - reserved_at > SETTLE_MAX_AGE_MS:
                return "too_old", 0
            wallet.take(charge, now, 0)
            wallet.settled += charge
            self.ended[rid] = ModelEnded("settled", charge, usage)
            self.events.append(("settle", f"{rid}:settled", charge, wallet.balance(now)))
            return "settled", charge
        if ended.outcome != "expired":
            if ended.outcome != "released" and ended.usage != usage:
                return "differs", ended.charged
            return ended.outcome, ended.charged
        more = charge - ended.charged
        for limit, window, counted in ended.counted:
            used = {"spend": charge, "tokens": tokens}.get(limit.measure)
            counter = wallet.counters.get((limit.scope, _SCOPES[limit.scope], limit.counter_id))
            if used is not None and counter is not None and counter.window == window:
                counter.used += used - counted
        if more >= 0:
            wallet.take(more, now, 0)
        else:
            self._give_back(wallet, -more, ended.paid, now)
        wallet.settled += more
        self.ended[rid] = ModelEnded("settled_late", charge, usage)
        self.events.append(("settle_late", f"{rid}:settled_late", more, wallet.balance(now)))
        return "settled_late", charge

    def release(self, rid: str, reserved_at: int, now: int) -> tuple[str, int]:
        if rid in self.holds:
            self._end(rid, "released", "release", {}, 0, 0, 0, now)
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
        tokens = sum(quantity for unit, quantity in usage.items() if unit != "request")
        charge = charge_nano(hold.rates, usage)
        self._end(rid, "expired", "expire", usage, charge, 1, tokens, now)
        return "expired", charge

    def _end(
        self,
        rid: str,
        outcome: str,
        kind: str,
        usage: dict[str, int],
        charge: int,
        requests: int,
        tokens: int,
        now: int,
    ) -> None:
        hold = self.holds.pop(rid)
        wallet = self.wallets[hold.customer]
        counted = []
        for limit, window, held in hold.counted:
            used = {"spend": charge, "requests": requests, "tokens": tokens}.get(limit.measure, 0)
            counter = wallet.counters[limit.scope, hold.scopes[limit.scope], limit.counter_id]
            if counter.window == window:
                counter.held -= held
                counter.used += used
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
        self.ended[rid] = ModelEnded(outcome, charge, usage, paid, counted, hold.held)
        self.events.append((kind, f"{rid}:{outcome}", charge, wallet.balance(now)))

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
        """The counter as it stands in the window of `now`, and that window. A counter from a later
        window stays; `roll` makes the change last."""
        window_kind = "total" if limit.measure == "concurrent" else limit.window
        before, start, _, _ = window_borders_ms(window_kind, now)
        key = (limit.scope, scopes[limit.scope], limit.counter_id)
        counter = wallet.counters.get(key)
        if counter is None:
            counter = ModelCounter(start)
        elif counter.window < start:
            previous = counter.used if counter.window == before else 0
            counter = ModelCounter(start, previous=previous)
        if roll:
            wallet.counters[key] = counter
        return counter, counter.window


_SCOPES = {"customer": "", "project": "team", "key": "k1"}
