"""Usage and margin of a period, by any dimensions, from the rows of the required store.

Sums are exact integers. What a row adds is counted on its own day: of a late settlement the difference
to what its expiry said, in quantities too, and of a refund or adjustment what it gave or took
(`corrected`). A correction that names the event it corrects belongs to that event's project, key, model,
route and upstream.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache
from typing import Final, Literal

import orjson

from gateway.domain.customers import is_shadow
from gateway.domain.event_rows import EventRow, row_of
from gateway.domain.events import EventKind
from gateway.domain.stores import EventStore, RowFilter
from gateway.operations.errors import OperationError
from gateway.operations.sheets import Column, Sheet, Value

Dimension = Literal[
    "customer", "project", "key", "model", "route", "upstream", "day", "hour", "kind"
]
KINDS: Final[frozenset[EventKind]] = frozenset({"settle", "expire", "settle_late", "adjust"})
_OF_REQUEST: Final = frozenset({"project", "key", "model", "route", "upstream"})
_REPORT_EVERY: Final = 2000

Read = Callable[[EventRow], str | None]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What to report. Times are Unix ms: from `since_ms` on, before `until_ms`.

    customer_id: one account; None is all of them but shadow wallets
    """

    by: tuple[str, ...]
    since_ms: int | None = None
    until_ms: int | None = None
    customer_id: str | None = None


@dataclass(slots=True)
class Sums:
    """What the rows of one line come to. Amounts in nano-credits.

    requests:       that were settled or have expired, free ones too; not those that were released
    usage:          quantity by unit
    corrected_nano: what adjustments took; what refunds and adjustments gave is negative
    cost_nano:      where it is known
    uncosted_nano:  the part of `charged_nano` whose cost is not known
    """

    requests: int = 0
    usage: dict[str, int] = field(default_factory=dict)
    charged_nano: int = 0
    corrected_nano: int = 0
    cost_nano: int = 0
    uncosted_nano: int = 0

    @property
    def costed_nano(self) -> int:
        """What the margin is a share of: charges with a known cost, and corrections."""
        return self.charged_nano - self.uncosted_nano + self.corrected_nano

    @property
    def margin_nano(self) -> int:
        """What is left of it beyond the cost."""
        return self.costed_nano - self.cost_nano

    @property
    def margin_percent(self) -> Fraction | None:
        """The margin as a share of it; None where it is nothing."""
        return Fraction(100 * self.margin_nano, self.costed_nano) if self.costed_nano > 0 else None

    def use(self, usage: Mapping[str, int], sign: int = 1) -> None:
        """Add quantities, or take them off."""
        own = self.usage
        for unit, quantity in usage.items():
            own[unit] = own.get(unit, 0) + sign * quantity

    def add(self, other: "Sums") -> None:
        """Add another line."""
        self.requests += other.requests
        self.use(other.usage)
        self.charged_nano += other.charged_nano
        self.corrected_nano += other.corrected_nano
        self.cost_nano += other.cost_nano
        self.uncosted_nano += other.uncosted_nano


@dataclass(frozen=True, slots=True)
class Report:
    """Lines by their labels, in order; their sum; how many rows they are made of."""

    by: tuple[str, ...]
    lines: Mapping[tuple[str, ...], Sums]
    total: Sums
    rows: int


def report(store: EventStore, request: ReportRequest, progress: Progress | None = None) -> Report:
    """Sum up a period. progress: called with the number of rows read. Raises OperationError."""
    readers = [dimension(name) for name in request.by]
    corrected_elsewhere = not _OF_REQUEST.isdisjoint(request.by)
    sums: dict[tuple[str, ...], Sums] = {}
    later: list[tuple[EventRow, Sums | None]] = []
    wanted = RowFilter(request.since_ms, request.until_ms, request.customer_id, KINDS)
    count = left_out = 0
    for count, row in enumerate(store.rows(wanted), 1):
        if request.customer_id is None and is_shadow(row.customer_id):
            left_out += 1
            continue
        if row.kind == "adjust" and corrected_elsewhere:
            later.append((row, None))
            continue
        key = tuple([read(row) or "" for read in readers])
        line = sums.get(key)
        if line is None:
            line = sums[key] = Sums()
        _add_row(line, row)
        if row.kind == "settle_late":
            later.append((row, line))
        if progress is not None and count % _REPORT_EVERY == 0:
            progress(count)
    # Asked once the rows have been read: a connection answers one question at a time.
    for row, found in later:
        if found is None:
            labels = _corrected(store, row)
            key = tuple([read(labels) or "" for read in readers])
            _add_row(sums.setdefault(key, Sums()), row)
        else:
            found.use(said_by_expiry(store, row), -1)
    if progress is not None:
        progress(count)
    total = Sums()
    for line in sums.values():
        total.add(line)
    return Report(request.by, dict(sorted(sums.items())), total, count - left_out)


