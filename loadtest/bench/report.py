"""What a run's samples say: medians of the quiet ones, the tables with the ratios first, the JSON."""

import dataclasses
import math
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

from rich.table import Table

from loadtest.bench.cells import Cell
from loadtest.bench.idle import Idle
from loadtest.bench.sampling import Key
from loadtest.interpreters import Interpreter
from loadtest.measure import Sample, median, quiet
from loadtest.peers import ours

WIDTH: Final = 150
"""Columns of a terminal, or of a file, that the tables need."""


@dataclass(slots=True)
class Report:
    """The samples of a run, by cell and target.

    missing:      of each contender that could not run, why
    failed:       of a contender in a workload: why there is no sample
    about:        of each contender: version, configuration, what it gates
    interpreters: of each contender in Python: version and build of its interpreter
    """

    cells: Sequence[Cell]
    targets: Sequence[str]
    samples: Mapping[Key, Sequence[Sample]] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    failed: Mapping[Key, str] = dataclasses.field(default_factory=dict)
    about: Mapping[str, str] = dataclasses.field(default_factory=dict)
    interpreters: Mapping[str, Interpreter] = dataclasses.field(default_factory=dict)

    def believed(self, cell: str, target: str) -> tuple[list[Sample], bool]:
        """The quiet samples, and whether there were enough of them."""
        return quiet(self.samples.get((cell, target), []))

    def median(self, workload: str, target: str, figure: str) -> float | None:
        """Of the believed samples behind the plain upstream; None where there are none."""
        samples, _ = self.believed(_plain(workload), target)
        value = median(samples, attrgetter(figure))
        return None if math.isnan(value) else value

    def cpu_us(self, workload: str, target: str) -> float | None:
        """CPU microseconds per answer behind the plain upstream."""
        return self.median(workload, target, "cpu_us")

    def noise(self, workload: str, *targets: str) -> str:
        """A word of warning when one of these was not quiet."""
        loud = [name for name in targets if not self.believed(_plain(workload), name)[1]]
        return f"; noisy: {', '.join(loud)}" if loud else ""

    def why_not(self, workload: str, *targets: str) -> str:
        """Why these have no figure behind the plain upstream."""
        whys = []
        for target in targets:
            if not self.samples.get((_plain(workload), target)):
                why = self.missing.get(target) or self.failed.get((_plain(workload), target))
                whys.append(f"{target}: {why or 'left out of this run'}")
        return "; ".join(whys)

    def document(self) -> list[dict[str, Any]]:
        """Every sample and the medians, as JSON values."""
        return [
            {
                "cell": cell.name,
                "target": target,
                "over_gate": self._over_gate(cell, target),
                "failed": self.failed.get((cell.name, target)),
                "quiet": self.believed(cell.name, target)[1],
                "medians": medians(self.believed(cell.name, target)[0]),
                "samples": [
                    dataclasses.asdict(sample)
                    for sample in self.samples.get((cell.name, target), [])
                ],
            }
            for cell in self.cells
            for target in self.targets
        ]

    def _over_gate(self, cell: Cell, target: str) -> float | None:
        """CPU per answer as a multiple of the gate's."""
        mine, theirs = (
            median(self.believed(cell.name, of)[0], attrgetter("cpu_us"))
            for of in (ours.NAME, target)
        )
        ratio = theirs / mine if mine else math.nan
        return None if math.isnan(ratio) or not theirs else ratio

    def faults(self) -> dict[str, str]:
        """What could not be measured, and why: contenders, and workloads of contenders."""
        told = {f"{target}, {cell}": why for (cell, target), why in self.failed.items()}
        return {**self.missing, **told}

    # -- tables

    def ratios(self) -> Table:
        """CPU per answer of each contender as a multiple of the gate's."""
        table = Table(title="CPU per answer, × the gate's")
        table.add_column("workload", no_wrap=True)
        shown = [name for name in self.targets if self.about.get(name)]
        for name in shown:
            table.add_column(name, justify="right")
        for cell in self.cells:
            row = [cell.name]
            for name in shown:
                ratio = self._over_gate(cell, name)
                failed = self.failed.get((cell.name, name), "–").partition(":")[0]
                row.append(failed if ratio is None else f"{ratio:.2f}")
            table.add_row(*row)
        return table

    def details(self) -> Table:
        """Medians of each contender in each workload."""
        title = "Medians of quiet samples, per answer; compare inside one workload only"
        table = Table(
            title=title, caption="CPU, others, Redis and scripts in µs; p50 to first byte in ms"
        )
        table.add_column("workload and contender", no_wrap=True)
        for name in ("CPU", "others", "Redis", "scripts", "calls", "a second", "core"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("p50", "p99", "first byte", "bad", "quiet"):
            table.add_column(name, justify="right", no_wrap=True)
        for cell in self.cells:
            table.add_row(f"[bold]{cell.name}")
            for name in self.targets:
                table.add_row(*self._row(cell, name), end_section=name == self.targets[-1])
        return table

    def _row(self, cell: Cell, name: str) -> list[str]:
        every = self.samples.get((cell.name, name), [])
        if not every:
            return [f"  {name}", "–"]
        samples, calm = self.believed(cell.name, name)
        figures = medians(samples)
        return [
            f"  {name}",
            *(_cost(figures[of]) for of in ("cpu_us", "other_cpu_us", "redis_us", "scripts_us")),
            f"{figures['scripts']:.1f}" if figures["scripts"] else "–",
            f"{figures['per_second']:,.0f}",
            f"{figures['core_share']:.0%}",
            *(f"{figures[of]:.2f}" for of in ("p50_ms", "p99_ms", "first_byte_p50_ms")),
            f"{sum(sample.bad for sample in every):,}",
            f"{len(samples)}/{len(every)}" if calm else "[red]noisy",
        ]


def medians(samples: Sequence[Sample]) -> dict[str, float]:
    """The median of each of their figures."""
    return {
        figure.name: median(samples, attrgetter(figure.name))
        for figure in dataclasses.fields(Sample)
    }


def idle_table(idles: Sequence[Idle]) -> Table:
    """Memory of waiting streams."""
    table = Table(
        "contender", "upstream", "KiB a stream", "streams", "MiB before", title="Idle streams"
    )
    for idle in idles:
        cells = (f"{idle.kib_each:.1f}", f"{idle.streams:,}", f"{idle.base_mib:.0f}")
        table.add_row(idle.target, idle.upstream, *cells)
    return table


def interpreter_warning(interpreters: Collection[Interpreter]) -> str:
    """What a reader must know of the interpreters; "" when all are the same kind of optimised build."""
    kinds = sorted({str(interpreter) for interpreter in interpreters})
    if len(kinds) > 1:
        return f"Contenders in Python run on different interpreters: {'; '.join(kinds)}."
    if not all(interpreter.optimised for interpreter in interpreters):
        return (
            f"Contenders in Python run on {kinds[0]}: 15 to 20 % slower than on an optimised one."
            " BENCH_PYTHON=PATH names another."
        )
    return ""


def machine() -> dict[str, Any]:
    """Where and when this was."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def _plain(workload: str) -> str:
    return f"{workload}, plain upstream"


def _cost(value: float) -> str:
    return f"{value:,.0f}" if value else "–"
