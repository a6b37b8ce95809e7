"""Reads the records of wallets, and of the projects and keys that limits count in, into values, for
what looks at them from outside: verify, the operator's lists, the sweeper, tests. The layouts are
those of `layout.py`. Nothing here writes.
"""

import struct
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.domain.limits import Window
from gateway.domain.pricing import PERIOD_NUMBERS
from gateway.ledger.codec.layout import ACCOUNT, ALLOWANCE, COUNTER, GRANT, PERIOD, RING, SCOPE
from gateway.ledger.codec.operations import CATEGORIES, Category, Status
from gateway.ledger.codec.unpacking import check_layout, unpack

_PERIODS: Final = {number: name for name, number in PERIOD_NUMBERS.items()}

_ACCOUNT: Final = ACCOUNT.packed
_GRANT: Final = GRANT.packed
_COUNTER: Final = COUNTER.packed
_RING: Final = RING.packed
_PERIOD: Final = PERIOD.packed
_ALLOWANCE: Final = ALLOWANCE.packed
_SCOPE: Final = SCOPE.packed
_SWEEP_AT: Final = struct.Struct(f"<B{ACCOUNT.position('sweep_at') - 2}xd")
"""Of an account: its layout, and `sweep_at`."""
_REV: Final = struct.Struct(f"<B{ACCOUNT.position('account_rev') - 2}xd")
"""Of an account: its layout, and `account_rev`."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant of a wallet. Amounts in nano-credits, times in Unix ms.

    effective_at_ms: 0 is since it was made. expires_at_ms: 0 is never
    """

    no: int
    category: Category
    priority: int
    scope_bits: int
    remaining_nano: int
    held_nano: int
    effective_at_ms: int
    expires_at_ms: int
    created_at_ms: int

    def active(self, now_ms: int) -> bool:
        """Whether it counts at this moment."""
        return self.effective_at_ms <= now_ms and not 0 < self.expires_at_ms <= now_ms


@dataclass(frozen=True, slots=True)
class Counter:
    """What a limit counts in one window, or in one slot of a rolling one; nano-credits or a count.

    slot_ms: how long a slot is; 0 for a window of the calendar
    slots:   (used, held) of the slots before this one that may count, the last one first
    in_slots: their sums, as they are recorded
    """

    counter_id: int
    window_start_ms: int
    used: int
    held: int
    slot_ms: int = 0
    slots: tuple[tuple[int, int], ...] = ()
    in_slots: tuple[int, int] = (0, 0)

    def standing(self, start_ms: int) -> tuple[int, int]:
        """What is used and held in a window that began then (a rolling one: whose present slot
        did). A counter that is further on, because the clock went back, stays there."""
        back = 0
        if start_ms > self.window_start_ms:
            if not self.slot_ms:
                return 0, 0
            back = (start_ms - self.window_start_ms) // self.slot_ms
        counting = ((self.used, self.held), *self.slots)[: max(0, len(self.slots) + 1 - back)]
        return sum(used for used, _ in counting), sum(held for _, held in counting)


@dataclass(frozen=True, slots=True)
class Period:
    """What tiers and included units count, in the present period and the one before; units."""

    counter_id: int
    start_ms: int
    end_ms: int
    used: int
    held: int
    before_start_ms: int
    before_used: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """A grant that recurs. Amounts in nano-credits.

    day:      of the month on which a period begins; 0 is the billing day
    end_ms:   of the period that is open; 0 when none was opened yet
    carry_nano: what of that period's grant has expired unused so far
    """

    allowance_id: int
    period: Window
    category: Category
    priority: int
    day: int
    scope_bits: int
    amount_nano: int
    rollover_max_nano: int
    start_ms: int
    end_ms: int
    grant_no: int
    carry_nano: int