def dimension(name: str) -> Read:
    """How a row is labelled in this dimension. Raises OperationError."""
    read = _READ.get(name)
    if read is None:
        raise OperationError(f"there is no dimension {name!r}. There are: {', '.join(_READ)}")
    return read


def usage_sheet(made: Report) -> Sheet:
    """Requests, quantities, charges and cost."""
    units = [unit for unit in _ORDER if unit in made.total.usage]
    units += sorted(made.total.usage.keys() - set(_ORDER))

    def cells(line: Sums) -> list[Value]:
        quantities = [line.usage.get(unit, 0) for unit in units]
        amounts = [line.charged_nano, line.corrected_nano, line.cost_nano]
        return [line.requests, *quantities, *amounts]

    columns = [Column("requests", "count"), *(Column(unit, "count") for unit in units)]
    columns += [_amount(name) for name in ("charged", "corrected", "cost")]
    return _sheet(made, columns, cells)


def margin_sheet(made: Report) -> Sheet:
    """Charges, cost and what is left."""

    def cells(line: Sums) -> list[Value]:
        amounts = [line.charged_nano, line.corrected_nano, line.cost_nano, line.uncosted_nano]
        return [line.requests, *amounts, line.margin_nano, line.margin_percent]

    columns = [Column("requests", "count")]
    amounts = ("charged", "corrected", "cost", "without_cost", "margin")
    columns += [_amount(name) for name in amounts]
    return _sheet(made, [*columns, Column("margin_percent", "percent")], cells)


def _amount(name: str) -> Column:
    return Column(name, "credits", rare=name in ("corrected", "without_cost"))


def _sheet(made: Report, columns: list[Column], cells: Callable[[Sums], list[Value]]) -> Sheet:
    return Sheet(
        [*(Column(name) for name in made.by), *columns],
        [[*labels, *cells(line)] for labels, line in made.lines.items()],
        [*("" for _ in made.by), *cells(made.total)],
    )


def _add_row(line: Sums, row: EventRow) -> None:
    if row.kind == "adjust":
        line.corrected_nano -= row.amount_nano
        return
    line.requests += row.kind != "settle_late"
    line.charged_nano += row.amount_nano
    if row.cost_nano is None:
        line.uncosted_nano += row.amount_nano
    else:
        line.cost_nano += row.cost_nano
    line.use(orjson.loads(row.usage))


def said_by_expiry(store: EventStore, late: EventRow) -> Mapping[str, int]:
    """What the expiry counted that a late settlement, which says everything, follows."""
    expiry = store.event(late.event_id.removesuffix("settled_late") + "expired")
    return expiry.event.usage if expiry is not None else {}


def _corrected(store: EventStore, row: EventRow) -> EventRow:
    """The correction's own row, labelled as the event that it corrects."""
    event_id = orjson.loads(row.facts).get("corrects")
    found = store.event(event_id) if isinstance(event_id, str) else None
    if found is None:
        return row
    labels = row_of(found.event)
    return row._replace(
        project_id=labels.project_id,
        key_id=labels.key_id,
        route=labels.route,
        model=labels.model,
        upstream=labels.upstream,
    )


@lru_cache(4096)
def day_of(day: int) -> str:
    """The date of a day since 1970, UTC."""
    return datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d")


@lru_cache(4096)
def hour_of(hour: int) -> str:
    """The beginning of an hour since 1970, UTC."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H:00Z")


_READ: Final[Mapping[str, Read]] = {
    "customer": lambda row: row.customer_id,
    "project": lambda row: row.project_id,
    "key": lambda row: row.key_id,
    "model": lambda row: row.model,
    "route": lambda row: row.route,
    "upstream": lambda row: row.upstream,
    "day": lambda row: day_of(row.occurred_at_ms // 86_400_000),
    "hour": lambda row: hour_of(row.occurred_at_ms // 3_600_000),
    "kind": lambda row: row.kind,
}
_ORDER: Final[Iterable[str]] = (
    *("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"),
    *("audio_input", "audio_output", "image_input"),
    *("request", "tool_call", "second", "byte", "image", "item"),
)
