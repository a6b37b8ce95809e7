"""An honest client that sends small requests at a steady pace: other clients wait as long as it does.

Runs in a separate process, so that the work of the attacks does not delay it. Each request is due at
a fixed time, whatever happened to earlier ones; its latency runs from that time. The longest
latency, minus the usual one, is the longest pause of the gate's event loop as seen from outside.
"""

import asyncio
import multiprocessing
import multiprocessing.connection
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import uvloop

from loadtest.hostile.wire import Address, exchange

PERIOD_S: Final = 0.02
PATIENCE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Probed:
    """What an honest client saw during one attack.

    statuses:  answers by status; 0 is none
    median_ms, longest_ms: latency of those that were answered
    wrong:     answers that were not the one that was asked for
    """

    statuses: Counter[int] = field(default_factory=Counter)
    median_ms: float = 0.0
    longest_ms: float = 0.0
    wrong: int = 0

    @property
    def served(self) -> float:
        """The share that was served well."""
        total = self.statuses.total()
        return (self.statuses[200] - self.wrong) / total if total else 0.0


class Probe:
    """Probes while the block runs; `found` holds the result afterwards.

    request:  the bytes of one request
    expected: what each answer contains
    """

    def __init__(self, address: Address, request: bytes, expected: bytes = b"") -> None:
        self._arguments = (address, request, expected)
        self._found: Probed | None = None

    def __enter__(self) -> "Probe":
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_probe, args=(theirs, *self._arguments))
        self._process.start()
        self._ours.recv()  # it has begun
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send("stop")
        self._found = self._ours.recv()
        self._process.join()

    @property
    def found(self) -> Probed:
        """The result. Only after the block."""
        assert self._found is not None, "the probe has ended"
        return self._found


def _probe(
    parent: multiprocessing.connection.Connection, address: Address, request: bytes, expected: bytes
) -> None:
    parent.send(uvloop.run(_run(parent, address, request, expected)))


async def _run(
    parent: multiprocessing.connection.Connection, address: Address, request: bytes, expected: bytes
) -> Probed:
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    wrong = 0

    async def one(due_s: float) -> None:
        nonlocal wrong
        answer = await exchange(address, request, within_s=PATIENCE_S)
        statuses[answer.status] += 1
        if answer.status:
            latencies.append(time.monotonic() - due_s)
        if answer.status == 200 and expected not in answer.body:
            wrong += 1

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(parent.fileno(), stopped.set)
    parent.send("begun")
    due_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while not stopped.is_set():
            group.create_task(one(due_s))
            due_s += PERIOD_S
            await asyncio.sleep(due_s - time.monotonic())
    asyncio.get_running_loop().remove_reader(parent.fileno())
    parent.recv()
    latencies.sort()
    if not latencies:
        return Probed(statuses, wrong=wrong)
    median_ms = latencies[len(latencies) // 2] * 1000
    return Probed(statuses, median_ms, latencies[-1] * 1000, wrong)
