"""How many cores and how much memory a rate takes, from what one core was seen to carry.

    python -m loadtest.growth.sizing

Reads the reports of `make scale`, `make growth` and `make soak` and writes two tables for
docs/explanation/scale.md: what one core carries, and what a rate takes. A figure whose report is not there
stays as the page has it.

Invariants: cores are rate × µs / (1,000,000 × BUSY), rounded up; a server of the ledger is one core. The
inputs stand on the page in whole µs and bytes, and the table is what follows from those, so that
a reader can compute it again (a test does).
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.domain.reservation import TOMBSTONE_TTL_MS
from loadtest.growth.page import read, table

BUSY: Final = 0.6
"""How busy a core may be on the average: the rest is for peaks."""
RATES: Final = (100, 1000, 10_000, 100_000, 1_000_000)
PAGE: Final = Path("docs/explanation/scale.md")
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Carries:
    """What a request takes of each, CPU in µs.

    ledger_us:    of the primary that has its shard, which also feeds one replica
    replica_us:   of that replica
    record_bytes: of the ledger's memory for each request of the last hour (its tombstone)
    event_bytes:  of the ledger's memory for each event that waits in the outbox
    """

    gate_us: int
    ledger_us: int
    replica_us: int
    exporter_us: int
    record_bytes: int
    event_bytes: int


FROM: Final = {
    "gate_us": "gate worker, CPU µs a request (JSON, 32 callers, three primaries with replicas)",
    "ledger_us": "primary, CPU µs a request (in the same run)",
    "replica_us": "replica, CPU µs a request (in the same run)",
    "exporter_us": "exporter into SQLite, CPU µs an event (in the same run)",
    "record_bytes": "ledger's memory, bytes a record of the last hour (the soak)",
    "event_bytes": "ledger's memory, bytes an event that waits (the backlog)",
}


def on_page(text: str) -> dict[str, int]:
    """The figures that a page has."""
    told = {row[0]: int(row[1].replace(",", "")) for row in read(text, "carries")}
    return {name: told[label] for name, label in FROM.items() if label in told}


def carries(reports: Path, known: Mapping[str, int]) -> Carries:
    """From the reports; known: what counts where there is none. Raises TypeError if both lack a figure."""

    def report(name: str) -> Any:
        file = reports / f"{name}.json"
        return orjson.loads(file.read_bytes()) if file.exists() else None

    found: dict[str, float] = dict(known)
    if (scale := report("scale")) and scale["carries"]:
        found |= scale["carries"]
    if soak := report("soak"):
        (record,) = (one for one in soak["trends"] if one["name"].startswith("ledger, bytes"))
        found["record_bytes"] = record["start"] + record["rise"]
    if backlog := report("backlog"):
        waiting = backlog["measured"][0]["points"][-1]
        found["event_bytes"] = waiting["used_bytes"] / waiting["size"]
    return Carries(**{name: round(value) for name, value in found.items()})


def cores(rate: float, cost_us: float) -> int:
    """Cores that carry a rate of what costs so much each."""
    return math.ceil(rate * cost_us / 1e6 / BUSY)


def gib(amount_bytes: float) -> str:
    """Bytes as GiB with two digits that count."""
    return f"{float(f'{amount_bytes / _GIB:.2g}'):,g}"


def sizing(of: Carries) -> list[list[str]]:
    """A row for each rate: cores of gates, primaries, replicas, exporters; memory, backlog."""
    return [
        [
            f"{rate:,}",
            f"{cores(rate, of.gate_us):,}",
            f"{cores(rate, of.ledger_us):,}",
            f"{cores(rate, of.replica_us):,}",
            f"{cores(rate, of.exporter_us):,}",
            gib(rate * TOMBSTONE_TTL_MS / 1000 * of.record_bytes),
            gib(rate * 3600 * of.event_bytes),
        ]
        for rate in RATES
    ]


COLUMNS: Final = (
    "requests a second",
    "gate cores",
    "primaries (a core each)",
    "cores of replicas",
    "exporter cores",
    "ledger memory in all, GiB",
    "more for an hour without the store, GiB",
)


def main() -> None:
    """Entry point of `python -m loadtest.growth.sizing`."""
    parser = argparse.ArgumentParser(prog="loadtest.growth.sizing", description="Size a system.")
    parser.add_argument("--reports", type=Path, default=Path("reports/growth"))
    arguments = parser.parse_args()
    of = carries(arguments.reports, on_page(PAGE.read_text()))
    inputs = [
        [FROM[each.name], f"{getattr(of, each.name):,}", _a_core(each.name, of)]
        for each in fields(of)
    ]
    tables = {
        "carries": table(
            ("measured", "each", "one core at 100 % carries a second (computed)"), inputs
        ),
        "sizing": table(COLUMNS, sizing(of)),
    }
    for name, made in tables.items():
        (arguments.reports / f"{name}.json").write_bytes(orjson.dumps({"table": made}))


def _a_core(name: str, of: Carries) -> str:
    return f"{1e6 / getattr(of, name):,.0f}" if name.endswith("_us") else "–"


if __name__ == "__main__":
    main()
