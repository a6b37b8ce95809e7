"""Rates between two reports of a gate."""

from dataclasses import replace

from gateway.domain.gates import (
    GONE_AFTER_MS,
    GateFigures,
    GateReport,
    Rates,
    rates_between,
    sum_rates,
)

BOUNDS = (0.001, 0.01, 0.1)


def report(at_ms: int, **figures: object) -> GateReport:
    made = replace(GateFigures(), **figures)  # type: ignore[arg-type]
    return GateReport("g", "1", "h:1", "h:2", 1, at_ms, figures=made)


def test_rates_are_differences_over_the_time_between_the_reports() -> None:
    before = report(1000, allowed=10, denied={"bad_key": 1}, charged_nano=100)
    after = report(3000, allowed=30, denied={"bad_key": 1, "rate_limit": 4}, charged_nano=500)
    rates = rates_between(before, after)
    assert (rates.allowed_per_s, rates.charged_nano_per_s) == (10, 200)
    assert rates.denied_per_s == {"rate_limit": 2}
    assert rates.refused_per_s == 2


def test_a_gate_that_was_started_again_or_has_not_reported_has_no_rates() -> None:
    before, after = report(1000, allowed=10), report(3000, allowed=30)
    assert rates_between(None, after) == Rates()
    assert rates_between(before, replace(after, started_at_ms=2)) == Rates()
    assert rates_between(before, before) == Rates()


def test_a_counter_that_falls_is_no_negative_rate() -> None:
    assert rates_between(report(1000, allowed=30), report(2000, allowed=10)).allowed_per_s == 0


def test_latency_is_the_bound_of_the_bucket_that_has_the_share() -> None:
    before = report(0, latency_bounds_s=BOUNDS, latency_counts=(5, 5, 5, 5))
    after = report(1000, latency_bounds_s=BOUNDS, latency_counts=(5, 95, 14, 6))
    rates = rates_between(before, after)
    assert rates.latency_ms(0.5) == 10
    assert rates.latency_ms(0.99) == 100
    assert rates.latency_ms(1.0) == 100, "above the last bound nothing more is known"
    assert Rates().latency_ms(0.5) is None


def test_several_gates_are_added() -> None:
    one = Rates(1, {"a": 1}, 10, BOUNDS, (1, 0, 0, 0))
    two = Rates(2, {"a": 1, "b": 3}, 20, BOUNDS, (0, 9, 0, 0))
    both = sum_rates([one, Rates(), two])
    assert (both.allowed_per_s, both.charged_nano_per_s) == (3, 30)
    assert both.denied_per_s == {"a": 2, "b": 3}
    assert both.latency_ms(0.5) == 10


def test_a_gate_is_gone_when_it_has_not_reported_for_a_while() -> None:
    assert not report(1000).gone(1000 + GONE_AFTER_MS)
    assert report(1000).gone(1001 + GONE_AFTER_MS)