@dataclass(frozen=True, slots=True)
class Wallet:
    """An account record. Amounts in nano-credits; the lifetime sums are those of identity 1."""

    frozen: bool
    account_rev: int
    credit_limit_nano: int
    overdraft_nano: int
    held_nano: int
    held_credit_nano: int
    """The part of `held_nano` that rests on the credit limit."""
    open_reservations: int
    granted_nano: int
    settled_nano: int
    expired_nano: int
    voided_nano: int
    adjusted_nano: int
    next_grant_no: int
    sweep_at_ms: int
    """When time alone changes this wallet: a grant expires, an allowance opens."""
    growth_wanted_until_ms: int = 0
    """Until then new requests stand back: a running answer wants to grow."""
    killed: bool = False
    """Frozen, and its running answers are cut."""
    billing_day: int = 1
    grants: tuple[Grant, ...] = ()
    counters: tuple[Counter, ...] = ()
    periods: tuple[Period, ...] = ()
    allowances: tuple[Allowance, ...] = ()

    @property
    def status(self) -> Status:
        """As its terms name it."""
        return "killed" if self.killed else "frozen" if self.frozen else "active"

    def balance_nano(self, now_ms: int) -> int:
        """Remainders of the active grants, less the overdraft."""
        active = (grant.remaining_nano for grant in self.grants if grant.active(now_ms))
        return sum(active) - self.overdraft_nano

    def available_nano(self, now_ms: int, scope_bits: int = 0) -> int:
        """What a reserve for a model in these groups could hold now."""
        free = sum(
            grant.remaining_nano - grant.held_nano
            for grant in self.grants
            if grant.active(now_ms) and (not grant.scope_bits or grant.scope_bits & scope_bits)
        )
        return free - self.overdraft_nano - self.held_credit_nano + self.credit_limit_nano


def read_sweep_at_ms(record: bytes) -> int:
    """When time alone changes the wallet of this account record. Raises BadRecord."""
    layout, at_ms = unpack(_SWEEP_AT, record)
    check_layout(layout)
    return int(at_ms)


def read_account_rev(record: bytes) -> int:
    """The revision of this account record. Raises BadRecord."""
    layout, revision = unpack(_REV, record)
    check_layout(layout)
    return int(revision)


def read_wallet(record: bytes) -> Wallet:
    """Raises BadRecord."""
    (
        layout,
        status,
        n_grants,
        n_counters,
        n_periods,
        n_allowances,
        billing_day,
        n_signals,
        *numbers,
    ) = unpack(_ACCOUNT, record)
    check_layout(layout)
    at = _ACCOUNT.size
    grants = []
    for _ in range(n_grants):
        category, priority, _, bits, *rest = unpack(_GRANT, record, at)
        no, remaining, held, effective, expires, created = map(int, rest)
        name = CATEGORIES[category - 1]
        grants.append(Grant(no, name, priority, bits, remaining, held, effective, expires, created))
        at += _GRANT.size
    periods = []
    for _ in range(n_periods):
        periods.append(Period(*map(int, unpack(_PERIOD, record, at))))
        at += _PERIOD.size
    allowances = []
    for _ in range(n_allowances):
        allowances.append(_read_allowance(record, at))
        at += _ALLOWANCE.size
    at += 8 * n_signals
    counters = _read_counters(record, at, n_counters)
    sums: Any = map(int, numbers)
    return replace(
        Wallet(status != 0, *sums),
        killed=status == 2,
        billing_day=billing_day,
        grants=tuple(grants),
        counters=counters,
        periods=tuple(periods),
        allowances=tuple(allowances),
    )


def read_scope(record: bytes) -> tuple[Counter, ...]:
    """The counters of a project's or key's record. Raises BadRecord."""
    layout, _, n_counters, _ = unpack(_SCOPE, record)
    check_layout(layout)
    return _read_counters(record, _SCOPE.size, n_counters)


def _read_allowance(record: bytes, at: int) -> Allowance:
    number, kind, category, priority, day, bits, *rest = unpack(_ALLOWANCE, record, at)
    integers: Any = map(int, rest)
    return Allowance(
        number, _PERIODS[kind], CATEGORIES[category - 1], priority, day, bits, *integers
    )


def _read_counters(record: bytes, at: int, count: int) -> tuple[Counter, ...]:
    rings = {}
    for ring in range(at + _COUNTER.size * count, len(record), _RING.size):
        counter_id, slot_ms, used, held, *slots = map(int, unpack(_RING, record, ring))
        pairs = tuple(zip(slots[::2], slots[1::2], strict=True))
        rings[counter_id] = slot_ms, pairs, (used, held)
    counters = []
    for i in range(count):
        number, start, used, held = map(int, unpack(_COUNTER, record, at + _COUNTER.size * i))
        counter = Counter(number, start, used, held)
        if counter.counter_id in rings:
            slot_ms, pairs, in_slots = rings[counter.counter_id]
            counter = replace(counter, slot_ms=slot_ms, slots=pairs, in_slots=in_slots)
        counters.append(counter)
    return tuple(counters)
