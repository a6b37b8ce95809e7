"""One stretch of load: starts the senders together, watches them, and adds up their counts.

Invariants: senders die with this process, and none outlives its session; Ctrl-C reaches this process
alone, which ends them.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psutil

from loadtest.tester.messages import LENGTH, Job, Told, packed, unpacked
from loadtest.tester.processes import Use, use_of
from loadtest.tester.tally import Tally

_READY_WITHIN_S: Final = 60.0
_START_AFTER_S: Final = 0.3
_TICK_S: Final = 1.0
MOST_SLICES: Final = 600


class SenderFailed(Exception):
    """A sending process ended before its time; the message says what it said."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the processes.

    at_s:      seconds after the measured time began; negative while warming up
    cores:     by name, CPU cores used since the last look
    memory:    by name, resident bytes
    machine:   share of the whole machine that was busy
    senders:   the busiest sender's share of a core
    """

    at_s: float
    cores: dict[str, float]
    memory: dict[str, int]
    machine: float
    senders: float


@dataclass(slots=True)
class Outcome:
    """What a session gave, as it grows.

    tallies:  by aim
    running, waiting: requests now under way; due and without a connection
    began_s:  when the measured time began, in `time.monotonic` seconds
    """

    seconds: float
    slice_s: float
    began_s: float = 0.0
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    samples: list[Sample] = field(default_factory=list)
    running: int = 0
    waiting: int = 0
    most_waiting: int = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds of the measured time so far; negative while warming up."""
        return min(time.monotonic() - self.began_s, self.seconds)


Watched = Mapping[str, Sequence[int]]
OnTick = Callable[[Outcome], None]


def slice_of(seconds: float) -> float:
    """How long the slices of so long a measurement are."""
    return float(max(1, -(-int(seconds) // MOST_SLICES)))


async def run_session(jobs: Sequence[Job], watched: Watched, on_tick: OnTick) -> Outcome:
    """Do these jobs together, one process each. Raises SenderFailed."""
    outcome = Outcome(jobs[0].seconds, jobs[0].slice_s)
    senders = [_Sender() for _ in jobs]
    try:
        async with asyncio.timeout(_READY_WITHIN_S):
            await asyncio.gather(*(one.start(job) for one, job in zip(senders, jobs, strict=True)))
        start_s = time.monotonic() + _START_AFTER_S
        outcome.began_s = start_s + jobs[0].warmup_s
        for one in senders:
            one.send(start_s)
        watching = asyncio.ensure_future(_watch(outcome, senders, watched, on_tick))
        try:
            await asyncio.gather(*(one.listen(outcome, senders) for one in senders))
        finally:
            watching.cancel()
        on_tick(outcome)
        return outcome
    except TimeoutError:
        raise SenderFailed("a sending process does not start") from None
    finally:
        await asyncio.gather(*(one.end() for one in senders))


class _Sender:
    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process
        self.running = 0
        self.waiting = 0

    async def start(self, job: Job) -> None:
        tied = ("-m", "gateway.app.parent", str(os.getpid()), "loadtest.tester.sender")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *tied,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        self.send(job)
        assert self._process.stdin is not None
        await self._process.stdin.drain()
        await self._read()

    def send(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(packed(value))

    async def _read(self) -> Any:
        assert self._process.stdout is not None
        try:
            head = await self._process.stdout.readexactly(LENGTH.size)
            [length] = LENGTH.unpack(head)
            return unpacked(await self._process.stdout.readexactly(length))
        except asyncio.IncompleteReadError:
            raise SenderFailed("a sending process ended too early") from None

    async def listen(self, outcome: Outcome, senders: "Sequence[_Sender]") -> None:
        done = False
        while not done:
            told: Told = await self._read()
            for name, tally in told.tallies.items():
                outcome.tallies[name].add(tally)
            self.running, self.waiting = told.running, told.waiting
            outcome.running = sum(one.running for one in senders)
            outcome.waiting = sum(one.waiting for one in senders)
            outcome.most_waiting = max(outcome.most_waiting, outcome.waiting)
            done = told.done

    async def end(self) -> None:
        if not hasattr(self, "_process"):
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    @property
    def used_s(self) -> float:
        """CPU seconds so far, by the system's count."""
        return use_of([self._process.pid]).cpu_s


async def _watch(
    outcome: Outcome, senders: "Sequence[_Sender]", watched: Watched, on_tick: OnTick
) -> None:
    psutil.cpu_percent()  # the next call reports the time since this one
    last_s, uses, own = time.monotonic(), _uses(watched), [one.used_s for one in senders]
    while True:
        await asyncio.sleep(_TICK_S)
        now_s, now, now_own = time.monotonic(), _uses(watched), [one.used_s for one in senders]
        past_s = now_s - last_s
        outcome.samples.append(
            Sample(
                at_s=now_s - outcome.began_s,
                cores={
                    name: max(0.0, use.cpu_s - uses[name].cpu_s) / past_s
                    for name, use in now.items()
                },
                memory={name: use.memory_bytes for name, use in now.items()},
                machine=psutil.cpu_percent() / 100,
                senders=max(b - a for a, b in zip(own, now_own, strict=True)) / past_s,
            )
        )
        last_s, uses, own = now_s, now, now_own
        on_tick(outcome)


def _uses(watched: Watched) -> dict[str, Use]:
    return {name: use_of(pids) for name, pids in watched.items()}
