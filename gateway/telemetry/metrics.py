"""Counters, gauges and histograms for one process, their snapshots, and the sum of snapshots.

Invariants: counting on the hot path is an addition on a bound child: no lock (one event loop per
process), no label handling, no formatting. Children are bound once, at start:
`allowed = decisions.labels("allow", "")`, then `allowed.inc()` per request.

A snapshot is plain data that msgpack can carry, including names and labels, so that the process that
sums snapshots of several processes need not know their metrics.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, Generic, Literal, TypeVar

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max"]
Snapshot = dict[str, dict[str, Any]]
"""name → {kind, help, labels, merge, bounds, samples: [[[label value, …], value], …]}.

A histogram's value is [count of each bucket, …, count above the last bound, sum of values].
"""

FOLD_EVERY_S: Final = 1.0
MAX_CHILDREN: Final = 1000
"""Most label values per family; further ones are counted together."""
OVERFLOW_LABEL: Final = "(other)"


class Counter:
    """Only ever rises."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, by: float = 1) -> None:
        """Add `by`, which is not negative."""
        self.value += by

    def read(self) -> float:
        """The value as a snapshot carries it."""
        return self.value


class Gauge:
    """Rises and falls."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, by: float = 1) -> None:
        """Add `by`."""
        self.value += by

    def dec(self, by: float = 1) -> None:
        """Subtract `by`."""
        self.value -= by

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = value

    def read(self) -> float:
        """The value as a snapshot carries it."""
        return self.value


class Histogram:
    """Counts values in buckets; a value equal to a bound belongs to that bound's bucket.

    `observe(value)` only keeps the value; `fold` counts those that were kept. Whoever runs the process
    folds every second, so that little is kept.
    """

    __slots__ = ("_kept", "bounds", "counts", "observe", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        self._kept: list[float] = []
        self.observe: Callable[[float], None] = self._kept.append
        """Count one value."""

    def fold(self) -> None:
        """Count the values that were observed since the last fold."""
        for value in self._kept:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.total += value
        self._kept.clear()

    def read(self) -> list[float]:
        """The value as a snapshot carries it."""
        self.fold()
        return [*self.counts, self.total]


Child = TypeVar("Child", Counter, Gauge, Histogram)


class Family(Generic[Child]):
    """One metric with all its label values."""

    def __init__(
        self,
        kind: Kind,
        help_text: str,
        labels: tuple[str, ...],
        merge: Merge,
        bounds: tuple[float, ...],
        make: Callable[[], Child],
    ) -> None:
        self._kind = kind
        self._help = help_text
        self._labels = labels
        self._merge = merge
        self._bounds = bounds
        self._make: Callable[[], Child] = make
        self._children: dict[tuple[str, ...], Child] = {}

    def labels(self, *values: str) -> Child:
        """Return the child for these label values. Bind it once if the values are known."""
        if len(values) != len(self._labels):
            raise ValueError(f"expected the labels {self._labels}, got {values}")
        child = self._children.get(values)
        if child is None:
            if len(self._children) >= MAX_CHILDREN:
                values = (OVERFLOW_LABEL,) * len(values)
            child = self._children.setdefault(values, self._make())
        return child

    def fold(self) -> None:
        """See `Histogram.fold`."""
        for child in self._children.values():
            if isinstance(child, Histogram):
                child.fold()

    def snapshot(self) -> dict[str, Any]:
        """Return this family's part of a Snapshot."""
        return {
            "kind": self._kind,
            "help": self._help,
            "labels": list(self._labels),
            "merge": self._merge,
            "bounds": list(self._bounds),
            "samples": [[list(key), child.read()] for key, child in self._children.items()],
        }


class Registry:
    """The metrics of one process, or of one part of it."""

    def __init__(self) -> None:
        self._families: dict[str, Family[Counter] | Family[Gauge] | Family[Histogram]] = {}

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Family[Counter]:
        """Add a family of counters; `name` ends in `_total`."""
        family = Family("counter", help_text, tuple(labels), "sum", (), Counter)
        self._add(name, family)
        return family

    def gauge(
        self, name: str, help_text: str, labels: Sequence[str] = (), *, merge: Merge = "sum"
    ) -> Family[Gauge]:
        """A new family of gauges. merge: what several processes make together."""
        family = Family("gauge", help_text, tuple(labels), merge, (), Gauge)
        self._add(name, family)
        return family

    def histogram(
        self, name: str, help_text: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> Family[Histogram]:
        """Add a family of histograms with ascending bounds."""
        if not bounds or any(a >= b for a, b in pairwise(bounds)):
            raise ValueError(f"the bounds of {name} do not rise")
        at = tuple(bounds)
        family = Family("histogram", help_text, tuple(labels), "sum", at, lambda: Histogram(at))
        self._add(name, family)
        return family

    async def keep_folding(self) -> None:
        """Count, every second, what histograms have only kept. Never ends."""
        while True:
            await asyncio.sleep(FOLD_EVERY_S)
            for family in self._families.values():
                family.fold()

    def snapshot(self) -> Snapshot:
        """Return everything counted so far, as plain data."""
        return {name: family.snapshot() for name, family in self._families.items()}

    def _add(self, name: str, family: Family[Any]) -> None:
        if name in self._families:
            raise ValueError(f"{name} is already a metric")
        self._families[name] = family


def sum_snapshots(live: Iterable[Snapshot], ended: Iterable[Snapshot] = ()) -> Snapshot:
    """One snapshot of several processes.

    Counters and histograms add up over `live` and `ended` processes, so that a restart does
    not make them fall. Gauges say what is now, so those of ended processes are left out.
    Histograms of unlike bounds (two releases side by side) are not added: the first stays.
    """
    summed: Snapshot = {}
    for snapshot, is_live in [*((s, True) for s in live), *((s, False) for s in ended)]:
        for name, family in snapshot.items():
            if is_live or family["kind"] != "gauge":
                _add_family(summed, name, family)
    return summed


def _add_family(summed: Snapshot, name: str, family: dict[str, Any]) -> None:
    target = summed.get(name)
    if target is None:
        copied = [[list(labels), _copy(value)] for labels, value in family["samples"]]
        summed[name] = {**family, "samples": copied}
        return
    if target["kind"] != family["kind"] or target["bounds"] != family["bounds"]:
        return
    places = {tuple(sample[0]): sample for sample in target["samples"]}
    for labels, value in family["samples"]:
        sample = places.get(tuple(labels))
        if sample is None:
            target["samples"].append([list(labels), _copy(value)])
        elif family["kind"] == "histogram":
            sample[1] = [a + b for a, b in zip(sample[1], value, strict=True)]
        elif family["merge"] == "max":
            sample[1] = max(sample[1], value)
        else:
            sample[1] += value


def _copy(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
