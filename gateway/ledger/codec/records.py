"""Reads the ledger's records into values, for what looks at it from outside: verify, the operator's
lists, the sweeper, tests. The layouts are those of `layout.py`. Nothing here writes.
"""

import struct
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.domain.delivery import Place
from gateway.domain.limits import MEASURE_NUMBERS, SCOPES, Window
from gateway.domain.pricing import PERIOD_NUMBERS, counter_ids, unpack_rows, unpack_units
from gateway.domain.reservation import Account, Outcome
from gateway.ledger.codec.layout import (
    ACCOUNT,
    ALLOCATION,
    ALLOWANCE,
    COUNTER,
    CREDITED,
    ENDED,
    GRANT,
    HELD_LIMIT,
    HOLD,
    LAYOUT,
    MARK,
    PERIOD,
    RING,
    SCOPE,
    SHARD,
)
from gateway.ledger.codec.operations import CATEGORIES, Category, Status

PENDING: Final = 1

_OUTCOMES: Final[dict[int, Outcome]] = {
    2: "settled",
    3: "released",
    4: "expired",
    5: "settled_late",
}
_PERIODS: Final = {number: name for name, number in PERIOD_NUMBERS.items()}
_MEASURES: Final = {number: name for name, number in MEASURE_NUMBERS.items()}

_SHARD: Final = SHARD.packed
_ACCOUNT: Final = ACCOUNT.packed
_GRANT: Final = GRANT.packed
_COUNTER: Final = COUNTER.packed
_RING: Final = RING.packed
_PERIOD: Final = PERIOD.packed
_ALLOWANCE: Final = ALLOWANCE.packed
_SCOPE: Final = SCOPE.packed
_HOLD: Final = HOLD.packed
_ENDED: Final = ENDED.packed
_ALLOCATION: Final = ALLOCATION.packed
_LIMIT: Final = HELD_LIMIT.packed
_SWEEP_AT: Final = struct.Struct(f"<B{ACCOUNT.position('sweep_at') - 2}xd")
"""Of an account: its layout, and `sweep_at`."""


class BadRecord(ValueError):
    """The bytes are no record of this layout."""


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


@dataclass(frozen=True, slots=True)
class HeldLimit:
    """What a hold keeps under one limit; after an expiry, what was counted."""

    scope: str
    measure: str
    counter_id: int
    window_start_ms: int
    ceiling: int
    held: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What a hold keeps in a period's counter.

    start_ms: of the period. position: where the counter stood, what others held included
    """

    unit: str
    counter_id: int
    start_ms: int
    position: int
    held: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """A pending reservation. Vectors follow the order of `units`."""

    held_nano: int
    reserved_at_ms: int
    deadline_ms: int
    extend_no: int
    tokens: int
    scope_bits: int
    allocations: tuple[tuple[int, int], ...]
    limits: tuple[HeldLimit, ...]
    units: tuple[str, ...]
    rates_pico: dict[str, int]
    estimate: dict[str, int]
    checkpoint: dict[str, int]
    customer_id: str
    key_id: str
    project_id: str | None
    facts: bytes = field(repr=False)
    counted: tuple["Counted", ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """The tombstone of a reservation. epoch and seq: its event; epoch 0 when there was none."""

    outcome: Outcome
    charged_nano: int
    held_nano: int
    reserved_at_ms: int
    ended_at_ms: int
    epoch: int
    seq: int
    allocations: tuple[tuple[int, int], ...] = ()
    limits: tuple[HeldLimit, ...] = ()
    quantities: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard record."""

    frozen: bool
    last: Place
    acked: Place | None


@dataclass(frozen=True, slots=True)
class DueReservation:
    """A hold whose deadline has passed. `account` says no more than whose it is."""

    shard: int
    reservation_id: str
    account: Account


def read_shard(record: bytes) -> Shard:
    """Raises BadRecord."""
    layout, state, _, epoch, last_seq, acked_seq, acked_epoch = _unpack(_SHARD, record)
    _check_layout(layout)
    acked = Place(int(acked_epoch), int(acked_seq)) if acked_epoch else None
    return Shard(state == 1, Place(int(epoch), int(last_seq)), acked)


def read_sweep_at_ms(record: bytes) -> int:
    """When time alone changes the wallet of this account record. Raises BadRecord."""
    layout, at_ms = _unpack(_SWEEP_AT, record)
    _check_layout(layout)
    return int(at_ms)


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
    ) = _unpack(_ACCOUNT, record)
    _check_layout(layout)
    at = _ACCOUNT.size
    grants = []
    for _ in range(n_grants):
        category, priority, _, bits, *rest = _unpack(_GRANT, record, at)
        no, remaining, held, effective, expires, created = map(int, rest)
        name = CATEGORIES[category - 1]
        grants.append(Grant(no, name, priority, bits, remaining, held, effective, expires, created))
        at += _GRANT.size
    periods = []
    for _ in range(n_periods):
        periods.append(Period(*map(int, _unpack(_PERIOD, record, at))))
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
    layout, _, n_counters, _ = _unpack(_SCOPE, record)
    _check_layout(layout)
    return _read_counters(record, _SCOPE.size, n_counters)


