"""One customer's wallet in exact integers: grants, allowances, counters of limits and periods, holds.

Part of the model of the ledger: what a single wallet does. `model.py` has the operations.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gateway.domain.limits import SLOTS, Limit
from tests.ledger import rating
from tests.ledger.noticing import Noticing, Said
from tests.ledger.rating import Mark, Periods, Row

RANK = {"promotional": 0, "allowance": 1, "adjustment": 2, "paid": 3}
FOREVER = 1 << 60
GROWTH_MARK_MS = 500
Status = Literal["active", "frozen", "killed"]
SETTLE_MAX_AGE_MS = 3_300_000
NOT_TOKENS = ("request", "tool_call")
DEAD_AFTER_MS = 33 * 86_400_000


Parts = list[tuple[int, int]]
"""Grant no (0: overdraft) and amount."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the outbox. id: without epoch and seq. moved: None where it is not predicted."""

    customer: str
    kind: str
    id: str
    amount: int
    balance: int
    signals: tuple[Said, ...] = ()
    moved: tuple[tuple[int, int], ...] | None = None


Told = list[Entry]


@dataclass(slots=True)
class ModelGrant:
    no: int
    category: str
    priority: int
    bits: int
    remaining: int
    effective_at: int
    expires_at: int
    created_at: int
    held: int = 0

    def eligible(self, now: int, bits: int) -> bool:
        return self.active(now) and (not self.bits or bool(self.bits & bits))

    def active(self, now: int) -> bool:
        return self.effective_at <= now and not 0 < self.expires_at <= now

    @property
    def burned_last(self) -> bool:
        """Whether corrections join it."""
        terms = (self.category, self.priority, self.bits, self.effective_at, self.expires_at)
        return terms == ("adjustment", 255, 0, 0, 0)

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

    def copied(self) -> "ModelCounter":
        slots = {start: list(slot) for start, slot in self.slots.items()}
        return ModelCounter(self.window, self.slot, slots)

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
            return FOREVER if "total" in (limit.window, window_of(limit)) else ends - now
        for oldest in sorted(self.slots):
            later = sum(used for start, (used, _) in self.slots.items() if start > oldest)
            if later + adds <= limit.ceiling:
                return oldest + (SLOTS + 1) * self.slot - now
        raise AssertionError("nothing used is room enough")


def window_of(limit: Limit) -> Any:
    return "total" if limit.measure == "concurrent" else limit.window


def record_of(limit: Limit) -> str:
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

    def copied(self) -> "ModelHold":
        """As deep as anything in it changes."""
        return replace(self, parts=dict(self.parts), counted=list(self.counted))

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


Terms = tuple[str, int, int, int]
"""Category, priority, scope bits, expires_at."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What an event charged, less what a late settle gave back, and who paid the whole."""

    customer: str
    net: int
    paid: tuple[tuple[int, int], ...]


class ModelWallet:
    """One customer's wallet."""

    def __init__(self, customer: str) -> None:
        self.customer = customer
        self.rev = self.credit_limit = 0
        self.billing_day = 1
        self.status: Status = "active"
        self.growth_wanted_until = 0
        self.noticing: Noticing | None = None
        self.periods: Periods = {}
        self.allowances: dict[int, ModelAllowance] = {}
        self.terms: dict[int, Terms] = {}
        """Of every grant that an operator made, as long as there is a ledger."""
        self.expired = 0
        self.grants: list[ModelGrant] = []
        self.next_no = 1
        self.overdraft = self.held_credit = 0
        self.granted = self.settled = self.adjusted = self.voided = 0
        self.counters: dict[tuple[str, str, int], ModelCounter] = {}

    def copied(self) -> "ModelWallet":
        """As deep as anything in it changes."""
        other = copy.copy(self)
        other.noticing = copy.deepcopy(self.noticing)
        other.grants = [copy.copy(grant) for grant in self.grants]
        other.terms = dict(self.terms)
        other.periods = {key: copy.copy(value) for key, value in self.periods.items()}
        other.allowances = {key: copy.copy(value) for key, value in self.allowances.items()}
        other.counters = {key: value.copied() for key, value in self.counters.items()}
        return other

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
        """Before the first one that burns after it. A voided one stays where it is."""
        later = (at for at, other in enumerate(self.grants) if grant.burns() < other.burns())
        self.grants.insert(next(later, len(self.grants)), grant)

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

    def entry(
        self,
        kind: str,
        event_id: str,
        amount: int,
        now: int,
        *,
        signals: tuple[Said, ...] = (),
        moved: Parts | None = None,
    ) -> Entry:
        """An entry with the balance as it stands."""
        parts = None if moved is None else tuple(moved)
        return Entry(self.customer, kind, event_id, amount, self.balance(now), signals, parts)

    def notice(self, now: int, spent: int = 0) -> tuple[Said, ...]:
        """What this step announces."""
        if self.noticing is None:
            return ()
        said, freezes = self.noticing.notice(
            self.balance(now), self.credit_limit, self.grants, (self.granted, self.settled), spent,
            now,
        )  # fmt: skip
        if freezes and self.status == "active":
            self.status = "frozen"
        return tuple(said)

    def catch_up(self, now: int) -> Told:
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
                event_id = f"expire_grant:{self.customer}:{grant.no}"
                moved = [(grant.no, left)]
                told.append(self.entry("expire_grant", event_id, left, now, moved=moved))
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
                    0,
                    allowance.end,
                    now,
                ),
                amount,
                now,
            )
            event_id = f"allowance:{self.customer}:{number}:{allowance.start}"
            told.append(self.entry("grant", event_id, amount, now))
        return told

    def free_parts(self, amount: int, now: int, bits: int) -> Parts:
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

    def take(self, amount: int, now: int, bits: int) -> Parts:
        parts = self.free_parts(amount, now, bits)
        for no, part in parts:
            grant = self.grant_named(no)
            if grant is None:
                self.overdraft += part
            else:
                grant.remaining -= part
        return parts
