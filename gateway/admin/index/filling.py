"""Adds pages of events to the index, each in one transaction with the place that it reaches."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from gateway.admin.index.tables import AMOUNTS, SUMS, UNITS
from gateway.domain.customers import is_shadow
from gateway.domain.delivery import START, Place
from gateway.domain.events import USAGE_KINDS, Event
from gateway.domain.stores import EventStore
from gateway.operations.report import KINDS, Sums

HOUR_MS: Final = 3_600_000
GAP_MOST: Final = 1000
"""Places of one gap that are remembered, in case that their events arrive later."""

_SERIES: Final = """
    INSERT INTO series (customer_id, project_id, key_id, model, livemode, mode, shadow)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET mode = mode RETURNING id
"""
_OUTCOME: Final = """
    INSERT INTO outcomes (kind, status, flags) VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET kind = kind RETURNING id
"""
_VERSION: Final = """
    INSERT INTO price_versions (name) VALUES (?) ON CONFLICT DO UPDATE SET name = name RETURNING id
"""
_REQUEST: Final = """
    INSERT INTO requests
        (at_ms, request_id, series, outcome, price_version, amount_nano, duration_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_REACHED: Final = "INSERT OR REPLACE INTO places VALUES (?, ?, ?)"


class Labels(NamedTuple):
    """What sums are kept apart by. "" for what an event does not name; livemode: −1 for that"""

    customer_id: str
    project_id: str
    key_id: str
    model: str
    livemode: int
    mode: str


@dataclass(slots=True)
class Cell:
    """What one series came to in one hour or day. events: how many it is made of"""

    events: int = 0
    sums: Sums = field(default_factory=Sums)


class Filler:
    """Writes to one open file."""

    def __init__(self, connection: sqlite3.Connection, store: EventStore) -> None:
        """store: asked for what late settlements and corrections refer to"""
        self._connection = connection
        self._store = store
        self._numbers: dict[str, dict[tuple[Any, ...], int]] = {}

    def forget(self) -> None:
        """Forget the numbers of labels: the tables were made again, or a transaction was undone."""
        self._numbers.clear()

    def places(self) -> dict[int, Place]:
        """How far each shard is indexed."""
        found = self._connection.execute("SELECT shard, epoch, seq FROM places")
        return {shard: Place(epoch, seq) for shard, epoch, seq in found}

    def add(self, shard: int, after: Place, events: Sequence[Event], reached: Place) -> None:
        """Add the events of a shard beyond `after` up to `reached`. Nothing, if somebody else has moved
        the place meanwhile. Raises StoreMissing, sqlite3.Error, OverflowError.
        """
        parts = [(event, *self._said(event)) for event in events]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if self.places().get(shard, START) == after:
                self._add_sums(parts)
                self._add_requests(events)
                missing = _missing(after, events, reached)
                self._connection.executemany(
                    "INSERT OR IGNORE INTO gaps VALUES (?, ?, ?)",
                    [(shard, *place) for place in missing],
                )
                self._connection.execute(_REACHED, (shard, *reached))
        except BaseException:
            self._connection.execute("ROLLBACK")
            self.forget()
            raise
        self._connection.execute("COMMIT")

    def _said(self, event: Event) -> tuple[Labels, Mapping[str, int]]:
        """Under which labels an event counts, and the quantities to take off, as the report does."""
        labels = labels_of(event)
        less: Mapping[str, int] = {}
        if event.kind == "settle_late":
            expiry = self._store.event(event.event_id.removesuffix("settled_late") + "expired")
            less = expiry.event.usage if expiry is not None else {}
        corrects = event.facts.get("corrects") if event.kind == "adjust" else None
        if isinstance(corrects, str):
            found = self._store.event(corrects)
            if found is not None:
                labels = labels_of(found.event)._replace(customer_id=event.customer_id)
        return labels, less

    def _add_sums(self, parts: Iterable[tuple[Event, Labels, Mapping[str, int]]]) -> None:
        hours: dict[tuple[int, int], Cell] = {}
        days: dict[tuple[int, int], Cell] = {}
        for event, labels, less in parts:
            if event.kind not in KINDS:
                continue
            series, hour = self._series(labels), event.occurred_at_ms // HOUR_MS
            for cells, time in ((hours, hour), (days, hour // 24)):
                cell = cells.get((time, series))
                if cell is None:
                    cell = cells[time, series] = Cell()
                _count(cell, event, less)
        self._write_sums("hour", hours)
        self._write_sums("day", days)

    def _write_sums(self, size: str, cells: Mapping[tuple[int, int], Cell]) -> None:
        marks = ", ".join("?" * (len(SUMS) + 2))
        changes = ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
        self._connection.executemany(
            f"INSERT INTO {size}s VALUES ({marks}) ON CONFLICT DO UPDATE SET {changes}",  # noqa: S608
            [(*key, *_values(cell)) for key, cell in cells.items()],
        )
        self._connection.executemany(
            f"INSERT INTO {size}_units VALUES (?, ?, ?, ?)"  # noqa: S608
            " ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity",
            [
                (*key, unit, quantity)
                for key, cell in cells.items()
                for unit, quantity in cell.sums.usage.items()
                if unit not in UNITS and quantity
            ],
        )

    def _add_requests(self, events: Iterable[Event]) -> None:
        lines = []
        per_series: dict[int, int] = {}
        per_outcome: dict[int, int] = {}
        for event in events:
            if event.kind not in USAGE_KINDS:
                continue
            series, outcome = self._series(labels_of(event)), self._outcome(event)
            version = event.price_version
            lines.append(
                (
                    event.occurred_at_ms,
                    _text(event, "request_id") or event.reservation_id or "",
                    series,
                    outcome,
                    None if version is None else self._number("version", _VERSION, (version,)),
                    event.amount_nano,
                    _whole(event, "duration_ms"),
                )
            )
            per_series[series] = per_series.get(series, 0) + 1
            per_outcome[outcome] = per_outcome.get(outcome, 0) + 1
        self._connection.executemany(_REQUEST, lines)
        for table, counts in (("series", per_series), ("outcomes", per_outcome)):
            self._connection.executemany(
                f"UPDATE {table} SET requests = requests + ? WHERE id = ?",  # noqa: S608
                [(count, number) for number, count in counts.items()],
            )

    def _series(self, labels: Labels) -> int:
        return self._number("series", _SERIES, (*labels, is_shadow(labels.customer_id)))

    def _outcome(self, event: Event) -> int:
        flags = sorted(str(flag) for flag in event.facts.get("flags") or ())
        said = (event.kind, _whole(event, "http_status") or 0, orjson.dumps(flags).decode())
        return self._number("outcome", _OUTCOME, said)

    def _number(self, kind: str, statement: str, said: tuple[Any, ...]) -> int:
        known = self._numbers.setdefault(kind, {})
        number = known.get(said)
        if number is None:
            ((number,),) = self._connection.execute(statement, said).fetchall()
            known[said] = number
        return number


def labels_of(event: Event) -> Labels:
    """The labels of an event's own facts."""
    livemode = event.facts.get("livemode")
    return Labels(
        event.customer_id,
        _text(event, "project_id"),
        _text(event, "key_id"),
        _text(event, "model"),
        livemode if type(livemode) is bool else -1,
        _text(event, "mode"),
    )


def _count(cell: Cell, event: Event, less: Mapping[str, int]) -> None:
    cell.events += 1
    sums = cell.sums
    if event.kind == "adjust":
        sums.corrected_nano -= event.amount_nano
        return
    sums.requests += event.kind != "settle_late"
    sums.charged_nano += event.amount_nano
    if event.cost_nano is None:
        sums.uncosted_nano += event.amount_nano
    else:
        sums.cost_nano += event.cost_nano
    sums.use(event.usage)
    sums.use(less, -1)


def _values(cell: Cell) -> tuple[int, ...]:
    sums = cell.sums
    amounts = [getattr(sums, name) for name in AMOUNTS[1:]]
    return (cell.events, *amounts, *(sums.usage.get(unit, 0) for unit in UNITS))


def _missing(after: Place, events: Iterable[Event], reached: Place) -> list[Place]:
    """Places between `after` and `reached` that have no event, at most `GAP_MOST` of each gap."""
    found: list[Place] = []
    previous = after
    for event in events:
        found += _between(previous, Place(event.epoch, event.seq))
        previous = Place(event.epoch, event.seq)
    return found + _between(previous, Place(reached.epoch, reached.seq + 1))


def _between(previous: Place, place: Place) -> list[Place]:
    first = previous.seq + 1 if previous.epoch == place.epoch else 0
    return [Place(place.epoch, seq) for seq in range(max(first, place.seq - GAP_MOST), place.seq)]


def _text(event: Event, name: str) -> str:
    value = event.facts.get(name)
    return value if type(value) is str else ""


def _whole(event: Event, name: str) -> int | None:
    value = event.facts.get(name)
    return int(value) if isinstance(value, int | float) else None
