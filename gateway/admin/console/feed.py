"""What all gates do now: sampled every two seconds, once for all who watch.

The last quarter of an hour is kept in memory, so that a page begins with a line and not with a dot.
Sampling starts with the first viewer and stops some minutes after the last one.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from gateway.domain.gates import BEAT_EVERY_S, GateReport, Rates, rates_between, sum_rates
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.operations.backend import Backend
from gateway.operations.gates import Gates, list_gates

log = structlog.get_logger("console")

KEPT: Final = 450
"""Samples: a quarter of an hour."""
SMOOTHED: Final = 5
IDLE_S: Final = 600.0
"""Sampling goes on for so long without viewers."""


@dataclass(frozen=True, slots=True)
class GateNow:
    """One gate with what it does per second."""

    report: GateReport
    rates: Rates


@dataclass(frozen=True, slots=True)
class Sample:
    """All gates at one moment, Unix ms.

    measured: whether there are rates; they take two reports of a gate
    problem:  why the gates could not be asked, "" if they could
    """

    at_ms: int
    gates: Sequence[GateNow] = ()
    rates: Rates = field(default_factory=Rates)
    measured: bool = False
    problem: str = ""

    @property
    def present(self) -> list[GateNow]:
        """The gates that still report."""
        return [gate for gate in self.gates if not gate.report.gone(self.at_ms)]

    @property
    def in_flight(self) -> int:
        """Requests that run, on all gates."""
        return sum(gate.report.figures.in_flight for gate in self.present)

    @property
    def holds_open(self) -> int:
        """Reservations that are open, on all gates."""
        return sum(gate.report.figures.holds_open for gate in self.present)

    @property
    def held_nano(self) -> int:
        """What these hold."""
        return sum(gate.report.figures.held_nano for gate in self.present)

    @property
    def lag_events(self) -> int:
        """Events that the exporters have not delivered."""
        return sum(gate.report.figures.lag_events for gate in self.present)

    @property
    def lag_s(self) -> float:
        """Age of the oldest of them."""
        return max((gate.report.figures.lag_s for gate in self.present), default=0.0)


class Feed:
    """Samples, from the first call of `latest` or `follow` on until the process drains."""

    def __init__(
        self, backend: Backend, stopping: asyncio.Event, *, every_s: float = BEAT_EVERY_S
    ) -> None:
        """stopping: set when the process drains"""
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self._backend = backend
        self._stopping = stopping
        self._every_s = every_s
        self._last: Mapping[str, GateReport] = {}
        self._rates: dict[str, Rates] = {}
        self._measured: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._next = asyncio.Event()
        self._used_at = 0.0

    async def latest(self) -> Sample:
        """The last sample; the first one is taken for it."""
        self._begin()
        if not self.samples:
            await self._look()
        return self.samples[-1]

    async def follow(self) -> AsyncIterator[Sample]:
        """Each sample from now on, without end."""
        while True:
            self._begin()
            await self._next.wait()
            yield self.samples[-1]

    def smoothed(self) -> Sample:
        """The last sample, with the rates of the last ten seconds: single ones jump."""
        last = self.samples[-1]
        few = [each for each in list(self.samples)[-SMOOTHED:] if each.measured]
        if not last.measured or not few:
            return last
        denied: dict[str, float] = {}
        for sample in few:
            for reason, per_s in sample.rates.denied_per_s.items():
                denied[reason] = denied.get(reason, 0.0) + per_s / len(few)
        latency = sum_rates(
            Rates(
                latency_bounds_s=sample.rates.latency_bounds_s,
                latency_counts=sample.rates.latency_counts,
            )
            for sample in few
        )
        mean = Rates(
            sum(sample.rates.allowed_per_s for sample in few) / len(few),
            denied,
            sum(sample.rates.charged_nano_per_s for sample in few) / len(few),
            latency.latency_bounds_s,
            latency.latency_counts,
        )
        return replace(last, rates=mean)

    def refused(self) -> dict[str, float]:
        """Refusals by reason, in all kept samples."""
        sums: dict[str, float] = {}
        for sample in self.samples:
            for reason, per_s in sample.rates.denied_per_s.items():
                sums[reason] = sums.get(reason, 0.0) + per_s * self._every_s
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def _begin(self) -> None:
        self._used_at = time.monotonic()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while time.monotonic() - self._used_at < IDLE_S:
            await self._look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._every_s)
                return
        self.samples.clear()

    async def _look(self) -> None:
        try:
            gates = await list_gates(self._backend)
        except LedgerUnavailable as error:
            sample = Sample(time.time_ns() // 1_000_000, problem=str(error))
        else:
            sample = self._sample(gates)
        self.samples.append(sample)
        waiting, self._next = self._next, asyncio.Event()
        waiting.set()

    def _sample(self, gates: Gates) -> Sample:
        for report in gates.reports:
            before = self._last.get(report.name)
            if before is None or before.reported_at_ms != report.reported_at_ms:
                self._rates[report.name] = rates_between(before, report)
                if before is not None:
                    self._measured.add(report.name)
        self._last = {report.name: report for report in gates.reports}
        shown = [GateNow(report, self._rates[report.name]) for report in gates.reports]
        here = [gate for gate in shown if not gate.report.gone(gates.now_ms)]
        measured = not here or any(gate.report.name in self._measured for gate in here)
        return Sample(gates.now_ms, shown, sum_rates(gate.rates for gate in here), measured)
