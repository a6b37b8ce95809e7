"""Windows by the calendar, and limits packed for the scripts."""

import datetime as dt
import struct

import pytest

from gateway.domain.limits import Limit, Window, pack_limits, replace_limits, window_borders_ms

ENDLESS = 1 << 52


def ms(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("window", "now", "borders"),
    [
        ("minute", "2026-03-01 00:00:59.999", "2026-02-28 23:59, 2026-03-01 00:00, 2026-03-01 00:01, 2026-03-01 00:02"),
        ("hour", "2026-03-01 00:00", "2026-02-28 23:00, 2026-03-01 00:00, 2026-03-01 01:00, 2026-03-01 02:00"),
        ("day", "2024-02-29 12:00", "2024-02-28, 2024-02-29, 2024-03-01, 2024-03-02"),
        ("week", "2026-01-01 09:00", "2025-12-22, 2025-12-29, 2026-01-05, 2026-01-12"),
        ("week", "2026-01-05 00:00", "2025-12-29, 2026-01-05, 2026-01-12, 2026-01-19"),
        ("month", "2026-01-31 23:59", "2025-12-01, 2026-01-01, 2026-02-01, 2026-03-01"),
        ("month", "2026-12-31 23:59", "2026-11-01, 2026-12-01, 2027-01-01, 2027-02-01"),
    ],
)  # fmt: skip
def test_windows_follow_the_calendar(window: Window, now: str, borders: str) -> None:
    assert window_borders_ms(window, ms(now)) == tuple(map(ms, borders.split(", ")))


def test_total_has_one_window_for_ever() -> None:
    assert window_borders_ms("total", ms("2026-03-01")) == (0, 0, ENDLESS, ENDLESS)


def test_counters_are_named_for_what_they_count() -> None:
    limits = [
        Limit("key", measure, window, 1)
        for measure in ("spend", "requests", "tokens")
        for window in ("minute", "hour", "day", "week", "month", "total")
    ]
    assert len({limit.counter_id for limit in limits}) == len(limits)
    assert (
        Limit("key", "spend", "day", 5).counter_id == Limit("project", "spend", "day", 9).counter_id
    )
    # Running requests are one count, whatever window the configuration named.
    day, total = Limit("key", "concurrent", "day", 5), Limit("key", "concurrent", "total", 5)
    assert day.counter_id == total.counter_id


def test_rows_say_where_what_and_up_to_what() -> None:
    now = ms("2026-03-01 10:20:30")
    spend, running = Limit("customer", "spend", "day", 7), Limit("key", "concurrent", "total", 3)
    rows = pack_limits((spend, running), now)
    first, second = struct.iter_unpack("<BBIddddd", rows.packed)
    assert first == (0, 1, spend.counter_id, 7, *window_borders_ms("day", now))
    assert second == (2, 4, running.counter_id, 3, 0, 0, ENDLESS, ENDLESS)
    assert (rows.limits, rows.scopes) == ((spend, running), 2)
    assert (rows.fresh_from_ms, rows.fresh_until_ms) == (ms("2026-03-01"), ms("2026-03-02"))


def test_rows_are_fresh_while_every_window_is_the_current_one() -> None:
    now = ms("2026-03-01 10:20:30")
    limits = (Limit("key", "spend", "hour", 1), Limit("project", "requests", "minute", 1))
    rows = pack_limits(limits, now)
    assert rows.scopes == 3
    assert (rows.fresh_from_ms, rows.fresh_until_ms) == (
        ms("2026-03-01 10:20"),
        ms("2026-03-01 10:21"),
    )
    assert pack_limits((), now).fresh_until_ms == ENDLESS


def test_of_two_limits_on_one_count_the_lower_is_kept() -> None:
    low, high = Limit("key", "spend", "day", 1), Limit("key", "spend", "day", 2)
    assert pack_limits((high, low), 0).limits == (low,)
    assert pack_limits((low, high), 0).limits == (low,)
    other = Limit("project", "spend", "day", 2)
    assert set(pack_limits((low, other), 0).limits) == {low, other}


def test_without_a_project_its_limits_do_not_count() -> None:
    limits = (Limit("project", "spend", "day", 1), Limit("customer", "spend", "day", 2))
    rows = pack_limits(limits, 0, project=False)
    assert (rows.limits, rows.scopes) == (limits[1:], 0)


@pytest.mark.parametrize(
    ("window", "slot_ms"),
    [("minute", 5_000), ("hour", 300_000), ("day", 7_200_000), ("week", 50_400_000),
     ("month", 216_000_000)],
)  # fmt: skip
def test_a_rolling_row_says_how_long_a_slot_is_and_is_always_fresh(
    window: Window, slot_ms: int
) -> None:
    limit = Limit("key", "tokens", window, 7, rolling=True)
    rows = pack_limits((limit,), ms("2026-03-01 10:20:30"))
    (row,) = struct.iter_unpack("<BBIddddd", rows.packed)
    assert row == (2, 3, limit.counter_id, 7, slot_ms, 0, 0, 0)
    assert (rows.fresh_from_ms, rows.fresh_until_ms) == (0, ENDLESS)


def test_a_counter_is_rolling_or_not_and_one_model_s_or_all_s() -> None:
    limits = [
        Limit("model" if model else "customer", "spend", "day", 1, rolling, model)
        for rolling in (False, True)
        for model in (None, "a", "b")
    ]
    assert len({limit.counter_id for limit in limits}) == len(limits)
    assert {limit.counts_in for limit in limits} == {0}


def test_a_model_s_limits_are_packed_for_it_alone() -> None:
    every = Limit("customer", "requests", "day", 9)
    a, b = (Limit("model", "requests", "day", 1, model=name) for name in "ab")
    limits = (every, a, b)
    assert pack_limits(limits, 0).limits == (every,)
    assert pack_limits(limits, 0, model="a").limits == (every, a)
    rows = pack_limits(limits, 0, model="b")
    assert (rows.limits, rows.scopes) == ((every, b), 0)


def test_a_limit_takes_the_place_of_one_on_the_same() -> None:
    day, week = Limit("key", "spend", "day", 9), Limit("key", "spend", "week", 9)
    model = Limit("model", "spend", "day", 9, model="a")
    rolls = Limit("key", "spend", "day", 3, rolling=True)
    assert replace_limits((day, week, model), (rolls,)) == (rolls, week, model)
    other = Limit("model", "spend", "day", 2, model="b")
    assert replace_limits((model,), (other,)) == (model, other)
