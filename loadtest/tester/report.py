"""The report as a document: what is written as JSON, drawn as HTML, compared with another.

Invariants: everything that is shown stands in it, histograms whole; a figure that was not measured is
null. Milliseconds, shares of 1, CPU cores, bytes.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from loadtest.tester.histogram import Histogram
from loadtest.tester.session import Outcome, Sample
from loadtest.tester.tally import FIRST_BYTE, SEND_LAG, TOTAL, Tally
from loadtest.tester.targets import Target

FORMAT: Final = 1
GATE: Final = "gate"
DIRECT: Final = "direct"
PERCENTS: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)

_BUSY_SENDER: Final = 0.9
"""Cores of one sending process from which on it may be what is measured."""
_LATE_MS: Final = 2.0
_LATE_SHARE: Final = 0.25
_MUCH_TOO_LATE_MS: Final = 100.0
"""Lateness of the slowest hundredth: counts when it is a good part of the latencies, or large."""
_BUSY_MACHINE: Final = 0.9


class Part(BaseModel):
    """A part of the report."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(Part):
    """One latency: how many values, percentiles by their percent, and the HdrHistogram in µs."""

    count: int
    mean_ms: float | None
    percentiles_ms: dict[str, float | None]
    hdr: str

    def histogram(self) -> Histogram:
        """The values."""
        return Histogram.decoded(self.hdr)


class Figures(Part):
    """What the requests to one target gave. per_second: answers (good or refused) that ended in time."""

    ended: int
    good: int
    refused: int
    errors: int
    per_second: float
    statuses: dict[str, int]
    refusals: dict[str, int]
    error_names: dict[str, int]
    latencies: dict[str, Latency]


class Moment(Part):
    """A slice of the measured time, by when requests were due."""

    at_s: float
    rate: float | None
    good: int
    refused: int
    errors: int
    p50_ms: float | None
    p99_ms: float | None
    first_byte_p50_ms: float | None
    direct_p50_ms: float | None
    direct_p99_ms: float | None


class Process(Part):
    """What a process took. cores: mean; per_answer_us: CPU microseconds for each answer of the gate."""

    name: str
    cores: float
    most_cores: float
    per_answer_us: float | None
    most_memory_bytes: int


class Look(Part):
    """One look at the processes, once a second."""

    at_s: float
    cores: dict[str, float]
    memory_bytes: dict[str, int]
    machine: float
    senders: float


class Senders(Part):
    """The load generator itself. limits: why its figures are its own, empty if they are not."""

    processes: int
    cores: float
    most_cores: float
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    limits: list[str]


class Judged(Part):
    """A target and what was measured."""

    text: str
    measured: str
    met: bool


class Stage(Part):
    """One stretch of load. rate: None is closed loop, or a trace."""

    name: str
    rate: float | None
    until_rate: float | None
    connections: int | None
    seconds: float
    slice_s: float
    gate: Figures
    direct: Figures | None
    added_ms: dict[str, dict[str, float | None]]
    moments: list[Moment]
    looks: list[Look]
    processes: list[Process]
    senders: Senders
    machine: float | None
    warnings: list[str]
    targets: list[Judged]

    @property
    def met(self) -> bool:
        """Whether every target is met."""
        return all(target.met for target in self.targets)

    @property
    def busy(self) -> bool:
        """Whether the latencies are those of a full machine."""
        return self.machine is not None and self.machine >= _BUSY_MACHINE


class Machine(Part):
    """Where it ran."""

    system: str
    python: str
    cores: int


Verdict = Literal["met", "missed", "inconclusive", "none"]


class Report(Part):
    """A load test. verdict: inconclusive when targets were missed and the generator was the limit."""

    format: Literal[1] = FORMAT
    title: str
    at: str
    creditgate: str
    machine: Machine
    url: str
    direct_url: str | None
    shape: Literal["rate", "closed", "ramp", "steps", "search", "trace"]
    plan: dict[str, Any]
    stages: list[Stage]
    main: int
    found_rate: float | None
    verdict: Verdict

    @property
    def headline(self) -> Stage:
        """The stage that the report is about."""
        return self.stages[self.main]

    @property
    def ended_by_generator(self) -> bool:
        """Whether a search ended where the generator, not the gate, was at its limit."""
        missed = (stage for stage in self.stages if not stage.met)
        return self.shape == "search" and any(stage.senders.limits for stage in missed)


