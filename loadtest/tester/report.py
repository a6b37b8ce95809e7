"""The report as a document: what is written as JSON, drawn as HTML, compared with another.

Invariants: it holds everything that is shown, with complete histograms; a figure that was not measured is
null. Milliseconds, shares of 1, CPU cores, bytes.
"""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from loadtest.tester.histogram import Histogram

FORMAT: Final = 1
GATE: Final = "gate"
DIRECT: Final = "direct"
BUSY_MACHINE: Final = 0.9
"""Share of the machine beyond which latencies are those of a full machine."""
PERCENTS: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)


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
        return self.machine is not None and self.machine >= BUSY_MACHINE


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
    """A report from its JSON, or from the JSON next to its HTML. Raises BadReport."""
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
