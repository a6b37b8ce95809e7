"""Billing periods: months that begin on a billing day, and the periods that prices count in. All UTC.

A period is named by the month in which it begins, `2027-01`. With billing day 15 that is 15 January to
15 February. A month that is too short begins on its last day, as in the ledger's scripts.
"""

import calendar
import datetime as dt
import re
from dataclasses import dataclass
from typing import Final

from gateway.domain.limits import Window

_LABEL: Final = re.compile(r"[0-9]{4}-[0-9]{2}")
_LENGTHS_MS: Final = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """One billing month. Times are Unix ms: from `start_ms` on, before `end_ms`."""

    label: str
    billing_day: int
    start_ms: int
    end_ms: int


def billing_period(label: str, billing_day: int = 1) -> BillingPeriod:
    """The period that begins in a month, named `2027-01`. Raises ValueError for another text."""
    if not _LABEL.fullmatch(label):
        raise ValueError(f"{label!r} is not a month. Write a year and a month: 2027-01")
    year, month = int(label[:4]), int(label[5:])
    if not 1 <= month <= 12 or not 1971 <= year <= 9998:
        raise ValueError(f"{label!r} is not a month of the years 1971 to 9998")
    return _beginning(year, month, billing_day)


def period_containing(at_ms: int, billing_day: int = 1) -> BillingPeriod:
    """The period that a moment lies in."""
    date = dt.datetime.fromtimestamp(at_ms // 1000, dt.UTC).date()
    period = _beginning(date.year, date.month, billing_day)
    if at_ms >= period.start_ms:
        return period
    before = date.replace(day=1) - dt.timedelta(days=1)
    return _beginning(before.year, before.month, billing_day)


def label_after(label: str) -> str:
    """The label of the month after."""
    return period_containing(billing_period(label).end_ms).label


def window_start_ms(window: Window, at_ms: int, billing_day: int = 1) -> int:
    """Where the period begins in which a price counts what is used at a moment."""
    if window == "total":
        return 0
    if window == "month":
        return period_containing(at_ms, billing_day).start_ms
    if window == "week":
        date = dt.datetime.fromtimestamp(at_ms // 1000, dt.UTC).date()
        return _unix_ms(date - dt.timedelta(days=date.weekday()))
    return at_ms - at_ms % _LENGTHS_MS[window]


def _beginning(year: int, month: int, billing_day: int) -> BillingPeriod:
    after = (year + 1, 1) if month == 12 else (year, month + 1)
    return BillingPeriod(
        f"{year:04d}-{month:02d}",
        billing_day,
        _unix_ms(_day_in(year, month, billing_day)),
        _unix_ms(_day_in(*after, billing_day)),
    )


def _day_in(year: int, month: int, day: int) -> dt.date:
    return dt.date(year, month, min(day, calendar.monthrange(year, month)[1]))


def _unix_ms(date: dt.date) -> int:
    return int(dt.datetime.combine(date, dt.time(), dt.UTC).timestamp()) * 1000
