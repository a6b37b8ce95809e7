"""Render a snapshot as Prometheus text, with prometheus_client."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.telemetry.metrics import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(snapshot: Snapshot) -> bytes:
    """Render the snapshot in Prometheus' text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for name, family in self._snapshot.items():
            labels, text = family["labels"], family["help"]
            if family["kind"] == "histogram":
                histogram = HistogramMetricFamily(name, text, labels=labels)
                for values, numbers in family["samples"]:
                    buckets, total = _cumulative(family["bounds"], numbers)
                    histogram.add_metric(values, buckets=buckets, sum_value=total)
                yield histogram
            elif family["kind"] == "counter":
                counter = CounterMetricFamily(name, text, labels=labels)
                for values, number in family["samples"]:
                    counter.add_metric(values, number)
                yield counter
            else:
                gauge = GaugeMetricFamily(name, text, labels=labels)
                for values, number in family["samples"]:
                    gauge.add_metric(values, number)
                yield gauge


def _cumulative(bounds: list[float], numbers: list[float]) -> tuple[list[tuple[str, float]], float]:
    """Convert buckets: Prometheus' count everything up to their bound, ours only their range."""
    running = 0.0
    buckets = []
    for bound, count in zip([*map(floatToGoString, bounds), "+Inf"], numbers, strict=False):
        running += count
        buckets.append((bound, running))
    return buckets, numbers[-1]
