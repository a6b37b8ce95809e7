"""What a run says: tables for the terminal and for the page, and the JSON. Pure.

Ratios and differences are medians of those within a round, so that what the machine did meanwhile
affects both sides.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from rich.table import Table

from loadtest.growth import page
from loadtest.scale.gates import DIRECT
from loadtest.scale.pairs import KINDS
from loadtest.scale.run import CALLERS, Run
from loadtest.scale.servers import ONE, REPLICATED, SINGLE

WIDTH: Final = 150
_NOTHING: Final = "–"

Samples = Sequence[object]
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Found:
    """A table. name: of its place in docs/explanation/scale.md"""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]

    def document(self) -> dict[str, Any]:
        """As `loadtest.growth.page` reads it."""
        return {"table": page.table(self.columns, self.rows)}

    def shown(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            table.add_row(*row)
        return table


def middle(samples: Samples, figure: str) -> float:
    """The median of a figure."""
    return statistics.median(float(getattr(sample, figure)) for sample in samples)


def times(ours: Samples, theirs: Samples, figure: str) -> float:
    """A figure as a multiple of another ledger's: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in _rounds(ours, theirs, figure))


def more(ours: Samples, theirs: Samples, figure: str) -> float:
    """By how much a figure is higher than another ledger's: the median of the rounds' differences."""
    return statistics.median(a - b for a, b in _rounds(ours, theirs, figure))


def _rounds(ours: Samples, theirs: Samples, figure: str) -> list[tuple[float, float]]:
    return [(getattr(a, figure), getattr(b, figure)) for a, b in zip(ours, theirs, strict=True)]


def cluster(run: Run) -> Found:
    """CPU of a pair through the gate's client."""
    rows = []
    for kind in KINDS:
        for callers in CALLERS:
            single = run.pairs.get((SINGLE.name, kind.name, callers))
            for name in run.shares:
                samples = run.pairs[name, kind.name, callers]
                each = f"{kind.name}, {callers} callers a primary"
                cells = _us(samples, "redis_us"), _times(samples, single, "redis_us")
                rest = (_us(samples, of) for of in ("highest_us", "replicas_us", "client_us"))
                together = f"{middle(samples, 'together'):.1f}"
                rows.append([each, name, *cells, *rest, together])
    columns = (
        "customers",
        "ledger",
        "primaries, CPU µs a pair",
        "× single server",
        "most expensive primary, µs",
        "replicas, µs",
        "client, µs",
        "commands a read",
    )
    return Found("cluster", "Reserve + settle through the gate's client", columns, rows)


def paced(run: Run) -> Found:
    """A pair at a paced rate, so that each command comes alone."""
    single = run.paced.get(SINGLE.name)
    rows = [
        [
            name,
            f"{middle(samples, 'p50_ms'):.3f}",
            _more(samples, single, "p50_ms"),
            f"{middle(samples, 'p99_ms'):.3f}",
            _more(samples, single, "p99_ms"),
            _us(samples, "redis_us"),
            _times(samples, single, "redis_us"),
        ]
        for name, samples in _in_order(run, run.paced)
    ]
    columns = (
        "ledger",
        "reserve, p50 ms",
        "more than single server",
        "reserve, p99 ms",
        "more than single server",
        "primaries, CPU µs a pair",
        "× single server",
    )
    title = "Reserve + settle at a paced rate, through the gate's client"
    return Found("paced", title, columns, rows)


def driven(run: Run, cores: int) -> Found:
    """What the servers carry without the client's cost."""
    one, single = run.driven.get(ONE.name), run.driven.get(SINGLE.name)
    rows = []
    for name, samples in _in_order(run, run.driven):
        allowed = allowed_per_second(run, name, cores)
        rows.append(
            [
                name,
                f"{middle(samples, 'per_second'):,.0f}",
                _times(samples, one, "per_second"),
                _NOTHING if allowed is None else f"{allowed:,.0f}",
                _us(samples, "redis_us"),
                _times(samples, single, "redis_us"),
                _us(samples, "replicas_us"),
                _us(samples, "client_us"),
                f"{middle(samples, 'cores'):.2f}",
            ]
        )
    columns = (
        "ledger",
        "pairs a second",
        "× 1 primary",
        f"{cores} cores allow (computed)",
        "primaries, CPU µs a pair",
        "× single server",
        "replicas, µs",
        "client, µs",
        "cores in use",
    )
    return Found("driven", "Reserve + settle, packed in advance", columns, rows)


