"""What prices make of usage, in exact fractions: the only second implementation of the rating.

It follows the prose of `lua/README.md`: C(x) of each shape, the bound of an estimate, periods by
the calendar. The model of the ledger rates with it.
"""

import calendar
import datetime as dt
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil

from gateway.domain.pricing import PriceTable, Rate, counter_ids
from gateway.domain.usage import CHARGED_AS

LENGTHS_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
FOREVER = 9_000_000_000_000_000


def cumulative(rate: Rate, x: int) -> Fraction:
    """C(x): what x units of one period cost, in nano-credits, not rounded."""
    if x <= 0:
        return Fraction(0)
    return max(by_shape(rate, x), Fraction(rate.minimum_per_period_nano))


def by_shape(rate: Rate, x: int) -> Fraction:
    """C(x) without the period's minimum."""
    first = rate.tiers[0]
    match rate.shape:
        case "per_unit":
            return Fraction(x * first.rate_pico, 1000)
        case "package":
            return Fraction(ceil(Fraction(x, rate.package_units)) * first.rate_pico, 1000)
        case "flat":
            return Fraction(first.flat_nano)
        case "volume":
            tier = next(t for t in rate.tiers if t.up_to is None or x <= t.up_to)
            return Fraction(x * tier.rate_pico, 1000) + tier.flat_nano
    total, lower = Fraction(0), 0
    for tier in rate.tiers:
        if x > lower:
            units = x - lower if tier.up_to is None else min(x, tier.up_to) - lower
            total += Fraction(units * tier.rate_pico, 1000) + tier.flat_nano
        lower = tier.up_to or lower
    return total


def beyond(rate: Rate, units: int) -> int:
    """Units beyond the included ones."""
    return max(0, units - rate.included)


def dearest(rate: Rate, used: int, held: int, quantity: int) -> Fraction:
    """The bound of what `quantity` costs somewhere after `used` and at most `held`."""
    bound = dearest_by_shape(rate, used, held, quantity)
    first = beyond(rate, used) == 0 < quantity and beyond(rate, used + held + quantity) > 0
    return max(bound, Fraction(rate.minimum_per_period_nano)) if first else bound


def dearest_by_shape(rate: Rate, used: int, held: int, quantity: int) -> Fraction:
    """The same without the period's minimum, which only the first use of a period can owe."""
    x0, xh, x1 = (beyond(rate, n) for n in (used, used + held, used + held + quantity))
    units = min(quantity, x1 - x0)
    if units <= 0:
        return Fraction(0)
    bounds = [0, *(t.up_to for t in rate.tiers if t.up_to is not None), 10**30]
    tiers = [(*b, t) for b, t in zip(pairwise(bounds), rate.tiers, strict=True)]
    met = [(lower, t) for lower, upper, t in tiers if upper > x0 and lower < x1]
    top = max(t.rate_pico for _, t in met)
    match rate.shape:
        case "package":
            begun = ceil(Fraction(x1, rate.package_units)) - ceil(Fraction(x0, rate.package_units))
            most = min(ceil(Fraction(units, rate.package_units)), begun)
            return Fraction(most * rate.tiers[0].rate_pico, 1000)
        case "flat":
            return Fraction(rate.tiers[0].flat_nano if x0 == 0 else 0)
        case "volume":
            lies = [t for lower, upper, t in tiers if upper >= x0 and lower < x1]
            flats = [0] * (x0 == 0) + [t.flat_nano for t in lies]
            rise = max(b.rate_pico - a.rate_pico for i, a in enumerate(lies) for b in lies[i:])
            step = max(b - a for i, a in enumerate(flats) for b in flats[i:])
            return Fraction(units * top + xh * rise, 1000) + step
    entered = sum(t.flat_nano for lower, t in met if lower >= x0)
    return Fraction(units * top, 1000) + entered


