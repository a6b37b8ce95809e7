"""Counting, snapshots, their sum, and the text that Prometheus reads."""

from typing import Any

import msgpack
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.exporter.tally import Tally
from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import MAX_CHILDREN, OVERFLOW_LABEL, Registry, sum_snapshots
from gateway.telemetry.names import GateMetrics, exporter_snapshot


def exposed(snapshot: dict[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the text, read back by Prometheus' own parser."""
    families = text_string_to_metric_families(render(snapshot).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_counted_value_is_exposed_with_its_labels() -> None:
    registry = Registry()
    decisions = registry.counter("decisions_total", "Decisions.", ("outcome", "reason"))
    allowed = decisions.labels("allow", "")
    allowed.inc()
    allowed.inc(2)
    decisions.labels("deny", 'odd "reason"\n').inc()
    read = exposed(registry.snapshot())
    assert read["decisions_total", (("outcome", "allow"), ("reason", ""))] == 3
    assert read["decisions_total", (("outcome", "deny"), ("reason", 'odd "reason"\n'))] == 1


def test_a_histogram_counts_a_bound_in_its_own_bucket_and_exposes_sums_up_to_each() -> None:
    registry = Registry()
    latency = registry.histogram("latency_seconds", "Latency.", (0.1, 1, 10)).labels()
    for value in (0.05, 0.1, 0.5, 10, 11):
        latency.observe(value)
    read = exposed(registry.snapshot())
    buckets = {dict(key[1])["le"]: v for key, v in read.items() if key[0].endswith("_bucket")}
    assert buckets == {"0.1": 2, "1.0": 3, "10.0": 4, "+Inf": 5}
    assert read["latency_seconds_count", ()] == 5
    assert read["latency_seconds_sum", ()] == pytest.approx(21.65)


def test_counters_of_live_and_ended_processes_add_up_and_gauges_only_of_live_ones() -> None:
    snapshots = []
    for number in range(3):
        registry = Registry()
        registry.counter("c_total", "C.", ("a",)).labels("x").inc(10**number)
        registry.counter("own_total", "Own.", ("n",)).labels(str(number)).inc()
        registry.gauge("g", "G.").labels().set(10**number)
        registry.gauge("worst", "W.", merge="max").labels().set(10**number)
        registry.histogram("h", "H.", (1, 2)).labels().observe(number)
        snapshots.append(msgpack.unpackb(msgpack.packb(registry.snapshot())))
    read = exposed(sum_snapshots(snapshots[:2], snapshots[2:]))
    assert read["c_total", (("a", "x"),)] == 111
    assert [read["own_total", (("n", str(n)),)] for n in range(3)] == [1, 1, 1]
    assert read["g", ()] == 11
    assert read["worst", ()] == 10
    assert read["h_count", ()] == 3
    assert read["h_bucket", (("le", "1.0"),)] == 2


def test_summing_leaves_the_snapshots_as_they_were() -> None:
    registry = Registry()
    registry.histogram("h", "H.", (1, 2)).labels().observe(1)
    one = registry.snapshot()
    sum_snapshots([one, one], [one])
    assert one == registry.snapshot()


def test_histograms_of_unlike_bounds_are_not_added() -> None:
    old, new = Registry(), Registry()
    old.histogram("h", "H.", (1, 2)).labels().observe(1)
    new.histogram("h", "H.", (1, 2, 3)).labels().observe(1)
    assert exposed(sum_snapshots([old.snapshot(), new.snapshot()]))["h_count", ()] == 1


def test_label_values_beyond_the_limit_are_counted_together() -> None:
    registry = Registry()
    family = registry.counter("c_total", "C.", ("who",))
    for number in range(MAX_CHILDREN + 5):
        family.labels(str(number)).inc()
    samples = registry.snapshot()["c_total"]["samples"]
    assert len(samples) == MAX_CHILDREN + 1
    assert samples[-1] == [[OVERFLOW_LABEL], 5]


def test_wrong_labels_a_name_twice_and_falling_bounds_are_refused() -> None:
    registry = Registry()
    family = registry.counter("c_total", "C.", ("a", "b"))
    with pytest.raises(ValueError, match="labels"):
        family.labels("x")
    with pytest.raises(ValueError, match="already"):
        registry.gauge("c_total", "C.")
    with pytest.raises(ValueError, match="rise"):
        registry.histogram("h", "H.", (1, 1))


def test_the_gates_metrics_can_all_be_exposed() -> None:
    metrics = GateMetrics()
    metrics.decisions.labels("deny", "insufficient_credits").inc()
    metrics.added_latency_seconds.observe(0.0003)
    read = exposed(metrics.registry.snapshot())
    labels = (("outcome", "deny"), ("reason", "insufficient_credits"))
    assert read["creditgate_decisions_total", labels] == 1
    assert read["creditgate_added_latency_seconds_count", ()] == 1


def test_every_figure_of_the_exporter_is_exposed() -> None:
    tally = Tally(lag_events=3, lag_seconds=1.5, delivered=7, duplicates=2)
    read = exposed(exporter_snapshot(tally.snapshot()))
    assert read["creditgate_outbox_lag_events", ()] == 3
    assert read["creditgate_outbox_lag_seconds", ()] == 1.5
    assert read["creditgate_exporter_delivered_total", ()] == 7
    others = ("signals", "charged_credits", "repair", "wallets_shut")
    own = [name for name, _ in read if not any(other in name for other in others)]
    assert len(own) == len(tally.snapshot())
