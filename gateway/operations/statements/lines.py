"""The price lines of a statement: what was used of each unit, at which price, and what it cost.

A plain line is quantity × rate, exact. What a price counts over a period (tiers, included units, packages,
minimums) is rated by the ledger's own script, on counters that begin blank: uses of the same counting period
from before the statement are rated first, so that tiers stand where they stood.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple, Protocol

import orjson

from gateway.domain.billing_periods import window_start_ms
from gateway.domain.event_rows import EventRow
from gateway.domain.history import reserved_at_ms
from gateway.domain.money import MAX_QUANTITY, PICO_PER_NANO
from gateway.domain.pricing import PriceTable, Rate, counter_ids, rate_of
from gateway.domain.reservation import MAX_USES, Use
from gateway.domain.usage import DEFAULT_TIER, Usage, in_tier
from gateway.operations.price_plan import Rater

VOLUME_SUFFIXES: Final = (":repriced", ":repriced_late")
"""Ends of the ids of adjustments by which a volume price credits earlier usage."""


class Prices(Protocol):
    """Finds prices by version."""

    async def tables(self, versions: list[str]) -> Mapping[str, PriceTable]:
        """See `PriceBooks.tables`."""
        ...


class LineName(NamedTuple):
    """What a line is about."""

    model: str
    service_tier: str
    unit: str
    price_version: str


@dataclass(slots=True)
class UsageLine:
    """One unit at one price.

    rate:           None where the price is no longer kept
    included:       how much of the quantity was included
    by_tier:        how much of the rest fell into each tier of the rate; of a volume price all is in the
                    tier that the total reached
    amount_pico:    None where the price is no longer kept
    """

    name: LineName
    rate: Rate | None
    quantity: int = 0
    included: int = 0
    by_tier: list[int] = field(default_factory=list)
    amount_pico: int | None = 0


@dataclass(frozen=True, slots=True)
class UsageLines:
    """All lines of a statement.

    charged_nano:    what was charged, less what volume prices credited
    rounding_pico:   each request is rounded up once: what that adds to the lines
    difference_pico: what the lines and rounding do not explain: prices that are no longer kept, a
                     charge that no quantity was known for
    """

    lines: tuple[UsageLine, ...]
    requests: int
    charged_nano: int
    rounding_pico: int
    difference_pico: int


@dataclass(slots=True)
class _Run:
    """Uses of one counted unit, one after the other, at one price."""

    name: LineName
    reserved_at_ms: int
    quantity: int
    counts: bool


_Counter = tuple[str, int]
"""Model, and the counter's id."""


