"""From a plan to a report: one stretch of load, several, or a search for the highest rate.

Invariants: a search believes only a stage in which every target was met; when the generator was the
limit it says so and does not call the rate the gate's.
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from loadtest.arrivals import Pace
from loadtest.tester import deck
from loadtest.tester.messages import Aim, Job
from loadtest.tester.plan import Plan
from loadtest.tester.processes import find
from loadtest.tester.report import (
    DIRECT,
    GATE,
    Report,
    Stage,
    Verdict,
    machine_here,
    now,
    own_version,
)
from loadtest.tester.session import Outcome, run_session, slice_of
from loadtest.tester.stages import stage_of
from loadtest.tester.trace import Line, read_trace

DEFAULT_RATE: Final = 100.0
_MOST_TRIES: Final = 24

OnTick = Callable[["Course", Outcome], None]
OnStage = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Course:
    """What one stretch of load does: a rate (rising to another), or clients, or a trace."""

    name: str
    rate: float | None = None
    until_rate: float | None = None
    connections: int | None = None

    def pace(self, warmup_s: float, seconds: float) -> Pace | None:
        """When requests are due; None in a closed loop."""
        if self.rate is None:
            return None
        return Pace(self.rate, self.until_rate or self.rate, warmup_s, seconds)


class Run:
    """One load test. Raises SenderFailed, BadTrace, OSError from `run`."""

    def __init__(self, plan: Plan, *, on_tick: OnTick, on_stage: OnStage) -> None:
        assert plan.url is not None
        self._plan = plan
        self._url = plan.url.removesuffix("/v1")
        self._direct_url = plan.direct.url and plan.direct.url.removesuffix("/v1")
        self._on_tick = on_tick
        self._on_stage = on_stage
        self._lines: list[Line] = []
        if plan.load.trace is not None:
            self._lines = read_trace(plan.load.trace, plan.load.speed)
        mix = mix_of(plan)
        seed = plan.load.seed
        self._cards = deck.of_trace(mix, self._lines, seed) if self._lines else deck.draw(mix, seed)
        self.watched = find(self._url, self._direct_url, plan.processes)

    async def run(self) -> Report:
        """Carry the plan out."""
        load = self._plan.load
        if load.search is not None:
            return await self._search(*load.search)
        if load.steps is not None:
            stages = [await self._stage(Course(f"{rate:g}/s", rate)) for rate in load.steps]
            return self._report("steps", stages, len(stages) - 1)
        if load.ramp is not None:
            low, high = load.ramp
            course = Course(f"{low:g} … {high:g}/s", low, high)
            return self._report("ramp", [await self._stage(course)], 0)
        if load.connections is not None:
            course = Course(f"{load.connections} clients", connections=load.connections)
            return self._report("closed", [await self._stage(course)], 0)
        if self._lines:
            assert load.trace is not None
            return self._report("trace", [await self._stage(Course(load.trace.name))], 0)
        rate = load.rate or DEFAULT_RATE
        return self._report("rate", [await self._stage(Course(f"{rate:g}/s", rate))], 0)

    async def _search(self, low: float, high: float) -> Report:
        tried = await search(
            low,
            high,
            self._plan.load.precision,
            lambda rate: self._stage(Course(f"{rate:g}/s", rate)),
        )
        met = [stage for stage in tried if stage.met]
        best = (
            max(met, key=lambda stage: stage.rate or 0)
            if met
            else min(tried, key=lambda stage: stage.rate or 0)
        )
        ordered = sorted(tried, key=lambda stage: stage.rate or 0)
        return self._report("search", ordered, ordered.index(best), best.rate if met else None)

    async def _stage(self, course: Course) -> Stage:
        plan, load = self._plan, self._plan.load
        seconds, warmup_s = load.duration, load.warmup
        if self._lines:
            warmup_s, seconds = 0.0, max(1.0, self._lines[-1].timestamp / 1e3 + 0.001)
        jobs = list(self._jobs(course, warmup_s, seconds))
        outcome = await run_session(jobs, self.watched, lambda seen: self._on_tick(course, seen))
        pace = course.pace(0, seconds)
        rates = {}
        if pace is not None:
            slice_s = outcome.slice_s
            rates = {
                number: pace.rate_at((number + 0.5) * slice_s)
                for number in range(int(seconds / slice_s) + 1)
            }
        stage = stage_of(
            course.name,
            outcome,
            plan.targets,
            senders=len(jobs),
            rate=course.rate,
            until_rate=course.until_rate,
            connections=course.connections,
            rate_at=rates,
        )
        self._on_stage(stage)
        return stage

    def _jobs(self, course: Course, warmup_s: float, seconds: float) -> Iterator[Job]:
        plan, load = self._plan, self._plan.load
        parts = min(load.processes, course.connections or load.processes)
        share = plan.direct.share
        for part in range(parts):
            aims = [self._aim(GATE, self._url, course, 1.0, None, part, parts, warmup_s, seconds)]
            if self._direct_url and share > 0:
                key = plan.direct.key.get_secret_value() if plan.direct.key else ""
                aims.append(
                    self._aim(
                        DIRECT, self._direct_url, course, share, key, part, parts, warmup_s, seconds
                    )
                )
            yield Job(
                aims=aims,
                part=part,
                parts=parts,
                spacing=load.arrivals,
                warmup_s=warmup_s,
                seconds=seconds,
                slice_s=slice_of(seconds),
                timeout_s=load.timeout,
                seed=load.seed,
            )

    def _aim(
        self,
        name: str,
        url: str,
        course: Course,
        share: float,
        key: str | None,
        part: int,
        parts: int,
        warmup_s: float,
        seconds: float,
    ) -> Aim:
        pace = course.pace(warmup_s, seconds)
        every = max(1, round(1 / share))
        cards, dues_s = self._cards, None
        if self._lines:
            cards = cards[part::parts][::every]
            dues_s = [line.timestamp / 1e3 for line in self._lines[part::parts]][::every]
        if course.connections is not None:
            connections = _portion(max(1, round(course.connections * share)), part, parts)
        else:
            connections = max(1, round(self._plan.load.max_connections * share / parts))
        return Aim(
            name=name,
            url=url,
            ca_file=self._plan.ca_file,
            key=key,
            cards=cards,
            pace=pace.shared(share) if pace is not None else None,
            dues_s=dues_s,
            connections=connections,
        )

    def _report(
        self, shape: Any, stages: list[Stage], main: int, found_rate: float | None = None
    ) -> Report:
        return Report(
            title=self._plan.report.title,
            at=now(),
            creditgate=own_version(),
            machine=machine_here(),
            url=self._url,
            direct_url=self._direct_url,
            shape=shape,
            plan=_shown(self._plan),
            stages=stages,
            main=main,
            found_rate=found_rate,
            verdict=verdict(shape, stages, main),
        )


def verdict(shape: str, stages: list[Stage], main: int) -> Verdict:
    """What all the stages say of the targets; of a search, the stage that was found."""
    judged = [stages[main]] if shape == "search" else stages
    if not any(stage.targets for stage in judged):
        return "none"
    missed = [stage for stage in judged if not stage.met]
    if not missed:
        return "met"
    return "inconclusive" if all(stage.senders.limits for stage in missed) else "missed"


class Judgeable(Protocol):
    """Something that meets its targets or does not."""

    @property
    def met(self) -> bool:
        """Whether it does."""


Tried = TypeVar("Tried", bound=Judgeable)


async def search(
    low: float, high: float, precision: float, attempt: Callable[[float], Awaitable[Tried]]
) -> list[Tried]:
    """Stages tried for the highest rate that meets the targets: doubling, then halving the gap.

    precision: stop when the gap is this share of the rate
    """
    tried = [await attempt(low)]
    if not tried[0].met:
        return tried
    good, bad = low, None
    while len(tried) < _MOST_TRIES:
        if bad is None:
            rate = min(good * 2, high)
        elif bad - good <= precision * good:
            break
        else:
            rate = _rounded((good * bad) ** 0.5)
        if rate <= good or (bad is not None and rate >= bad):
            break
        stage = await attempt(rate)
        tried.append(stage)
        if stage.met:
            good = rate
        else:
            bad = rate
    return tried


def _rounded(rate: float) -> float:
    """A rate in three digits."""
    return float(f"{rate:.3g}")


def _portion(count: int, part: int, parts: int) -> int:
    """The share of a count that one of several parts takes."""
    return count // parts + (part < count % parts)


def mix_of(plan: Plan) -> deck.Mix:
    """What requests are like."""
    asked = plan.requests
    return deck.Mix(
        models=tuple(
            deck.Model(
                model.model,
                model.api or asked.api,
                model.weight,
                asked.stream if model.stream is None else model.stream,
            )
            for model in asked.models
        ),
        keys=tuple(deck.Key(key.key.get_secret_value(), key.weight) for key in asked.keys),
        prompt_tokens=asked.prompt_tokens,
        output_tokens=asked.output_tokens,
        max_tokens=asked.max_tokens,
        simulate=asked.simulate,
    )


def _shown(plan: Plan) -> dict[str, Any]:
    """The plan as it goes into a report: without secrets and without what was not said."""
    shown: dict[str, Any] = json.loads(
        plan.model_dump_json(exclude_none=True, exclude={"targets": True, "progress": True})
    )
    shown["targets"] = [target.text for target in plan.targets]
    return shown
