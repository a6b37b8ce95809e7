"""Loads one contender at a time and reads the meters: samples, in rounds.

Invariants: contenders take turns in every workload of every round, forwards and backwards by turns, so
that what the machine does in those minutes meets them all. What a contender cannot do is kept as
`failed`, in words.
"""

import asyncio
import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import redis

from loadtest.bench.cells import Cell
from loadtest.generator import Load, Result, percentile
from loadtest.measure import NOTHING_SPENT, Sample, cpu_s, machine_busy_s, redis_cost
from loadtest.peers.target import Target
from loadtest.requests import Shot, same

_SETTLE_TIME_S: Final = 0.2
_DRAIN_S: Final = 15.0
_OPENING_S: Final = 0.05
_HOPELESS: Final = 0.5
"""A contender that carries less than this share of a rate, asked as fast as it can, is not asked for it."""

Key = tuple[str, str]
"""Cell and target, or target and upstream, by name."""


class GateFails(Exception):
    """The gate gave no good answer; the message names the workload and what came instead."""


@dataclass(slots=True)
class Bench:
    """Running contenders and their samples so far.

    around:  processes of the measurement other than the contenders: providers, Redis
    failed:  of a contender in a workload: why there is no sample
    plain_only: contenders that take the workloads in front of the plain upstream only
    """

    seconds: float
    redis: "redis.Redis"
    around: Sequence[int]
    targets: Sequence[Target]
    gate: str
    plain_only: Collection[str] = ()
    samples: dict[Key, list[Sample]] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)

    def _taking(self, cell: Cell, targets: Sequence[Target]) -> list[Target]:
        return [
            target
            for target in targets
            if cell.upstream == "plain" or target.name not in self.plain_only
        ]

    def samples_of(self, cells: Sequence[Cell]) -> int:
        """How many samples a round of these workloads takes, at most."""
        return sum(len(self._taking(cell, self.targets)) for cell in cells)

    async def warm(
        self, cells: Sequence[Cell], seconds: float, on_sample: Callable[[str], None]
    ) -> None:
        """Bring every contender up to speed, and find out what it cannot do.

        Raises GateFails.
        """
        for cell in cells:
            for target in self._taking(cell, self.targets):
                on_sample(f"warming up: {cell.name}, {target.name}")
                result, sample = await self.sample(cell, target, seconds, rate=None)
                if not result.good:
                    self._fails(cell, target, result)
                elif (
                    cell.rate is not None
                    and target.name != self.gate
                    and sample.per_second < cell.rate * _HOPELESS
                ):
                    carried = f"{sample.per_second:,.0f}/s at most"
                    self.failed[cell.name, target.name] = carried

    async def round(
        self, cells: Sequence[Cell], number: int, on_sample: Callable[[str], None]
    ) -> None:
        """One sample of every contender in every workload. Raises GateFails."""
        order = list(self.targets) if number % 2 == 0 else list(reversed(self.targets))
        for cell in cells:
            for target in self._taking(cell, order):
                on_sample(f"{cell.name}: {target.name}")
                if (cell.name, target.name) in self.failed:
                    continue
                if cell.upstream == "tls":
                    await self._shake_hands(cell, target)
                result, sample = await self.sample(cell, target, self.seconds, rate=cell.rate)
                if result.good:
                    self.samples.setdefault((cell.name, target.name), []).append(sample)
                else:
                    self._fails(cell, target, result)

    def _fails(self, cell: Cell, target: Target, result: Result) -> None:
        why = _fault(result)
        if target.name == self.gate:
            raise GateFails(f"{cell.name}: {why}")
        self.failed[cell.name, target.name] = f"fails: {why}"

    async def _shake_hands(self, cell: Cell, target: Target) -> None:
        """A request on every connection, unmeasured: the last ones were closed meanwhile, idle."""
        await self._load(replace(cell, itl_ms=0), target, _OPENING_S, None).run()

    def _load(self, cell: Cell, target: Target, seconds: float, rate: float | None) -> Load:
        return Load(
            target.url(cell.upstream, cell.stream),
            same(_shot(cell, target)),
            connections=cell.connections,
            seconds=seconds,
            rate=rate,
            tls=target.tls,
            drain_s=_DRAIN_S,
        )

    async def sample(
        self, cell: Cell, target: Target, seconds: float, *, rate: float | None
    ) -> tuple[Result, Sample]:
        """Load one contender for so long and read the meters before and after."""
        serving, others = target.serving(), target.others()
        known_pids = [os.getpid(), *self.around, *serving, *others]
        load = self._load(cell, target, seconds, rate)
        before = (cpu_s(serving), cpu_s(others), cpu_s(known_pids), machine_busy_s())
        spent = redis_cost(self.redis)
        result = await load.run()
        await asyncio.sleep(_SETTLE_TIME_S)  # what is settled after the last byte counts too
        after = (cpu_s(serving), cpu_s(others), cpu_s(known_pids), machine_busy_s())
        own, other, known, busy = (b - a for a, b in zip(before, after, strict=True))
        cost = redis_cost(self.redis).since(spent) if target.ledger else NOTHING_SPENT
        target.tidy()
        each = 1 / result.good if result.good else math.nan
        return result, Sample(
            good=result.good,
            bad=result.sent - result.good,
            per_second=result.per_second,
            cpu_us=own * 1e6 * each,
            other_cpu_us=other * 1e6 * each,
            redis_us=cost.cpu_s * 1e6 * each,
            scripts_us=cost.script_s * 1e6 * each,
            scripts=cost.script_calls * each,
            p50_ms=percentile(result.total_s, 0.5) * 1e3,
            p99_ms=percentile(result.total_s, 0.99) * 1e3,
            first_byte_p50_ms=percentile(result.first_byte_s, 0.5) * 1e3,
            core_share=own / result.seconds,
            foreign_share=max(0.0, busy - known) / (result.seconds + _SETTLE_TIME_S),
        )


def _shot(cell: Cell, target: Target) -> Shot:
    upstream = cell.upstream
    return cell.shot(target.fields(upstream), target.members(upstream), target.path)


def _fault(result: Result) -> str:
    """What came instead of good answers."""
    counts = [
        f"{n}× {status or 'no status'} {code}".rstrip()
        for (status, code), n in result.refusals.items()
    ]
    counts += [f"{n}× {ending}" for ending, n in result.endings.items() if ending != "whole"]
    return ", ".join(counts) or f"{result.connect_failures} failed connections"