def gates(run: Run) -> Found:
    """What a gate takes and adds."""
    direct, single = run.gate_latencies.get(DIRECT), run.gates.get(SINGLE.name)
    rows = []
    for name, samples in _in_order(run, run.gates):
        took = run.gate_latencies[name]
        rows.append(
            [
                name,
                f"{middle(samples, 'per_second'):,.0f}",
                _us(samples, "gate_us"),
                _times(samples, single, "gate_us"),
                _us(samples, "redis_us"),
                _times(samples, single, "redis_us"),
                _us(samples, "replicas_us"),
                _us(samples, "exporter_us"),
                _more(took, direct, "p50_ms"),
                _more(took, direct, "p99_ms"),
            ]
        )
    columns = (
        "ledger",
        "requests a second",
        "gate, CPU µs a request",
        "× single server",
        "primaries, µs",
        "× single server",
        "replicas, µs",
        "exporter, µs",
        "added p50, ms",
        "added p99, ms",
    )
    return Found("gates", "JSON requests through one gate worker", columns, rows)


def tables(run: Run, cores: int) -> list[Found]:
    """All of them that have something to show."""
    every = (cluster(run), paced(run), driven(run, cores), gates(run))
    return [table for table in every if table.rows]


def allowed_per_second(run: Run, name: str, cores: int) -> float | None:
    """Pairs a second that a ledger would carry at most, computed from the rate and the CPU of one primary:
    its rate for each primary, and no more than all cores can do. None without that sample."""
    one = run.driven.get(ONE.name)
    if one is None:
        return None
    pair_us = middle(one, "redis_us") + middle(one, "client_us")
    pair_us += middle(run.driven[name], "replicas_us")
    return min(len(run.shares[name]) * middle(one, "per_second"), cores * 1e6 / pair_us)


def _in_order(run: Run, found: Mapping[str, S]) -> list[tuple[str, S]]:
    return [(name, found[name]) for name in run.shares if name in found]


def _times(ours: Samples, theirs: Samples | None, figure: str) -> str:
    return f"{times(ours, theirs, figure):.2f}" if theirs else _NOTHING


def _more(ours: Samples, theirs: Samples | None, figure: str) -> str:
    return f"{more(ours, theirs, figure):+.3f}" if theirs else _NOTHING


def _us(samples: Samples, figure: str) -> str:
    value = middle(samples, figure)
    return f"{value:.1f}" if value else _NOTHING


def document(run: Run) -> dict[str, Any]:
    """Every sample, as JSON values."""
    return {
        "server": run.server,
        "idle": run.idle,
        "shares": run.shares,
        "missing": run.missing,
        "pairs": [
            {"ledger": name, "customers": kind, "callers": callers, "samples": _rows(samples)}
            for (name, kind, callers), samples in run.pairs.items()
        ],
        **{
            part: {name: _rows(samples) for name, samples in getattr(run, part).items()}
            for part in ("paced", "driven", "gates", "gate_latencies")
        },
        "carries": carries(run),
    }


def carries(run: Run) -> dict[str, float] | None:
    """CPU µs of a request with replicas, for `loadtest.growth.sizing`. None when it was not measured."""
    samples = run.gates.get(REPLICATED.name)
    if not samples:
        return None
    return {
        "gate_us": middle(samples, "gate_us"),
        "ledger_us": middle(samples, "redis_us"),
        "replica_us": middle(samples, "replicas_us"),
        "exporter_us": middle(samples, "exporter_us"),
    }


def _rows(samples: Sequence[Any]) -> list[dict[str, float]]:
    return [asdict(sample) for sample in samples]