def period(kind: str, at_ms: int, day: int) -> tuple[int, int]:
    """Start and end of the period of a moment, in Unix ms, UTC."""
    if kind == "total":
        return 0, FOREVER
    if kind in LENGTHS_MS:
        start = at_ms - at_ms % LENGTHS_MS[kind]
        return start, start + LENGTHS_MS[kind]
    date = dt.datetime.fromtimestamp(at_ms // 1000, dt.UTC).date()
    if kind == "week":
        monday = date - dt.timedelta(days=date.weekday())
        return _ms(monday), _ms(monday + dt.timedelta(days=7))
    begins = _begins(date.year, date.month, day)
    if begins > date:
        previous = begins.replace(day=1) - dt.timedelta(days=1)
        return _ms(_begins(previous.year, previous.month, day)), _ms(begins)
    following = begins.replace(day=1) + dt.timedelta(days=32)
    return _ms(begins), _ms(_begins(following.year, following.month, day))


def _begins(year: int, month: int, day: int) -> dt.date:
    return dt.date(year, month, min(day, calendar.monthrange(year, month)[1]))


def _ms(date: dt.date) -> int:
    return int(dt.datetime.combine(date, dt.time(), dt.UTC).timestamp()) * 1000


@dataclass(slots=True)
class ModelPeriod:
    """One counter: this period and the one before."""

    start: int
    end: int
    used: int = 0
    held: int = 0
    before_start: int = 0
    before_used: int = 0


Periods = dict[int, ModelPeriod]
Mark = tuple[int, int]
"""Start of the period, and where its counter stood."""


@dataclass(frozen=True, slots=True)
class Row:
    """One unit of a price. counter: None where nothing counts."""

    unit: str
    rate: Rate
    minimum: int
    counter: int | None


def rows_of(table: PriceTable) -> list[Row]:
    """The rows of a table, in its order; a class without a rate is its parent's."""
    ids, rows = counter_ids(table.rows), []
    for unit in table.units:
        owner: str | None = unit
        while owner is not None and owner not in table.rates:
            owner = CHARGED_AS.get(owner)
        assert owner is not None
        rate = table.rates[owner]
        minimum = rate.minimum_per_request_nano if owner == unit else 0
        rows.append(Row(unit, rate, minimum, ids.get(unit)))
    return rows


@dataclass(slots=True)
class Rated:
    """charge_nano: rounded up once. moves: counter, start, units used, units held."""

    charge_nano: int
    marks: list[Mark]
    moves: list[tuple[int, int, int, int]]


def opened(periods: Periods, row: Row, now: int, day: int) -> ModelPeriod:
    """The counter in the period of now, begun if need be; never moved back."""
    assert row.counter is not None
    start, end = period(row.rate.period, now, day)
    counter = periods.setdefault(row.counter, ModelPeriod(start, end))
    if now >= counter.end:
        periods[row.counter] = ModelPeriod(
            start, end, before_start=counter.start, before_used=counter.used
        )
    return periods[row.counter]


def stands(periods: Periods, counter: int, start: int) -> tuple[int, int] | None:
    """Used and held of the period that began at start; None when it is too old."""
    known = periods[counter]
    if known.start == start:
        return known.used, known.held
    return (known.before_used, 0) if known.before_start == start else None


def estimate(
    rows: list[Row], usage: dict[str, int], periods: Periods, marks: list[Mark] | None,
    now: int, day: int,
) -> Rated:  # fmt: skip
    """The bound. marks: of the reserve's periods, for an extend; else those of now are opened."""
    total, found, moves, added = Fraction(0), list[Mark](), [], dict[int, int]()
    for row in rows:
        quantity = usage.get(row.unit, 0)
        if row.counter is None:
            total += cumulative(row.rate, quantity)
            continue
        own = added.get(row.counter, 0)
        if marks is None:
            start = opened(periods, row, now, day).start
            position = 0
        else:
            start, position = marks[len(found)]
        used, held = stands(periods, row.counter, start) or (position, 0)
        held += own
        cost = dearest(row.rate, used, held, quantity)
        if beyond(row.rate, used + held + quantity) > beyond(row.rate, used) and quantity:
            cost = max(cost, Fraction(row.minimum))
        total += cost
        found.append((start, used + held))
        moves.append((row.counter, start, 0, quantity))
        added[row.counter] = own + quantity
    return Rated(ceil(total), found, moves)


def charge(
    rows: list[Row], usage: dict[str, int], periods: Periods, marks: list[Mark],
    expired: dict[str, int] | None = None,
) -> Rated:  # fmt: skip
    """The charge in the periods of the marks; with `expired`, in place of what an expiry charged."""
    total, found, moves, added = Fraction(0), list[Mark](), [], dict[int, int]()
    for row in rows:
        quantity = usage.get(row.unit, 0)
        if row.counter is None:
            total += cumulative(row.rate, quantity)
            continue
        start, position = marks[len(found)]
        now = stands(periods, row.counter, start)
        own = added.get(row.counter, 0)
        used = position if now is None else now[0] + own
        cost, counted = Fraction(0), 0
        if expired is not None and now is not None:
            counted = expired.get(row.unit, 0)
            cost = climb(row.rate, position, position + counted)
        cost += climb(row.rate, used, used - counted + quantity)
        x0, x1 = (beyond(row.rate, used - counted + n) for n in (0, quantity))
        if x1 > x0 and cost >= 0:
            cost = max(cost, Fraction(row.minimum))
        total += cost
        found.append((start, used))
        if now is not None:
            moves.append((row.counter, start, quantity - counted, 0))
        added[row.counter] = own + quantity - counted
    return Rated(ceil(total), found, moves)


def climb(rate: Rate, before: int, after: int) -> Fraction:
    """C beyond the included units, after less before."""
    return cumulative(rate, beyond(rate, after)) - cumulative(rate, beyond(rate, before))


def move(periods: Periods, moves: list[tuple[int, int, int, int]], sign: int = 1) -> None:
    """Count what was used and held, in the period it belongs to; sign -1 takes it out."""
    for counter, start, used, held in moves:
        known = periods[counter]
        if known.start == start:
            known.used = max(0, known.used + sign * used)
            known.held += sign * held
        elif known.before_start == start:
            known.before_used = max(0, known.before_used + sign * used)
