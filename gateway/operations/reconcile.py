"""`reconcile`: what a provider says that it served and billed, against what our events say, by model and day."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

import orjson

from gateway.domain.event_rows import EventRow
from gateway.domain.events import EventKind
from gateway.domain.money import NANO_PER_CREDIT
from gateway.domain.stores import EventStore, RowFilter
from gateway.operations.provider_usage import (
    COST,
    REQUESTS,
    ProviderSums,
    ProviderUsage,
    fold,
    plain_model,
)
from gateway.operations.report import day_of, said_by_expiry
from gateway.operations.sheets import Column, Kind, Sheet, Value

DAY_MS: Final = 86_400_000
_KINDS: Final[frozenset[EventKind]] = frozenset({"settle", "expire", "settle_late"})
_REPORT_EVERY: Final = 2000


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one model and day; cost in nano-credits, otherwise a quantity."""

    measure: str
    ours: int
    provider: int

    @property
    def difference(self) -> int:
        """What the provider says more than we do."""
        return self.provider - self.ours

    @property
    def kind(self) -> Kind:
        """What its numbers are."""
        return "credits" if self.measure == COST else "count"


@dataclass(frozen=True, slots=True)
class ReconciledLine:
    """One model on one day."""

    day: str
    model: str
    figures: tuple[Compared, ...]

    @property
    def differs(self) -> bool:
        """Whether any figure does."""
        return any(figure.difference for figure in self.figures)

    @property
    def weight(self) -> tuple[int, ...]:
        """By which lines are ordered: the size of the differences, cost first."""
        return tuple(-abs(figure.difference) for figure in self.figures)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Lines with differences first, the largest of them on top, and the sums of all.

    uncosted: charged requests that have no cost in our events
    """

    format_name: str
    lines: tuple[ReconciledLine, ...]
    totals: tuple[Compared, ...]
    uncosted: int

    @property
    def differing(self) -> int:
        """How many lines differ."""
        return sum(line.differs for line in self.lines)


@dataclass(frozen=True, slots=True)
class ReconcileRequest:
    """What to compare. upstream: only what it served; credits_each: what one of the provider's currency
    is in credits"""

    provider: ProviderUsage
    upstream: str | None = None
    credits_each: Fraction = Fraction(1)


@dataclass(slots=True)
class _Ours:
    quantities: dict[str, int] = field(default_factory=dict)
    cost_nano: int = 0

    def use(self, usage: Mapping[str, int], measures: tuple[str, ...], sign: int = 1) -> None:
        for unit, quantity in usage.items():
            name = fold(unit, measures)
            if name is not None:
                self.quantities[name] = self.quantities.get(name, 0) + sign * quantity


def reconcile(
    store: EventStore, request: ReconcileRequest, progress: Callable[[int], None] | None = None
) -> Reconciled:
    """Compare the days that the file covers. progress: called with the number of events read."""
    provider = request.provider
    ours, uncosted = _ours(store, request, progress)
    measures = (*((COST,) if provider.has_cost else ()), *provider.measures)

    def compare(key: tuple[str, str]) -> ReconciledLine:
        own, theirs = ours.get(key, _Ours()), provider.lines.get(key, ProviderSums())
        billed_nano = round(theirs.cost * request.credits_each * NANO_PER_CREDIT)
        figures = [
            Compared(name, own.cost_nano, billed_nano)
            if name == COST
            else Compared(name, own.quantities.get(name, 0), theirs.quantities.get(name, 0))
            for name in measures
        ]
        return ReconciledLine(*key, tuple(figures))

    lines = [compare(key) for key in ours.keys() | provider.lines.keys()]
    lines.sort(key=lambda line: (line.weight, line.day, line.model))
    totals = tuple(
        Compared(
            name,
            sum(line.figures[at].ours for line in lines),
            sum(line.figures[at].provider for line in lines),
        )
        for at, name in enumerate(measures)
    )
    return Reconciled(provider.format_name, tuple(lines), totals, uncosted)


def reconciled_sheet(made: Reconciled) -> Sheet:
    """A column for each side of each figure, and their difference."""
    columns = [Column("day"), Column("model")]
    for figure in made.totals:
        names = (figure.measure, f"provider_{figure.measure}", f"{figure.measure}_difference")
        columns += [Column(name, figure.kind) for name in names]

    def cells(figures: tuple[Compared, ...]) -> list[Value]:
        return [n for each in figures for n in (each.ours, each.provider, each.difference)]

    rows = [[line.day, line.model, *cells(line.figures)] for line in made.lines]
    return Sheet(columns, rows, ["", "", *cells(made.totals)])


def _ours(
    store: EventStore, request: ReconcileRequest, progress: Callable[[int], None] | None
) -> tuple[dict[tuple[str, str], _Ours], int]:
    days = [day for day, _ in request.provider.lines]
    if not days:
        return {}, 0
    measures = request.provider.measures
    wanted = RowFilter(_first_ms(min(days)), _first_ms(max(days)) + DAY_MS, kinds=_KINDS)
    sums: dict[tuple[str, str], _Ours] = {}
    late: list[tuple[EventRow, _Ours]] = []
    uncosted = count = 0
    for count, row in enumerate(store.rows(wanted), 1):
        if progress is not None and count % _REPORT_EVERY == 0:
            progress(count)
        if request.upstream is not None and row.upstream != request.upstream:
            continue
        served = orjson.loads(row.facts).get("response_model")
        model = plain_model(served if isinstance(served, str) else row.model or "")
        line = sums.setdefault((day_of(row.occurred_at_ms // DAY_MS), model), _Ours())
        line.use(orjson.loads(row.usage), measures)
        if row.cost_nano is not None:
            line.cost_nano += row.cost_nano
        elif row.amount_nano:
            uncosted += 1
        if row.kind == "settle_late":
            late.append((row, line))
        elif REQUESTS in measures:
            line.use({REQUESTS: 1}, measures)
    for row, line in late:
        line.use(said_by_expiry(store, row), measures, -1)
    if progress is not None:
        progress(count)
    return sums, uncosted


def _first_ms(day: str) -> int:
    return int(dt.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp() * 1000)
