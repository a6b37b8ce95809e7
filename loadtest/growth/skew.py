"""Hot wallets and the busiest of N servers, simulated: `make skew`.

Requests are spread over customers by Zipf's distribution: the n-th has a share in proportion to 1 / n^s. A customer's
shard is what `shard_of` says, a shard's slot what Redis Cluster makes of its hash tag (CRC16 of
`cg:N`, modulo 16,384). Nothing here is timed. What one server carries comes from the report of
`make growth` if there is one, and is asked of nobody else.

Invariants: shards are placed on servers in three ways: `slots`, the slots cut into equal ranges, as a new
cluster has them; `dealt`, the shards dealt in turn, so that all servers have as many; `by load`, the
heaviest shard first, each to the server that has least, as an operator does who knows the loads.
"""

import argparse
import heapq
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from redis.crc import key_slot
from rich.console import Console
from rich.table import Table

from gateway.domain.reservation import shard_of
from gateway.ledger.codec.key_names import Keys
from loadtest.growth import page
from loadtest.growth.chart import Line, Panel, draw

SLOTS: Final = 16_384
EXPONENTS: Final = (0.6, 0.8, 1.0, 1.2)
TOLD: Final = (0.6, 1.0)
"""Those that docs/explanation/scale.md shows; the report has all."""
SHARDS: Final = (64, 256, 1024)
SERVERS: Final = (1, 2, 4, 8, 16, 32, 64)
RATES: Final = (10**3, 10**4, 10**5, 10**6)
POPULATIONS: Final = 3
"""Sets of names: where a customer falls is chance."""


def shares(customers: int, exponent: float) -> list[float]:
    """Of each customer, the most frequent first; in all 1."""
    weights: list[float] = [n**-exponent for n in range(1, customers + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def by_shard(of: Sequence[float], shards: int, population: int) -> list[float]:
    """Each shard's share of the load."""
    loads = [0.0] * shards
    for number, share in enumerate(of):
        loads[shard_of(f"customer-{population}-{number}", shards)] += share
    return loads


def slots(loads: Sequence[float], servers: int) -> list[float]:
    """Each server's share when the slots are cut into equal ranges."""
    keys, of = Keys(shard_count=len(loads)), [0.0] * servers
    for shard, load in enumerate(loads):
        of[key_slot(keys.meta(shard)) * servers // SLOTS] += load
    return of


def dealt(loads: Sequence[float], servers: int) -> list[float]:
    """Each server's share when the shards are dealt in turn."""
    return [sum(loads[server::servers]) for server in range(servers)]


def by_load(loads: Sequence[float], servers: int) -> list[float]:
    """Each server's share when the heaviest shard goes to the least loaded server, and so on."""
    heap = [0.0] * servers
    for load in sorted(loads, reverse=True):
        heapq.heapreplace(heap, heap[0] + load)
    return heap


PLACEMENTS: Final[Mapping[str, Callable[[Sequence[float], int], list[float]]]] = {
    "slots": slots,
    "dealt": dealt,
    "by load": by_load,
}


@dataclass(frozen=True, slots=True)
class Skew:
    """One case: the busiest server's load over the mean, median of the populations."""

    exponent: float
    shards: int
    servers: int
    placement: str
    busiest: float


def simulate(customers: int, populations: int = POPULATIONS) -> list[Skew]:
    """Every case of the tables above."""
    found = []
    for exponent in EXPONENTS:
        of = shares(customers, exponent)
        for count in SHARDS:
            worlds = [by_shard(of, count, population) for population in range(populations)]
            for servers in SERVERS:
                for name, place in PLACEMENTS.items():
                    busiest = statistics.median(max(place(w, servers)) * servers for w in worlds)
                    found.append(Skew(exponent, count, servers, name, busiest))
    return found


def pair_us(reports: Path) -> float | None:
    """What a pair costs a server's core, by the report of the growth of customers: at its most on the first
    of its servers. None without."""
    file = reports / "customers.json"
    if not file.exists():
        return None
    first: Mapping[str, Any] = orjson.loads(file.read_bytes())["measured"][0]
    return max(float(point["least_us"]) for point in first["points"])


def _panels(
    found: Iterable[Skew], hottest: Mapping[float, float], core: float | None
) -> list[Panel]:
    cases = list(found)

    def lines(exponent: float, shards: int) -> list[Line]:
        return [
            Line(
                name,
                SERVERS,
                [
                    case.busiest
                    for case in cases
                    if (case.exponent, case.shards, case.placement) == (exponent, shards, name)
                ],
            )
            for name in PLACEMENTS
        ]

    busiest = [
        Panel(
            f"s = {exponent}, {shards} shards",
            "servers",
            "busiest server, × mean",
            lines(exponent, shards),
        )
        for exponent, shards in ((0.6, 64), (0.6, 1024), (1.0, 1024))
    ]
    rates = [
        Line(f"s = {exponent}", RATES, [rate * share for rate in RATES])
        for exponent, share in hottest.items()
    ]
    bound = None if core is None else (core, f"one core: {core:,.0f} a second")
    return [
        *busiest,
        Panel(
            "The hottest wallet",
            "requests a second in all",
            "requests a second",
            rates,
            log_y=True,
            bound=bound,
        ),
    ]


def main() -> None:
    """Entry point of `python -m loadtest.growth.skew`."""
    parser = argparse.ArgumentParser(prog="loadtest.growth.skew", description="Hot wallets.")
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("reports/growth"))
    parser.add_argument(
        "--charts", type=Path, help="where the chart goes; default: next to the report"
    )
    arguments = parser.parse_args()
    console = Console()
    console.width = max(console.width, 100)
    with console.status("simulating"):
        found = simulate(arguments.customers)
        hottest = {s: shares(arguments.customers, s)[0] for s in EXPONENTS}
    cost_us = pair_us(arguments.out)
    core = None if cost_us is None else 1e6 / cost_us
    told = [
        [
            f"{exponent}",
            f"{shards}",
            name,
            *(
                f"{case.busiest:.2f}"
                for case in found
                if (case.exponent, case.shards, case.placement) == (exponent, shards, name)
            ),
        ]
        for exponent in EXPONENTS
        for shards in SHARDS
        for name in PLACEMENTS
    ]
    shown = Table("s", "shards", "placed by", *(f"{servers} servers" for servers in SERVERS))
    for cells in told:
        shown.add_row(*cells)
    shown.title = "Load of the busiest server over the mean"
    console.print(shown)
    hot_rows = [
        [f"{exponent}", f"{share:.2%}", "–" if core is None else f"{core / share:,.0f}"]
        for exponent, share in hottest.items()
    ]
    hot = Table("s", "share of the hottest wallet", "a core carries it up to, requests/s in all")
    for cells in hot_rows:
        hot.add_row(*cells)
    console.print(hot)
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = {
        "customers": arguments.customers,
        "pair_us": cost_us,
        "table": page.table(
            (
                "s",
                "share of the hottest wallet",
                "a core carries it up to, requests a second in all",
            ),
            hot_rows,
        ),
        "hottest_share": {str(s): share for s, share in hottest.items()},
        "skews": [{name: getattr(case, name) for name in Skew.__slots__} for case in found],
    }
    busiest = page.table(
        ("s", "shards", "placed by", *(f"{servers} servers" for servers in SERVERS)),
        [cells for cells in told if float(cells[0]) in TOLD],
    )
    (arguments.out / "busiest.json").write_bytes(orjson.dumps({"table": busiest}))
    (arguments.out / "skew.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    draw(_panels(found, hottest, core), (arguments.charts or arguments.out) / "skew.svg")


if __name__ == "__main__":
    main()
