"""Charts are drawn where their values are, in numbers that read well."""

import datetime as dt

import pytest

from gateway.admin.console.charts import Frame, Series, bar_chart, line_chart, thinned

HOUR_MS = 3_600_000
NOON_MS = int(dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC).timestamp() * 1000)
FRAME = Frame(lambda value: f"{value:g}", width=600, height=200)


def test_a_line_needs_two_moments() -> None:
    assert line_chart([Series([])], FRAME) is None
    assert line_chart([Series([(1, 5), (1, 6)])], FRAME) is None
    assert line_chart([Series([(1, 5), (2, 6)])], FRAME) is not None


def test_a_line_goes_from_edge_to_edge_between_round_values() -> None:
    drawn = line_chart([Series([(0, 0), (10_000, 7.3)])], FRAME)
    assert drawn is not None
    chart = drawn.wide
    assert [tick.label for tick in chart.y_ticks] == ["0", "2", "4", "6", "8"]
    assert (chart.y_ticks[0].at, chart.y_ticks[-1].at) == (chart.bottom, chart.top)
    assert chart.lines[0].path.startswith(
        f"M{chart.left:.1f},{chart.bottom:.1f}L{chart.right:.1f},"
    )
    assert chart.lines[0].area.endswith("Z")
    assert drawn.narrow.width < chart.width


def test_values_below_zero_have_room_and_zero_stays_visible() -> None:
    drawn = line_chart([Series([(0, -3), (1, -1)])], FRAME)
    assert drawn is not None
    labels = [tick.label for tick in drawn.wide.y_ticks]
    assert labels[-1] == "0"
    assert float(labels[0]) <= -3


def test_a_balance_keeps_its_value_until_the_next_change() -> None:
    drawn = line_chart([Series([(0, 4), (50, 4), (100, 0)], step=True)], FRAME)
    assert drawn is not None
    path = drawn.wide.lines[0].path
    assert "L" not in path
    assert path.count("H") == path.count("V") == 2


def test_marks_and_this_moment_are_drawn_where_the_axis_has_them() -> None:
    frame = Frame(str, now_ms=50, marks=((75, "expires"), (500, "later")))
    drawn = line_chart([Series([(0, 1), (100, 1)])], frame)
    assert drawn is not None
    chart = drawn.wide
    assert chart.now_x == pytest.approx((chart.left + chart.right) / 2, abs=0.1)
    assert [mark.label for mark in chart.marks] == ["expires"]
    ended = line_chart([Series([(0, 1), (50, 1)])], frame)
    assert ended is not None
    assert ended.wide.now_x is None


def test_moments_are_round_and_midnight_says_the_day() -> None:
    points = [(NOON_MS, 1.0), (NOON_MS + 20 * HOUR_MS, 1.0)]
    drawn = line_chart([Series(points)], FRAME)
    assert drawn is not None
    labels = [tick.label for tick in drawn.wide.x_ticks]
    assert "01 Dec" in labels
    assert all(label.endswith((":00", "Dec")) for label in labels)


def test_bars_are_as_high_as_their_values_and_say_them() -> None:
    drawn = bar_chart([("a", 2.0), ("b", 4.0), ("c", 0.0)], FRAME)
    assert drawn is not None
    low, high = drawn.wide.bars[0], drawn.wide.bars[1]
    assert high.height == pytest.approx(2 * low.height, abs=0.2)
    assert "4" in high.label
    assert bar_chart([("a", 0.0)], FRAME) is None
    assert bar_chart([], FRAME) is None


def test_thinning_keeps_both_ends_and_the_order() -> None:
    points = [(float(n), float(n)) for n in range(1000)]
    kept = thinned(points, 50)
    assert len(kept) == 50
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept)
    assert thinned(points[:50], 50) == points[:50]