@dataclass(slots=True)
class UsageCollector:
    """Adds up uses, then has them rated. billing_day: when the customer's months begin."""

    prices: Prices
    rater: Rater
    billing_day: int
    charged_nano: int = 0
    requests: int = 0
    earliest_ms: int | None = None
    """Where the earliest counting period begins that a use of the statement counts in."""
    _rounded: int = 0
    """Events that were rounded up."""
    _lines: dict[LineName, UsageLine] = field(default_factory=dict)
    _tables: dict[str, PriceTable | None] = field(default_factory=dict)
    _counters: dict[str, dict[str, int]] = field(default_factory=dict)
    _before: dict[_Counter, dict[int, list[_Run]]] = field(default_factory=dict)
    _runs: dict[_Counter, dict[int, list[_Run]]] = field(default_factory=dict)
    _expired: dict[str, EventRow] = field(default_factory=dict)

    async def add(self, row: EventRow, *, counts: bool = True) -> None:
        """Add a settle, an expiry, or the late settlement of an expiry that was added.

        counts: whether it is part of the statement; if not, it only moves the counters
        """
        reservation_id, _, _ = row.event_id.rpartition(":")
        usage: Usage = orjson.loads(row.usage)
        if counts:
            self._rounded += 1
            self.charged_nano += row.amount_nano
        if row.kind == "settle_late":
            expired = self._expired.pop(reservation_id, None)
            if expired is None:
                return
            await self._use(expired, orjson.loads(expired.usage), sign=-1, counts=counts)
        elif counts:
            self.requests += 1
        await self._use(row, usage, counts=counts)
        if row.kind == "expire":
            self._expired[reservation_id] = row

    def has_expiry(self, row: EventRow) -> bool:
        """Whether the expiry that a late settlement corrects was added."""
        return row.event_id.rpartition(":")[0] in self._expired

    def credit(self, row: EventRow) -> None:
        """Take off what a volume price credited."""
        self._rounded += 1
        self.charged_nano -= row.amount_nano

    async def lines(self) -> UsageLines:
        """Rate what was counted, and state every line. Raises LedgerUnavailable."""
        rated = 0
        for counter in sorted(self._runs):
            rated += await self._rate(counter)
        known = [line for line in self._lines.values() if line.quantity or line.amount_pico]
        pico = sum(line.amount_pico or 0 for line in known)
        rest = self.charged_nano * PICO_PER_NANO - pico
        # Each event was rounded up once, and so was each use that the script has rated here.
        explained = -PICO_PER_NANO * rated <= rest <= PICO_PER_NANO * self._rounded
        return UsageLines(
            tuple(sorted(known, key=lambda line: line.name)),
            self.requests,
            self.charged_nano,
            rest if explained else 0,
            0 if explained else rest,
        )

    async def _use(self, row: EventRow, usage: Usage, *, counts: bool, sign: int = 1) -> None:
        named = '"service_tier"' in row.facts
        tier = (named and orjson.loads(row.facts).get("service_tier")) or DEFAULT_TIER
        version, model = row.price_version or "", row.model or ""
        table = await self._table(version)
        at_ms = reserved_at_ms(row.event_id.rpartition(":")[0], row.occurred_at_ms)
        for unit, quantity in usage.items():
            rate = rate_of(in_tier(unit, tier), table.rates) if table else None
            counted = rate is not None and not rate.plain
            name = LineName(
                model, tier, rate.unit if counted and rate else in_tier(unit, tier), version
            )
            if counts:
                line = self._lines.get(name)
                if line is None:
                    line = self._lines[name] = UsageLine(
                        name, rate, amount_pico=None if table is None else 0
                    )
                line.quantity += sign * quantity
                if rate is not None and rate.plain and line.amount_pico is not None:
                    line.amount_pico += sign * quantity * rate.tiers[0].rate_pico
            if counted and rate is not None:
                self._count(name, rate, at_ms, sign * quantity, counts)

    def _count(self, name: LineName, rate: Rate, at_ms: int, quantity: int, counts: bool) -> None:
        table = self._tables[name.price_version]
        assert table is not None, "a rate has a table"
        counter = name.model, self._counters[name.price_version][rate.unit]
        window = window_start_ms(rate.period, at_ms, self.billing_day)
        if counts:
            self.earliest_ms = window if self.earliest_ms is None else min(self.earliest_ms, window)
        kept = self._runs if counts else self._before
        runs = kept.setdefault(counter, {}).setdefault(window, [])
        last = runs[-1] if runs else None
        if quantity < 0:  # an expiry that its late settlement replaces
            of_price = next((run for run in reversed(runs) if run.name == name), None)
            if of_price is not None:
                of_price.quantity += quantity
        elif last is None or last.name != name or rate.minimum_per_request_nano:
            runs.append(_Run(name, at_ms, quantity, counts))
        else:
            last.quantity += quantity

    async def _rate(self, counter: _Counter) -> int:
        """Rate one counter's uses in their order; returns how many of the statement's were rated."""
        rated, periods = 0, b""
        for window, runs in sorted(self._runs[counter].items()):
            position = 0
            for (name, counts), some in groupby(
                (*self._before.get(counter, {}).get(window, ()), *runs),
                lambda run: (run.name, run.counts),
            ):
                table, same = self._table_of(name), list(some)
                amount_nano, n_uses, periods = await self._amount(table, same, periods)
                end = position + sum(run.quantity for run in same)
                if counts:
                    line = self._lines[name]
                    line.amount_pico = (line.amount_pico or 0) + amount_nano * PICO_PER_NANO
                    _fill(line, table.rates[name.unit], position, end)
                    rated += n_uses
                position = end
        return rated

    async def _amount(
        self, table: PriceTable, runs: list[_Run], periods: bytes
    ) -> tuple[int, int, bytes]:
        """What runs at one price cost, how many uses the script rated, and its counters after them."""
        uses = [
            Use(run.reserved_at_ms, table.vector({run.name.unit: part}))
            for run in runs
            for part in _parts(run.quantity)
        ]
        total = 0
        for at in range(0, len(uses), MAX_USES):
            rated = await self.rater.rate(
                table, uses[at : at + MAX_USES], billing_day=self.billing_day, periods=periods
            )
            periods, total = rated.periods, total + sum(rated.charges_nano)
        return total, len(uses), periods

    def _table_of(self, name: LineName) -> PriceTable:
        table = self._tables[name.price_version]
        assert table is not None, "what is counted has a price"
        return table

    async def _table(self, version: str) -> PriceTable | None:
        if version not in self._tables:
            table = (await self.prices.tables([version])).get(version) if version else None
            self._tables[version] = table
            self._counters[version] = counter_ids(table.rows) if table else {}
        return self._tables[version]


def _parts(quantity: int) -> list[int]:
    """A quantity in parts that one use can carry."""
    full, rest = divmod(quantity, MAX_QUANTITY)
    return [MAX_QUANTITY] * full + [rest] * (rest > 0)


def _fill(line: UsageLine, rate: Rate, start: int, end: int) -> None:
    """Note which part of a period's units, from `start` to `end`, was included, and in which tiers."""
    line.included += min(end, rate.included) - min(start, rate.included)
    low, high = max(0, start - rate.included), max(0, end - rate.included)
    if not line.by_tier:
        line.by_tier = [0] * len(rate.tiers)
    if rate.shape == "volume":
        line.by_tier = [0] * len(rate.tiers)
        reached = next(
            at for at, tier in enumerate(rate.tiers) if tier.up_to is None or high <= tier.up_to
        )
        line.by_tier[reached] = line.quantity - line.included
        return
    lower = 0
    for at, tier in enumerate(rate.tiers):
        upper = high if tier.up_to is None else tier.up_to
        line.by_tier[at] += max(0, min(high, upper) - max(low, lower))
        lower = upper