def read_reservation(record: bytes) -> Reservation | Ended:
    """Raises BadRecord."""
    if record[:1] != bytes([PENDING]):
        return _read_ended(record)
    header = _unpack(_HOLD, record)
    _, n_tiered, n_allocations, n_limits, n_units, _, rows_size, costs_size, ids_size, bits = (
        header[:10]
    )
    held, reserved_at, deadline, extend_no, tokens = map(int, header[10:])
    at = _HOLD.size
    allocations = _read_allocations(record, at, n_allocations)
    at += _ALLOCATION.size * n_allocations
    limits = _read_limits(record, at, n_limits)
    at += _LIMIT.size * n_limits
    marks = _read_allocations(record, at, n_tiered)
    at += _ALLOCATION.size * n_tiered
    vector = struct.Struct(f"<{n_units}d")
    estimate, checkpoint = _unpack(vector, record, at), _unpack(vector, record, at + vector.size)
    at += 2 * vector.size
    rows = record[at : at + rows_size]
    at += rows_size + costs_size
    ids = record[at : at + ids_size].decode().split("\0")
    if len(ids) != 3:
        raise BadRecord("a hold names customer, key and project")
    units, ids_by_unit = unpack_units(rows), counter_ids(rows)
    held_units = _by_unit(units, estimate)
    return Reservation(
        held_nano=held,
        reserved_at_ms=reserved_at,
        deadline_ms=deadline,
        extend_no=extend_no,
        tokens=tokens,
        scope_bits=bits,
        allocations=allocations,
        limits=limits,
        units=units,
        rates_pico=unpack_rows(rows),
        estimate=held_units,
        checkpoint=_by_unit(units, checkpoint),
        customer_id=ids[0],
        key_id=ids[1],
        project_id=ids[2] or None,
        facts=record[at + ids_size :],
        counted=tuple(
            Counted(unit, counter_id, start, position, held_units.get(unit, 0))
            for (unit, counter_id), (start, position) in zip(
                ids_by_unit.items(), marks, strict=True
            )
        ),
    )


def _read_ended(record: bytes) -> Ended:
    state, n_tiered, n_allocations, n_limits, n_units, _, *numbers = _unpack(_ENDED, record)
    outcome = _OUTCOMES.get(state)
    if outcome is None:
        raise BadRecord(f"state {state} is not one of a reservation")
    at = _ENDED.size
    allocations = _read_allocations(record, at, n_allocations)
    at += _ALLOCATION.size * n_allocations
    limits = _read_limits(record, at, n_limits)
    at += _LIMIT.size * n_limits
    if n_tiered:
        at += MARK.size * n_tiered + CREDITED.size
    quantities = tuple(map(int, _unpack(struct.Struct(f"<{n_units}d"), record, at)))
    whole: Any = map(int, numbers)
    ended = Ended(outcome, *whole)
    return replace(ended, allocations=allocations, limits=limits, quantities=quantities)


def _read_allocations(record: bytes, at: int, count: int) -> tuple[tuple[int, int], ...]:
    pairs = (_unpack(_ALLOCATION, record, at + _ALLOCATION.size * i) for i in range(count))
    return tuple((int(no), int(nano)) for no, nano in pairs)


def _read_allowance(record: bytes, at: int) -> Allowance:
    number, kind, category, priority, day, bits, *rest = _unpack(_ALLOWANCE, record, at)
    whole: Any = map(int, rest)
    return Allowance(number, _PERIODS[kind], CATEGORIES[category - 1], priority, day, bits, *whole)


def _read_limits(record: bytes, at: int, count: int) -> tuple[HeldLimit, ...]:
    limits = []
    for i in range(count):
        scope, measure, *numbers = _unpack(_LIMIT, record, at + _LIMIT.size * i)
        limits.append(HeldLimit(SCOPES[scope], _MEASURES[measure], *map(int, numbers)))
    return tuple(limits)


def _read_counters(record: bytes, at: int, count: int) -> tuple[Counter, ...]:
    rings = {}
    for ring in range(at + _COUNTER.size * count, len(record), _RING.size):
        counter_id, slot_ms, used, held, *slots = map(int, _unpack(_RING, record, ring))
        pairs = tuple(zip(slots[::2], slots[1::2], strict=True))
        rings[counter_id] = slot_ms, pairs, (used, held)
    counters = []
    for i in range(count):
        number, start, used, held = map(int, _unpack(_COUNTER, record, at + _COUNTER.size * i))
        counter = Counter(number, start, used, held)
        if counter.counter_id in rings:
            slot_ms, pairs, in_slots = rings[counter.counter_id]
            counter = replace(counter, slot_ms=slot_ms, slots=pairs, in_slots=in_slots)
        counters.append(counter)
    return tuple(counters)


def _by_unit(units: tuple[str, ...], vector: tuple[float, ...]) -> dict[str, int]:
    return {unit: int(q) for unit, q in zip(units, vector, strict=True) if q}


def _unpack(layout: struct.Struct, record: bytes, at: int = 0) -> tuple[Any, ...]:
    try:
        return layout.unpack_from(record, at)
    except struct.error as error:
        raise BadRecord(f"the record ends early: {error}") from error


def _check_layout(layout: int) -> None:
    if layout != LAYOUT:
        raise BadRecord(f"layout {layout}; this release reads {LAYOUT}")
