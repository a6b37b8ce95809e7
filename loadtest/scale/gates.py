"""A real gate in front of the simulated provider, on each ledger: CPU for a request, and what a request waits longer.

Two loads: as fast as 32 connections go, for the CPU; and a paced rate that leaves the gate mostly idle,
for latency, compared with the provider asked directly in the same round.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest import gate as gates
from loadtest.bench.cells import TOKENS
from loadtest.generator import Load, Result, percentile
from loadtest.measure import cpu_s
from loadtest.requests import CHAT_PATH, CLIENT_HEADERS, Shot, Source, chat_body, http_request
from loadtest.scale.servers import Ledger

CONNECTIONS: Final = 32
CUSTOMERS: Final = 64
"""In turns, so that every primary gets requests."""
DIRECT: Final = "direct"
_KEYS: Final = tuple(f"sk-scale-{number}" for number in range(CUSTOMERS))
_SETTLE_TIME_S: Final = 0.3
"""What is settled after the last byte counts too."""
_READY_S: Final = 120.0
_PACED_CONNECTIONS: Final = 64


class Unanswered(Exception):
    """A load was not answered as it should be. The message says what came instead."""


@dataclass(frozen=True, slots=True)
class GateSample:
    """One sample under full load; CPU in µs for a request.

    redis_us: of all primaries together
    """

    per_second: float
    gate_us: float
    redis_us: float
    replicas_us: float
    exporter_us: float


@dataclass(frozen=True, slots=True)
class Latency:
    """How long requests took at a paced rate."""

    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class OnLedger:
    """A running gate and its ledger."""

    gate: gates.Gate
    ledger: Ledger

    async def sample(self, seconds: float) -> GateSample:
        """Full load for so long. Raises Unanswered."""
        roles = {role: self.gate.pids(role) for role in ("worker", "exporter")}
        before = {role: cpu_s(pids) for role, pids in roles.items()}
        spent = self.ledger.spent()
        load = Load(self.gate.url, source(), connections=CONNECTIONS, seconds=seconds)
        result = answered(await load.run(), self.ledger.name)
        await asyncio.sleep(_SETTLE_TIME_S)
        used = self.ledger.spent().since(spent)
        each = 1e6 / result.good
        worker_us, exporter_us = (
            (cpu_s(pids) - before[role]) * each for role, pids in roles.items()
        )
        return GateSample(
            per_second=result.per_second,
            gate_us=worker_us,
            redis_us=sum(used.primaries_s) * each,
            replicas_us=used.replicas_s * each,
            exporter_us=exporter_us,
        )


async def latency(url: str, name: str, rate: float, seconds: float) -> Latency:
    """Of requests at so many a second, at the same random moments each time. Raises Unanswered."""
    load = Load(url, source(), connections=_PACED_CONNECTIONS, seconds=seconds, rate=rate)
    took_s = answered(await load.run(), name).total_s
    return Latency(percentile(took_s, 0.5) * 1e3, percentile(took_s, 0.99) * 1e3)


def answered(result: Result, name: str) -> Result:
    """The result, if every request was answered well. Raises Unanswered."""
    if not result.good or result.good != result.sent:
        counts = f"{result.good} of {result.sent} requests were answered"
        came = f"{dict(result.refusals)}, {dict(result.endings)}"
        raise Unanswered(f"{name}: {counts}; what came instead: {came}")
    return result


def source() -> Source:
    """JSON requests of all customers in turns."""
    body = chat_body(gates.MODEL, stream=False, line=f"sim: tokens={TOKENS}")
    shots = [
        Shot(http_request(CHAT_PATH, body, {**CLIENT_HEADERS, "authorization": f"Bearer {key}"}))
        for key in _KEYS
    ]
    return lambda number: shots[number % len(shots)]


@contextlib.contextmanager
def serving(
    ledgers: Sequence[Ledger], upstream_url: str, folder: Path
) -> Iterator[tuple[list[OnLedger], Mapping[str, str]]]:
    """A gate of one worker on each of these ledgers, and of each that does not start why."""
    running, missing = [], {}
    with contextlib.ExitStack() as stack:
        for number, ledger in enumerate(ledgers):
            home = folder / str(number)
            home.mkdir(parents=True)
            config = gates.write_config(home, upstream_url, redis_url=ledger.url, keys=_KEYS)
            try:
                gate = stack.enter_context(gates.serving(config, ready_s=_READY_S))
            except gates.GateFailed as error:
                missing[ledger.name] = str(error)
            else:
                running.append(OnLedger(gate, ledger))
        yield running, missing