class BadReport(ValueError):
    """A file that is no report; the message says why."""


def read_report(path: Path) -> Report:
    """A report from its JSON, or from the JSON beside its HTML. Raises BadReport."""
    path = path.with_suffix(".json")
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadReport(f"{path}: {error.strerror}") from None
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        at = ".".join(map(str, first["loc"]))
        raise BadReport(f"{path} is no report of a load test: {at}: {first['msg']}") from None


def machine_here() -> Machine:
    """This machine."""
    return Machine(
        system=platform.platform(), python=platform.python_version(), cores=os.cpu_count() or 1
    )


def now() -> str:
    """When a report is made."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def own_version() -> str:
    """Of creditgate."""
    return version("creditgate")


def _key(percent: float) -> str:
    return f"p{percent:g}"


def _latency(histogram: Histogram) -> Latency:
    values = histogram.percentiles_ms(PERCENTS)
    return Latency(
        count=histogram.count,
        mean_ms=histogram.mean_ms(),
        percentiles_ms=dict(zip(map(_key, PERCENTS), values, strict=True)),
        hdr=histogram.encoded(),
    )


def _figures(tally: Tally, seconds: float) -> Figures:
    kinds = tally.kinds
    return Figures(
        ended=tally.ended,
        good=kinds["good"],
        refused=kinds["refused"],
        errors=kinds["error"],
        per_second=tally.answered_inside / seconds,
        statuses={str(status): n for status, n in sorted(tally.statuses.items())},
        refusals=dict(tally.refusals.most_common()),
        error_names=dict(tally.errors.most_common()),
        latencies={
            name: _latency(histogram)
            for name, histogram in sorted(tally.latencies.items())
            if histogram.count and name != SEND_LAG
        },
    )


def measured(target: Target, gate: Tally, direct: Tally | None, seconds: float) -> float | None:
    """The figure that a target is about; None when it was not measured."""
    if target.series is not None:
        assert target.percent is not None
        found = gate.latencies[target.series].percentile_ms(target.percent)
        if not target.added:
            return found
        base = direct.latencies[target.series].percentile_ms(target.percent) if direct else None
        return None if found is None or base is None else found - base
    if target.figure == "rate":
        return gate.answered_inside / seconds
    if not gate.ended:
        return None
    return gate.kinds["error" if target.figure == "errors" else "refused"] / gate.ended


def stage_of(
    name: str,
    outcome: Outcome,
    targets: Sequence[Target],
    *,
    senders: int,
    rate: float | None = None,
    until_rate: float | None = None,
    connections: int | None = None,
    rate_at: Mapping[int, float] | None = None,
) -> Stage:
    """A session's outcome as a stage of the report."""
    gate, seconds = outcome.tallies[GATE], outcome.seconds
    direct = outcome.tallies.get(DIRECT)
    looks = [look for look in outcome.samples if 0 < look.at_s <= seconds + 0.5]
    machine = _mean([look.machine for look in looks])
    figures = _figures(gate, seconds)
    own = _senders(outcome, looks, senders, figures)
    judged = []
    for target in targets:
        value = measured(target, gate, direct, seconds)
        judged.append(Judged(text=target.text, measured=target.show(value), met=target.met(value)))
    return Stage(
        name=name,
        rate=rate,
        until_rate=until_rate,
        connections=connections,
        seconds=seconds,
        slice_s=outcome.slice_s,
        gate=figures,
        direct=_figures(direct, seconds) if direct is not None else None,
        added_ms=_added(gate, direct) if direct is not None else {},
        moments=_moments(outcome, gate, direct, rate_at or {}),
        looks=[
            Look(
                at_s=round(look.at_s, 3),
                cores={name: round(cores, 4) for name, cores in look.cores.items()},
                memory_bytes=look.memory,
                machine=round(look.machine, 4),
                senders=round(look.senders, 4),
            )
            for look in outcome.samples
            if look.at_s <= seconds + 0.5
        ],
        processes=_processes(looks, figures),
        senders=own,
        machine=machine,
        warnings=_warnings(outcome, figures, machine),
        targets=judged,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _added(gate: Tally, direct: Tally) -> dict[str, dict[str, float | None]]:
    added: dict[str, dict[str, float | None]] = {}
    for series in (TOTAL, FIRST_BYTE, "frame_gap"):
        ours, theirs = gate.latencies[series], direct.latencies[series]
        if ours.count and theirs.count:
            pairs = zip(ours.percentiles_ms(PERCENTS), theirs.percentiles_ms(PERCENTS), strict=True)
            added[series] = {
                _key(percent): None if a is None or b is None else round(a - b, 6)
                for percent, (a, b) in zip(PERCENTS, pairs, strict=True)
            }
    return added


def _moments(
    outcome: Outcome, gate: Tally, direct: Tally | None, rate_at: Mapping[int, float]
) -> list[Moment]:
    found = []
    for number in range(-(-int(outcome.seconds * 1000) // int(outcome.slice_s * 1000))):
        part = gate.slices[number]
        past = direct.slices[number] if direct is not None else None
        p50, p99 = part.total.percentiles_ms((50, 99))
        found.append(
            Moment(
                at_s=number * outcome.slice_s,
                rate=rate_at.get(number),
                good=part.kinds["good"],
                refused=part.kinds["refused"],
                errors=part.kinds["error"],
                p50_ms=p50,
                p99_ms=p99,
                first_byte_p50_ms=part.first_byte.percentile_ms(50),
                direct_p50_ms=past.total.percentile_ms(50) if past else None,
                direct_p99_ms=past.total.percentile_ms(99) if past else None,
            )
        )
    return found


def _processes(looks: Sequence[Sample], figures: Figures) -> list[Process]:
    found = []
    for name in looks[0].cores if looks else ():
        cores = [look.cores[name] for look in looks]
        mean = sum(cores) / len(cores)
        found.append(
            Process(
                name=name,
                cores=round(mean, 4),
                most_cores=round(max(cores), 4),
                per_answer_us=mean / figures.per_second * 1e6 if figures.per_second else None,
                most_memory_bytes=max(look.memory[name] for look in looks),
            )
        )
    return found


def _senders(
    outcome: Outcome, looks: Sequence[Sample], processes: int, figures: Figures
) -> Senders:
    lag = outcome.tallies[GATE].latencies[SEND_LAG]
    p50, p99 = lag.percentiles_ms((50, 99))
    cores = [look.senders for look in looks]
    mean = _mean(cores) or 0.0
    limits = []
    if mean >= _BUSY_SENDER:
        limits.append(
            f"a sending process took {mean:.0%} of a core: use more processes, or another machine"
        )
    total = figures.latencies.get(TOTAL)
    found = total.percentiles_ms["p99"] if total else None
    part_of_it = found is not None and p99 is not None and p99 >= max(_LATE_MS, _LATE_SHARE * found)
    if p99 is not None and (part_of_it or p99 >= _MUCH_TOO_LATE_MS):
        limits.append(
            f"requests were sent late (p99 {p99:.3g} ms after they were due), which is part of "
            "the latencies: use another machine, or a lower rate"
        )
    return Senders(
        processes=processes,
        cores=round(mean, 4),
        most_cores=round(max(cores, default=0.0), 4),
        lag_p50_ms=p50,
        lag_p99_ms=p99,
        limits=limits,
    )


def _warnings(outcome: Outcome, figures: Figures, machine: float | None) -> list[str]:
    found = []
    if machine is not None and machine >= _BUSY_MACHINE:
        found.append(
            f"This machine was {machine:.0%} busy. Senders, gate, upstream and whatever else ran on "
            f"its {os.cpu_count()} cores waited for each other: the latencies are those of a full "
            "machine."
        )
    if outcome.most_waiting:
        found.append(
            f"At times {outcome.most_waiting:,} of the requests waited for a free connection; the wait is "
            "part of their latency."
        )
    if not figures.good:
        found.append("No request got a good answer.")
    return found
