"""`prices plan`: what past uses would have cost at other prices, customer by customer.

Every use is rated by the ledger's own script (`rate`), on counters that begin blank; nothing is
computed here but sums. Uses from before the period that is asked for are rated too, as far back as
a price counts, so that its tiers and included units have counted what they would have counted.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import groupby
from typing import Final, Protocol

from gateway.domain.history import PastUse
from gateway.domain.limits import Window
from gateway.domain.pricebook import Book
from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import MAX_USES, Rated, Use
from gateway.domain.usage import DEFAULT_TIER, in_tier, usage_in_tier, without_tier

DAY_MS: Final = 86_400_000
_LONGEST_MS: Final[Mapping[Window, int]] = {
    "minute": 60_000,
    "hour": 3_600_000,
    "day": DAY_MS,
    "week": 7 * DAY_MS,
    "month": 31 * DAY_MS,
}

UnitsOf = Callable[[str], Awaitable[frozenset[str] | None]]
"""The units that a price version distinguishes; None when it is not known any more."""


class Rater(Protocol):
    """The ledger, as far as it rates past uses."""

    async def rate(
        self, table: PriceTable, uses: Sequence[Use], *, billing_day: int, periods: bytes
    ) -> Rated:
        """See `Ledger.rate`."""
        ...


@dataclass(frozen=True, slots=True)
class PlanLine:
    """A customer's uses of one model in one service tier, of all (model ""), or all customers'.

    charged_nano: then
    would_nano:   at the new price; None where the model has none
    cost_nano:    by the new costs; None where they are not known
    """

    customer_id: str
    model: str
    events: int
    charged_nano: int
    would_nano: int | None
    cost_nano: int | None
    service_tier: str = DEFAULT_TIER

    @property
    def name(self) -> str:
        """The model, and the service tier where it is not the default one."""
        return _name(self.model, self.service_tier)

    @property
    def change_nano(self) -> int | None:
        """What would be charged more, or less."""
        return None if self.would_nano is None else self.would_nano - self.charged_nano

    @property
    def percent(self) -> Fraction | None:
        """The change in percent of what was charged; None where nothing was."""
        if self.change_nano is None or not self.charged_nano:
            return None
        return Fraction(100 * self.change_nano, self.charged_nano)

    @property
    def margin_nano(self) -> int | None:
        """What would be charged beyond the cost."""
        if self.would_nano is None or self.cost_nano is None:
            return None
        return self.would_nano - self.cost_nano

    @property
    def below_cost(self) -> bool:
        """Whether it would be sold for less than it costs."""
        return self.margin_nano is not None and self.margin_nano < 0

    def beyond(self, max_increase: Fraction | None, max_decrease: Fraction | None) -> bool:
        """Whether it changes by more than so many percent. Of what was free any charge does."""
        if not self.change_nano:
            return False
        most = max_increase if self.change_nano > 0 else max_decrease
        return most is not None and 100 * abs(self.change_nano) > most * abs(self.charged_nano)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a change of prices makes of past uses.

    lines:     by customer, model and service tier
    customers: a sum each, of the models that have a price; so is `total`
    untold:    model (and tier) → classes of its new price that an old one did not distinguish: what was used of
               them is charged as the class that it was counted as, or not at all
    """

    lines: tuple[PlanLine, ...]
    customers: tuple[PlanLine, ...]
    total: PlanLine
    untold: Mapping[str, frozenset[str]]

    @property
    def unpriced(self) -> tuple[str, ...]:
        """What was used and has no price any more: models, and service tiers of models."""
        return tuple(sorted({line.name for line in self.lines if line.would_nano is None}))

    @property
    def below_cost(self) -> tuple[PlanLine, ...]:
        """What would be sold below cost."""
        return tuple(line for line in self.lines if line.below_cost)

    def beyond(
        self, max_increase: Fraction | None, max_decrease: Fraction | None
    ) -> tuple[PlanLine, ...]:
        """Customers, and the total, that change by more than so many percent."""
        sums = (*self.customers, self.total)
        return tuple(line for line in sums if line.beyond(max_increase, max_decrease))


def lead_ms(tables: Iterable[PriceTable]) -> int | None:
    """How far before a moment uses may count in a period of these prices; None: without end."""
    longest = 0
    for table in tables:
        if table.counts_periods:
            for rate in table.rates.values():
                if rate.plain:
                    continue
                if rate.period == "total":
                    return None
                longest = max(longest, _LONGEST_MS[rate.period])
    return longest


