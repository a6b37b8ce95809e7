"""One run: rounds on the ledgers alone, then rounds with a gate in front of three of them.

Invariants: the ledgers take turns in every part of every round, each time in another order. The first
round only warms up. What a gate cannot do is kept in words, and ends nothing but itself.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from loadtest import children
from loadtest.scale import gates
from loadtest.scale.drive import Driven, deal, drive, record
from loadtest.scale.gates import GateSample, Latency, OnLedger
from loadtest.scale.pairs import KINDS, PLAIN, Client, Paced, PairSample, shares
from loadtest.scale.servers import REPLICATED, SINGLE, THREE, Ledger, Shape, idle_share, running

CALLERS: Final = (8, 32)
"""At once for each primary."""
GATED: Final = (SINGLE, THREE, REPLICATED)
"""Ledgers that get a gate."""
_IDLE_S: Final = 1.0
_PARTS: Final = 4
"""Steps of a round for each ledger."""
_DELIVERED_S: Final = 1.0
"""After a full load the exporters catch up: that would delay the requests whose latency is taken."""
_LEAST_ROUNDS: Final = 3

OnStep = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    rounds:       samples of everything, at most
    minutes:      of the ledgers' rounds, and again of the gates': no further one begins after them,
                  unless fewer than three were measured
    pairs:        of a sample through the client; `packed` of one without it
    rate:         paced pairs a second for each primary while latency is taken, for `seconds`
    gate_rate:    the same of requests through a gate
    gate_seconds: of each of a gate's two loads; 0 leaves gates out
    """

    rounds: int
    minutes: float
    pairs: int
    packed: int
    rate: float
    seconds: float
    gate_rate: float
    gate_seconds: float


FULL: Final = Size(7, 3.2, 3072, 18_432, 150, 2.0, 200, 2.0)
QUICK: Final = Size(1, 3.2, 512, 4608, 150, 0.5, 100, 0.5)
_WARM: Final = replace(QUICK, pairs=512, packed=2304, seconds=0.3, gate_seconds=0.5)


@dataclass(slots=True)
class Run:
    """Every sample, by ledger and what was measured, in the order of the rounds.

    missing: of ledgers whose gate did not start: why
    idle:    share of a core that a ledger's servers use while nobody asks
    shares:  of the customers, on each primary
    """

    server: str = ""
    pairs: dict[tuple[str, str, int], list[PairSample]] = field(default_factory=dict)
    paced: dict[str, list[Paced]] = field(default_factory=dict)
    driven: dict[str, list[Driven]] = field(default_factory=dict)
    gates: dict[str, list[GateSample]] = field(default_factory=dict)
    gate_latencies: dict[str, list[Latency]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    shares: dict[str, list[float]] = field(default_factory=dict)


class Steps:
    """Where progress is reported. total: of the run, so far as it is known at its beginning"""

    def __init__(self, shapes: Sequence[Shape], size: Size, begin: OnStep) -> None:
        gated = 1 + sum(shape in GATED for shape in shapes) if size.gate_seconds else 0
        self.total = (size.rounds + 1) * (_PARTS * len(shapes) + gated)
        self.begin = begin


@contextlib.contextmanager
def started(shapes: Sequence[Shape], folder: Path) -> Iterator[list[Ledger]]:
    """Ledgers of these shapes, until the block ends. Raises NodeFailed."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(running(shape, folder / str(number)))
            for number, shape in enumerate(shapes)
        ]


async def measure(shapes: Sequence[Shape], size: Size, steps: Steps) -> Run:
    """Run every measurement. Raises NodeFailed, NotServed, Unanswered."""
    with tempfile.TemporaryDirectory(prefix="scale-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        ledgers = stack.enter_context(started(shapes, folder))
        run = Run(server=ledgers[0].server())
        for ledger in ledgers:
            run.idle[ledger.name] = idle_share(ledger, _IDLE_S)
            run.shares[ledger.name] = shares(ledger)
        await _ledger_rounds(ledgers, size, run, steps)
        gated = [ledger for ledger in ledgers if ledger.shape in GATED]
        if size.gate_seconds:
            for ledger in gated:
                ledger.empty()
            provider = stack.enter_context(children.provider())
            serving = gates.serving(gated, provider.url, folder / "gates")
            on, missing = stack.enter_context(serving)
            run.missing |= missing
            await _gate_rounds(on, provider.url, size, run, steps)
    return run


def _rounds(size: Size) -> Iterator[tuple[int, Size]]:
    """The number of each round and its size; the first only warms up."""
    deadline_s = time.monotonic() + size.minutes * 60
    yield 0, replace(_WARM, rate=size.rate, gate_rate=size.gate_rate)
    for number in range(1, size.rounds + 1):
        if number > _LEAST_ROUNDS and time.monotonic() > deadline_s:
            return
        yield number, size


def turned(things: Sequence[T], number: int) -> list[T]:
    """The same things, beginning with another one each time, and backwards every other time."""
    turn = number % len(things)
    found = [*things[turn:], *things[:turn]]
    return found[::-1] if number % 2 else found


async def _ledger_rounds(ledgers: Sequence[Ledger], size: Size, run: Run, steps: Steps) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(ledger)) for ledger in ledgers]
        for number, of in _rounds(size):
            into = run if number else Run()
            await _through_client(turned(clients, number), of, into, steps)
            await _packed(turned(clients, number), of, number, (into, steps))


async def _through_client(clients: Sequence[Client], size: Size, run: Run, steps: Steps) -> None:
    for kind in KINDS:
        prepared = [(client, await client.prepared(kind)) for client in clients]
        for client, _ in prepared:
            steps.begin(f"pairs, {kind.name}: {client.ledger.name}")
        for callers in CALLERS:
            for client, pairs in prepared:
                key = client.ledger.name, kind.name, callers
                sample = await client.sample(pairs, callers, size.pairs)
                run.pairs.setdefault(key, []).append(sample)
        if kind is PLAIN:
            for client, pairs in prepared:
                steps.begin(f"pairs at a paced rate: {client.ledger.name}")
                found = await client.paced(pairs, size.rate, size.seconds)
                run.paced.setdefault(client.ledger.name, []).append(found)


async def _packed(
    clients: Sequence[Client], size: Size, number: int, to: tuple[Run, Steps]
) -> None:
    run, steps = to
    packed = await record(PLAIN, size.packed, f"d{number}-")
    for client in clients:
        ledger = client.ledger
        steps.begin(f"pairs packed before: {ledger.name}")
        await client.prepared(PLAIN)
        run.driven.setdefault(ledger.name, []).append(drive(ledger, deal(packed, ledger)))


async def _gate_rounds(
    on: Sequence[OnLedger], upstream_url: str, size: Size, run: Run, steps: Steps
) -> None:
    urls: Mapping[str, str] = {
        gates.DIRECT: upstream_url,
        **{one.ledger.name: one.gate.url for one in on},
    }
    for number, of in _rounds(size):
        into = run if number else Run()
        for one in turned(on, number) if on else ():
            sample = await one.sample(of.gate_seconds)
            into.gates.setdefault(one.ledger.name, []).append(sample)
        await asyncio.sleep(_DELIVERED_S)
        for name in turned(list(urls), number):
            steps.begin(f"requests: {name}")
            found = await gates.latency(urls[name], name, of.gate_rate, of.gate_seconds)
            into.gate_latencies.setdefault(name, []).append(found)
