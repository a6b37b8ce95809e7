"""Targets as people write them."""

import pytest

from loadtest.tester.targets import BadTarget, parse_target, show_ms


@pytest.mark.parametrize(
    ("text", "series", "percent", "added", "value"),
    [
        ("p99<25ms", "total", 99, False, 25),
        ("total p50 <= 1.5 s", "total", 50, False, 1500),
        ("added p99<200us", "total", 99, True, 0.2),
        ("P99.9 ≤ 1s", "total", 99.9, False, 1000),
        ("first byte p90<300ms", "first_byte", 90, False, 300),
        ("added ttfb p99<5ms", "first_byte", 99, True, 5),
        ("frame_gap p99<80ms", "frame_gap", 99, False, 80),
        ("refusal p99<5ms", "refusal", 99, False, 5),
    ],
)
def test_a_latency_target(
    text: str, series: str, percent: float, added: bool, value: float
) -> None:
    target = parse_target(text)
    assert (target.series, target.percent, target.added) == (series, percent, added)
    assert target.value == pytest.approx(value)
    assert target.unit == "ms"


@pytest.mark.parametrize(
    ("text", "figure", "value"),
    [
        ("errors<0.1%", "errors", 0.001),
        ("error rate < 1 %", "errors", 0.01),
        ("refusals<5%", "refusals", 0.05),
        ("rate>=200", "rate", 200),
        ("rate ≥ 1500/s", "rate", 1500),
    ],
)
def test_a_share_and_a_rate(text: str, figure: str, value: float) -> None:
    target = parse_target(text)
    assert target.figure == figure
    assert target.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("p99<25", "unit of time"),
        ("p99", "not a target"),
        ("p99>25ms", "slow answers"),
        ("sideways p99<25ms", "no latency"),
        ("added refusal p99<5ms", "no latency"),
        ("errors<3", "share in %"),
        ("rate>=3ms", "without a unit"),
        ("speed<3", "names no figure"),
        ("", "not a target"),
    ],
)
def test_what_is_no_target_says_why(text: str, why: str) -> None:
    with pytest.raises(BadTarget, match=why):
        parse_target(text)


def test_the_sign_decides_at_the_bound_and_what_was_not_measured_misses() -> None:
    assert not parse_target("p99<25ms").met(25)
    assert parse_target("p99<=25ms").met(25)
    assert parse_target("rate>=200").met(200)
    assert not parse_target("rate>200").met(200)
    assert not parse_target("added p99<25ms").met(None)


def test_times_are_shown_in_the_unit_that_reads_best() -> None:
    values = (0.0123, 0.9999, 1.5, 999.4, 999.6, 61_000, -0.25)
    shown = ["12.3 µs", "1 ms", "1.5 ms", "999 ms", "1 s", "61 s", "-250 µs"]
    assert [show_ms(value) for value in values] == shown
