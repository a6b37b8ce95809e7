"""Reads the records of reservations, pending and ended, into values, for what looks at them from
outside: verify, the operator's lists, the sweeper, tests. The layouts are those of `layout.py`.
Nothing here writes.
"""

import struct
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.domain.limits import MEASURE_NUMBERS, SCOPES
from gateway.domain.pricing import counter_ids, unpack_rows, unpack_units
from gateway.domain.reservation import Account, Outcome
from gateway.ledger.codec.layout import ALLOCATION, CREDITED, ENDED, HELD_LIMIT, HOLD, MARK
from gateway.ledger.codec.unpacking import BadRecord, unpack

PENDING: Final = 1

_OUTCOMES: Final[dict[int, Outcome]] = {
    2: "settled",
    3: "released",
    4: "expired",
    5: "settled_late",
}
_MEASURES: Final = {number: name for name, number in MEASURE_NUMBERS.items()}

_HOLD: Final = HOLD.packed
_ENDED: Final = ENDED.packed
_ALLOCATION: Final = ALLOCATION.packed
_LIMIT: Final = HELD_LIMIT.packed


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
class DueReservation:
    """A hold whose deadline has passed. `account` says no more than whose it is."""

    shard: int
    reservation_id: str
    account: Account


def read_reservation(record: bytes) -> Reservation | Ended:
    """Raises BadRecord."""
    if record[:1] != bytes([PENDING]):
        return _read_ended(record)
    header = unpack(_HOLD, record)
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
    estimate, checkpoint = unpack(vector, record, at), unpack(vector, record, at + vector.size)
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
    state, n_tiered, n_allocations, n_limits, n_units, _, *numbers = unpack(_ENDED, record)
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
    quantities = tuple(map(int, unpack(struct.Struct(f"<{n_units}d"), record, at)))
    integers: Any = map(int, numbers)
    ended = Ended(outcome, *integers)
    return replace(ended, allocations=allocations, limits=limits, quantities=quantities)


def _read_allocations(record: bytes, at: int, count: int) -> tuple[tuple[int, int], ...]:
    pairs = (unpack(_ALLOCATION, record, at + _ALLOCATION.size * i) for i in range(count))
    return tuple((int(no), int(nano)) for no, nano in pairs)


def _read_limits(record: bytes, at: int, count: int) -> tuple[HeldLimit, ...]:
    limits = []
    for i in range(count):
        scope, measure, *numbers = unpack(_LIMIT, record, at + _LIMIT.size * i)
        limits.append(HeldLimit(SCOPES[scope], _MEASURES[measure], *map(int, numbers)))
    return tuple(limits)


def _by_unit(units: tuple[str, ...], vector: tuple[float, ...]) -> dict[str, int]:
    return {unit: int(q) for unit, q in zip(units, vector, strict=True) if q}
