"""Months that begin on a billing day, and the periods that prices count in."""

import datetime as dt

import pytest

from gateway.domain.billing_periods import billing_period, period_containing, window_start_ms
from tests.ledger.rating import period

DAY_MS = 86_400_000


def ms(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("label", "day", "begins", "ends"),
    [
        ("2027-01", 1, "2027-01-01", "2027-02-01"),
        ("2027-01", 15, "2027-01-15", "2027-02-15"),
        ("2026-12", 1, "2026-12-01", "2027-01-01"),
        ("2027-01", 31, "2027-01-31", "2027-02-28"),
        ("2028-02", 30, "2028-02-29", "2028-03-30"),
        ("1971-01", 1, "1971-01-01", "1971-02-01"),
        ("9998-12", 1, "9998-12-01", "9999-01-01"),
    ],
)
def test_a_period_is_named_by_the_month_it_begins_in(
    label: str, day: int, begins: str, ends: str
) -> None:
    found = billing_period(label, day)
    assert (found.label, found.billing_day) == (label, day)
    assert (found.start_ms, found.end_ms) == (ms(begins), ms(ends))


@pytest.mark.parametrize(
    "label",
    ["2027", "2027-1", "2027-13", "2027-00", "1970-12", "9999-01", "x2027-01", "2027-01-01"],
)
def test_what_is_no_month_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="is not a month"):
        billing_period(label)


@pytest.mark.parametrize("day", [1, 15, 28, 29, 30, 31])
def test_every_moment_is_in_the_period_that_the_ledger_counts_it_in(day: int) -> None:
    for at_ms in range(ms("2023-12-01"), ms("2025-03-05"), DAY_MS // 2):
        for moment_ms in (at_ms - 1, at_ms):
            found = period_containing(moment_ms, day)
            assert (found.start_ms, found.end_ms) == period("month", moment_ms, day)
            assert billing_period(found.label, day) == found


@pytest.mark.parametrize("window", ["minute", "hour", "day", "week", "month", "total"])
def test_counting_periods_begin_where_the_ledgers_do(window: str) -> None:
    for at_ms in range(ms("2024-02-20"), ms("2024-03-20"), 7 * 3_600_000 + 61_001):
        assert window_start_ms(window, at_ms, 15) == period(window, at_ms, 15)[0]  # type: ignore[arg-type]