@dataclass(slots=True)
class Planner:
    """Rates uses at the prices of a book.

    billing_day_of: the day on which a customer's months begin
    rated:          called with how many uses have been rated
    """

    ledger: Rater
    book: Book
    tables: Mapping[str, PriceTable]
    billing_day_of: Callable[[str], int]
    units_of: UnitsOf
    rated: Callable[[int], None] = lambda _: None
    _done: int = 0
    _units: dict[str, frozenset[str] | None] = field(default_factory=dict)
    _untold: dict[str, frozenset[str]] = field(default_factory=dict)

    async def plan(self, uses: Iterable[PastUse], since_ms: int) -> Plan:
        """Rate all, and add up those that came from `since_ms` on. `uses` come in the order
        of a `UsageHistory`. Raises LedgerUnavailable; ValueError for what passes the bounds
        of a number."""
        lines = []
        for (customer_id, model, tier), some in groupby(uses, _of):
            version = self.book.version_for(model, customer_id)
            table = self.tables.get(version) if version else None
            if table is not None and tier not in table.service_tiers:
                table = None
            line = PlanLine(customer_id, model, 0, 0, None, None, tier)
            line = await self._line(line, table, some, since_ms)
            if line.events:
                lines.append(line)
        customers = tuple(
            _sum(customer_id, own)
            for customer_id, own in groupby(lines, lambda line: line.customer_id)
        )
        return Plan(tuple(lines), customers, _sum("", lines), self._untold)

    async def _line(
        self, line: PlanLine, table: PriceTable | None, uses: Iterable[PastUse], since_ms: int
    ) -> PlanLine:
        if table is not None:
            line = replace(line, would_nano=0, cost_nano=0 if table.cost_rows else None)
        periods, day = b"", self.billing_day_of(line.customer_id)
        for batch in _batches(uses):
            counted = [use for use in batch if use.reserved_at_ms >= since_ms]
            line = replace(
                line,
                events=line.events + len(counted),
                charged_nano=line.charged_nano + sum(use.charged_nano for use in counted),
            )
            if table is not None:
                asked = [
                    Use(use.reserved_at_ms, table.vector(await self._usage(use, table)))
                    for use in batch
                ]
                rated = await self.ledger.rate(table, asked, billing_day=day, periods=periods)
                periods, first = rated.periods, len(batch) - len(counted)
                would, cost = rated.charges_nano[first:], rated.costs_nano[first:]
                line = replace(line, would_nano=(line.would_nano or 0) + sum(would))
                if line.cost_nano is not None:
                    line = replace(line, cost_nano=line.cost_nano + sum(cost))
            self._done += len(batch)
            self.rated(self._done)
        return line

    async def _usage(self, use: PastUse, table: PriceTable) -> Mapping[str, int]:
        """The usage as far as it is known: a price that has no price for a request does not
        count them, though each is one."""
        version = use.price_version or ""
        if version not in self._units:
            self._units[version] = await self.units_of(version)
        known = self._units[version]
        tier, usage = use.service_tier, use.usage
        if known is not None:
            known = _units_of_tier(known, tier)
            if untold := _units_of_tier(table.units, tier) - known - {"request"}:
                name = _name(use.model, tier)
                self._untold[name] = self._untold.get(name, frozenset()) | untold
        if usage and "request" not in (known or usage):
            usage = {**usage, "request": 1}
        return usage_in_tier(usage, tier)


def _of(use: PastUse) -> tuple[str, str, str]:
    return use.customer_id, use.model, use.service_tier


def _name(model: str, service_tier: str) -> str:
    return model if service_tier == DEFAULT_TIER else f"{model} {service_tier}"


def _units_of_tier(units: Iterable[str], tier: str) -> frozenset[str]:
    plain = {unit: without_tier(unit) for unit in units}
    return frozenset(name for unit, name in plain.items() if in_tier(name, tier) == unit)


def _batches(uses: Iterable[PastUse]) -> Iterable[list[PastUse]]:
    batch: list[PastUse] = []
    for use in uses:
        batch.append(use)
        if len(batch) == MAX_USES:
            yield batch
            batch = []
    if batch:
        yield batch


def _sum(customer_id: str, lines: Iterable[PlanLine]) -> PlanLine:
    """Of those that have a price. The cost is known where every line's is."""
    priced = [line for line in lines if line.would_nano is not None]
    costs = [line.cost_nano for line in priced]
    return PlanLine(
        customer_id,
        "",
        sum(line.events for line in priced),
        sum(line.charged_nano for line in priced),
        sum(line.would_nano or 0 for line in priced),
        None if None in costs else sum(cost or 0 for cost in costs),
    )
