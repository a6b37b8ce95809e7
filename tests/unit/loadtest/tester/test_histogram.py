"""Histograms: the same percentiles as the library's, in what is kept and in what is written."""

import random

import pytest
from hdrh.histogram import HdrHistogram

from loadtest.tester.histogram import DIGITS, MOST_US, Histogram

PERCENTS = (1, 25, 50, 90, 99, 99.9, 100)


def drawn(count: int, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [rng.lognormvariate(-5, 2) for _ in range(count)]


def test_percentiles_are_those_of_the_library() -> None:
    ours, theirs = Histogram(), HdrHistogram(1, MOST_US, DIGITS)
    for seconds in drawn(5000):
        ours.add_s(seconds)
        theirs.record_value(max(1, int(seconds * 1e6)))
    expected = [theirs.get_value_at_percentile(percent) / 1e3 for percent in PERCENTS]
    assert ours.percentiles_ms(PERCENTS) == expected


def test_what_is_written_and_read_is_the_same() -> None:
    ours = Histogram()
    for seconds in drawn(3000):
        ours.add_s(seconds)
    read = Histogram.decoded(ours.encoded())
    assert read.count == ours.count
    assert read.percentiles_ms(PERCENTS) == ours.percentiles_ms(PERCENTS)
    assert (read.mean_ms(), read.most_ms()) == (ours.mean_ms(), ours.most_ms())


def test_histograms_of_several_processes_add_up_to_one_of_all() -> None:
    whole, parts = Histogram(), [Histogram(), Histogram()]
    for number, seconds in enumerate(drawn(2000)):
        whole.add_s(seconds)
        parts[number % 2].add_s(seconds)
    parts[0].add(parts[1])
    assert parts[0].percentiles_ms(PERCENTS) == whole.percentiles_ms(PERCENTS)


def test_values_keep_three_digits() -> None:
    for seconds in drawn(500):
        one = Histogram()
        one.add_s(seconds)
        assert one.percentile_ms(50) == pytest.approx(max(seconds * 1e3, 1e-3), rel=1e-3, abs=1e-3)


def test_what_is_out_of_bounds_counts_at_the_bound() -> None:
    ends = Histogram()
    ends.add_s(0.0)
    ends.add_s(1e9)
    assert ends.percentile_ms(1) == 0.001
    assert ends.most_ms() == pytest.approx(3_600_000, rel=1e-3)


def test_nothing_counted_has_no_percentile() -> None:
    assert Histogram().percentiles_ms((50, 99)) == [None, None]
    assert (Histogram().mean_ms(), Histogram().most_ms()) == (None, None)


def test_another_text_is_no_histogram() -> None:
    with pytest.raises(ValueError, match="not an encoded"):
        Histogram.decoded("bm90IG9uZQ==")
