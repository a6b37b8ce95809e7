"""What a gate's report says of its metrics."""

from gateway.app.heartbeat import figures_of
from gateway.domain.gates import GateFigures
from gateway.telemetry.metrics import Registry


def test_figures_are_sums_over_the_labels_of_a_metric() -> None:
    registry = Registry()
    decisions = registry.counter("creditgate_decisions_total", "D.", ("outcome", "reason"))
    decisions.labels("allow", "").inc(7)
    decisions.labels("deny", "bad_key").inc(2)
    decisions.labels("deny", "rate_limit").inc(0)
    restarts = registry.counter("creditgate_process_restarts_total", "R.", ("process",))
    restarts.labels("worker").inc()
    restarts.labels("exporter").inc(2)
    found = figures_of(registry.snapshot())
    assert (found.allowed, found.denied, found.restarts) == (7, {"bad_key": 2}, 3)


def test_credits_are_reported_as_whole_nano_credits() -> None:
    registry = Registry()
    registry.counter("creditgate_exporter_charged_credits_total", "C.").labels().inc(0.1 + 0.2)
    registry.gauge("creditgate_held_credits", "H.").labels().set(1.000000001)
    registry.gauge("creditgate_holds_open", "O.").labels().set(3)
    found = figures_of(registry.snapshot())
    assert (found.charged_nano, found.held_nano, found.holds_open) == (
        300_000_000,
        1_000_000_001,
        3,
    )


def test_the_buckets_of_added_latency_come_with_their_bounds_and_without_the_sum() -> None:
    registry = Registry()
    latency = registry.histogram("creditgate_added_latency_seconds", "L.", (0.01, 0.1)).labels()
    for seconds in (0.005, 0.05, 0.05, 5.0):
        latency.observe(seconds)
    found = figures_of(registry.snapshot())
    assert found.latency_bounds_s == (0.01, 0.1)
    assert found.latency_counts == (1, 2, 1)


def test_a_gate_that_has_counted_nothing_yet_reports_zeros() -> None:
    assert figures_of({}) == GateFigures()
