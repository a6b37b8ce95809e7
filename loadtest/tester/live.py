"""What the terminal shows while a load test runs, and what it says at the end."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.tester.report import DIRECT, GATE, Report, Stage
from loadtest.tester.run import Course
from loadtest.tester.session import Outcome
from loadtest.tester.tally import FIRST_BYTE, FRAME_GAP, REFUSAL, TOTAL
from loadtest.tester.targets import show_ms

SERIES_NAMES = {
    TOTAL: "full response",
    FIRST_BYTE: "first byte",
    FRAME_GAP: "between frames",
    REFUSAL: "refusal",
}
_SHOWN = ("p50", "p90", "p99", "p99.9", "p100")


class Screen:
    """The terminal of one load test; `on_tick` and `on_stage` are for `run.Run`."""

    def __init__(self, console: Console, *, shown: bool) -> None:
        self._console = console
        self._shown = shown
        self._live: Live | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show progress until the block ends, where there is a terminal."""
        if not self._shown or not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, transient=True, auto_refresh=False) as self._live:
            yield
        self._live = None

    def on_tick(self, course: Course, outcome: Outcome) -> None:
        """A second has passed."""
        if self._live is not None:
            self._live.update(_now(course, outcome), refresh=True)

    def on_stage(self, stage: Stage) -> None:
        """A stage has ended."""
        if not self._shown:
            return
        p50, p99 = (_percentile(stage, percent) for percent in ("p50", "p99"))
        line = Text(f"{stage.name:>14}  {stage.gate.per_second:>8,.0f} answers/s  ")
        line.append(f"p50 {p50:>8}  p99 {p99:>8}  ")
        line.append(f"refused {stage.gate.refused:,}  errors {stage.gate.errors:,}  ")
        if stage.targets:
            missed = [target.text for target in stage.targets if not target.met]
            line.append(
                *(("misses " + ", ".join(missed), "red") if missed else ("meets all", "green"))
            )
        if stage.senders.limits:
            line.append("  the generator was the limit", "yellow")
        self._console.print(line, soft_wrap=True)


def _percentile(stage: Stage, percent: str) -> str:
    total = stage.gate.latencies.get(TOTAL)
    value = total.percentiles_ms[percent] if total else None
    return show_ms(value) if value is not None else "–"


def _now(course: Course, outcome: Outcome) -> RenderableType:
    gate, direct = outcome.tallies[GATE], outcome.tallies.get(DIRECT)
    elapsed_s = outcome.elapsed_s
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    head = "warming up" if elapsed_s < 0 else f"{elapsed_s:.0f} of {outcome.seconds:.0f} s"
    table.add_row(course.name, Text(head, "bold"))
    table.add_row("", ProgressBar(outcome.seconds, max(0.0, elapsed_s), width=40))
    kinds = gate.kinds
    table.add_row(
        "answers",
        f"{kinds['good']:,} good   {kinds['refused']:,} refused   {kinds['error']:,} errors   "
        f"{outcome.running:,} running   {outcome.waiting:,} waiting",
    )
    for name, tally in (("gate", gate), ("direct", direct)):
        values = tally.latencies[TOTAL].percentiles_ms((50, 90, 99)) if tally else [None]
        shown = [show_ms(value) for value in values if value is not None]
        if shown:
            table.add_row(name, "p50 {}   p90 {}   p99 {}".format(*shown))
    if outcome.samples:
        last = outcome.samples[-1]
        cores = "   ".join(f"{name} {share:.0%}" for name, share in last.cores.items())
        table.add_row("CPU", f"{cores}   busiest sender {last.senders:.0%}".strip())
    for name, count in gate.errors.most_common(3):
        table.add_row("error", Text(f"{count:,} × {name}", "red"))
    return Group(table)


def summary(report: Report) -> Group:
    """The report's main figures for the terminal."""
    stage = report.headline
    latencies = Table(box=None, header_style="bold", pad_edge=False)
    latencies.add_column("latency")
    for percent in _SHOWN:
        latencies.add_column("max" if percent == "p100" else percent, justify="right")
    for series, name in SERIES_NAMES.items():
        for who, figures in (("", stage.gate), (", direct", stage.direct)):
            found = figures.latencies.get(series) if figures else None
            if found is not None:
                _row(latencies, name + who, found.percentiles_ms)
        if series in stage.added_ms:
            _row(latencies, f"{name}, added", stage.added_ms[series])
    parts: list[RenderableType] = [latencies, Text()]
    gate = stage.gate
    parts.append(
        Text(
            f"{gate.ended:,} requests: {gate.good:,} good, {gate.refused:,} refused, "
            f"{gate.errors:,} errors; {gate.per_second:,.1f} answers a second"
        )
    )
    for count, name in (
        (n, name) for names in (gate.refusals, gate.error_names) for name, n in names.items()
    ):
        parts.append(Text(f"  {count:,} × {name}", "dim"))
    for process in stage.processes:
        each = (
            "" if process.per_answer_us is None else f", {process.per_answer_us:,.0f} µs an answer"
        )
        memory = process.most_memory_bytes / 2**20
        parts.append(
            Text(f"  {process.name}: {process.cores:.0%} of a core{each}, {memory:,.0f} MiB", "dim")
        )
    parts += [Text(f"! {limit}", "yellow") for limit in stage.senders.limits]
    parts += [Text(f"! {warning}", "yellow") for warning in stage.warnings]
    if report.shape == "search":
        rate = "no rate" if report.found_rate is None else f"{report.found_rate:g}/s"
        parts.append(Text(f"highest rate that meets the targets: {rate}", "bold"))
        if report.ended_by_generator:
            parts.append(
                Text("! the generator was the limit above it: the gate may take more", "yellow")
            )
    busy = f" (the machine was {stage.machine:.0%} busy)" if stage.busy else ""
    for target in stage.targets:
        mark, style = ("✓", "green") if target.met else ("✗", "red")
        parts.append(Text(f"{mark} {target.text}: {target.measured}{busy}", style))
    return Group(*parts)


def _row(table: Table, name: str, percentiles: dict[str, float | None]) -> None:
    cells = [percentiles.get(percent) for percent in _SHOWN]
    table.add_row(name, *("–" if cell is None else show_ms(cell) for cell in cells))
