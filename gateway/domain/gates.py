"""What each gate reports about itself every few seconds, and the rates between two such reports.

Counters rise from the start of a gate's supervisor, so that a reader takes differences and a lost
report costs nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

BEAT_EVERY_S: Final = 2.0
GONE_AFTER_MS: Final = 10_000
"""A gate that has not reported for so long is shown as gone."""
FORGET_AFTER_MS: Final = 3_600_000
"""And is not shown any more after this."""


@dataclass(frozen=True, slots=True)
class GateFigures:
    """Totals since the gate's start, and gauges of this moment.

    allowed, denied:  decisions; denied by reason
    held_nano:        by the open holds
    charged_nano:     of the events that this gate's exporter has delivered; 0 where it has none
    lag_events, lag_s: the outbox, as this gate's exporter sees it
    latency_counts:   requests by the time that the gate added, per bucket of `latency_bounds_s`,
                      and above the last bound
    """

    allowed: int = 0
    denied: Mapping[str, int] = field(default_factory=dict)
    charged_nano: int = 0
    in_flight: int = 0
    holds_open: int = 0
    held_nano: int = 0
    journal_entries: int = 0
    lag_events: int = 0
    lag_s: float = 0.0
    restarts: int = 0
    latency_bounds_s: tuple[float, ...] = ()
    latency_counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GateReport:
    """One gate at one moment. Times in Unix ms by the ledger's clock.

    name:     of the host and the data folder; the same after a restart
    gate, admin: addresses as "host:port"
    why_not:  why it is not ready; empty when it is. degraded, notices: as `/readyz` shows them
    """

    name: str
    version: str
    gate: str
    admin: str
    started_at_ms: int
    reported_at_ms: int
    workers: int = 0
    workers_ready: int = 0
    why_not: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    figures: GateFigures = field(default_factory=GateFigures)

    def gone(self, now_ms: int) -> bool:
        """Whether it has stopped reporting."""
        return now_ms - self.reported_at_ms > GONE_AFTER_MS


@dataclass(frozen=True, slots=True)
class Rates:
    """What one gate, or several together, did per second between two reports.

    latency_*_ms: upper bound of the bucket in which that share of the requests lies; None if there
                  were none
    """

    allowed_per_s: float = 0.0
    denied_per_s: Mapping[str, float] = field(default_factory=dict)
    charged_nano_per_s: float = 0.0
    latency_bounds_s: tuple[float, ...] = ()
    latency_counts: tuple[float, ...] = ()

    @property
    def refused_per_s(self) -> float:
        """Refusals of every reason."""
        return sum(self.denied_per_s.values())

    def latency_ms(self, share: float) -> float | None:
        """The time that the gate added to this share of the requests at most; 0.5 is the median."""
        wanted = share * sum(self.latency_counts)
        if not wanted:
            return None
        running = 0.0
        for bound_s, count in zip(self.latency_bounds_s, self.latency_counts, strict=False):
            running += count
            if running >= wanted:
                return bound_s * 1000
        return self.latency_bounds_s[-1] * 1000 if self.latency_bounds_s else None


def rates_between(before: GateReport | None, after: GateReport) -> Rates:
    """Rates of one gate. Nothing where it was started in between, or did not report again."""
    if before is None or before.started_at_ms != after.started_at_ms:
        return Rates()
    seconds = (after.reported_at_ms - before.reported_at_ms) / 1000
    if seconds <= 0:
        return Rates()
    was, now = before.figures, after.figures
    same_buckets = was.latency_bounds_s == now.latency_bounds_s
    return Rates(
        _rate(was.allowed, now.allowed, seconds),
        {
            reason: _rate(was.denied.get(reason, 0), count, seconds)
            for reason, count in now.denied.items()
            if count > was.denied.get(reason, 0)
        },
        _rate(was.charged_nano, now.charged_nano, seconds),
        now.latency_bounds_s,
        tuple(
            max(0, count - earlier)
            for earlier, count in zip(was.latency_counts, now.latency_counts, strict=False)
        )
        if same_buckets
        else (),
    )


def sum_rates(rates: Iterable[Rates]) -> Rates:
    """Several gates together. Buckets are added where the gates count in the same ones."""
    allowed = charged = 0.0
    denied: dict[str, float] = {}
    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    for each in rates:
        allowed += each.allowed_per_s
        charged += each.charged_nano_per_s
        for reason, rate in each.denied_per_s.items():
            denied[reason] = denied.get(reason, 0.0) + rate
        if not counts:
            bounds, counts = each.latency_bounds_s, each.latency_counts
        elif bounds == each.latency_bounds_s and each.latency_counts:
            counts = tuple(a + b for a, b in zip(counts, each.latency_counts, strict=True))
    return Rates(allowed, denied, charged, bounds, counts)


def _rate(before: int, after: int, seconds: float) -> float:
    return max(0, after - before) / seconds
