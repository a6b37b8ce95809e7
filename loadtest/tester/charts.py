"""The report's charts, as SVG that takes its colours and its font from the page around it.

Invariants: a chart shows what the report holds and nothing smoothed; colours are names of the page's
style sheet, so that one drawing reads in light and in dark.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from loadtest.tester.drawing import COLOURS, Chart, Drawing, draw_line, ms_axis
from loadtest.tester.report import Latency, Report, Stage
from loadtest.tester.tally import FIRST_BYTE, FRAME_GAP, TOTAL
from loadtest.tester.targets import parse_target

_NINES: Final = (50, 90, 99, 99.9, 99.99, 99.999)
_FEW: Final = 24
_SERIES: Final = (
    (TOTAL, "Full response"),
    (FIRST_BYTE, "First byte"),
    (FRAME_GAP, "Between the frames of a stream"),
)


def charts(report: Report) -> list[Chart]:
    """All that this report has something to show for, the main stage's first."""
    stage = report.headline
    found = []
    if len(report.stages) > 1 or report.shape == "ramp":
        found.append(_by_rate(report))
    found.append(_over_time(stage))
    for series, name in _SERIES:
        if series in stage.gate.latencies and (series != FIRST_BYTE or _streams(stage)):
            direct = stage.direct.latencies.get(series) if stage.direct else None
            lines = (stage.gate.latencies[series], "through the gate", "gate")
            found.append(_percentiles(name, [lines, (direct, "direct", "direct")]))
    found.append(_answers(stage))
    if stage.processes:
        found.append(_cpu(stage))
        found.append(_memory(stage))
    return found


def _streams(stage: Stage) -> bool:
    return FRAME_GAP in stage.gate.latencies


def comparison_charts(before: Report, after: Report) -> list[Chart]:
    """The two reports' percentiles in one drawing each, and how they stood over time."""
    pair = (("before", "direct", before.headline), ("after", "gate", after.headline))
    found = [
        _percentiles(
            name,
            [(stage.gate.latencies.get(series), label, colour) for label, colour, stage in pair],
        )
        for series, name in _SERIES
        if any(series in stage.gate.latencies for _, _, stage in pair)
    ]
    drawing = Drawing(
        "99th percentile over time", "Full responses, by the second in which they were due."
    )
    seen: list[float] = []
    for label, colour, stage in pair:
        line = [(moment.at_s, moment.p99_ms) for moment in stage.moments]
        seen += draw_line(drawing.axes, line, label, colour)
    if seen:
        ms_axis(drawing.axes, seen)
    longest = max((before.headline, after.headline), key=lambda stage: stage.seconds)
    _time_axis(drawing.axes, longest)
    return [*found, drawing.chart(legend=bool(seen))]


def _percentiles(name: str, latencies: Sequence[tuple[Latency | None, str, str]]) -> Chart:
    """A curve for each latency, its label and its colour."""
    drawing = Drawing(
        f"{name}, by percentile",
        "How long the slowest took: a point at 99 % says that one in a hundred took longer.",
    )
    axes, seen = drawing.axes, list[float]()
    most = 0
    for latency, label, colour in latencies:
        if latency is None:
            continue
        # as far into the tail as there are values to see it
        last = max(1.0, min(latency.count, 10 ** len(_NINES)))
        most = max(most, latency.count)
        tails = [10 ** (step / 40) for step in range(1, 40 * len(_NINES))]
        tails = [tail for tail in tails if tail <= last]
        values = latency.histogram().percentiles_ms([100 * (1 - 1 / tail) for tail in tails])
        seen += draw_line(axes, list(zip(tails, values, strict=True)), label, colour)
    if not seen:
        return drawing.chart(legend=False)
    ms_axis(axes, seen)
    axes.set_xscale("log")
    axes.set_xlim(1.2, max(100, most))
    marks = [percent for percent in _NINES if 1 / (1 - percent / 100) <= max(100, most) * 1.01]
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - percent / 100) for percent in marks]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 1 / x):g} %"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    return drawing.chart()


def _over_time(stage: Stage) -> Chart:
    drawing = Drawing(
        "Latency over time",
        "Full responses, by the second in which they were due.",
    )
    axes = drawing.axes
    moments = stage.moments
    seen = draw_line(axes, [(m.at_s, m.p99_ms) for m in moments], "p99", "gate")
    seen += draw_line(axes, [(m.at_s, m.p50_ms) for m in moments], "p50", "series-1")
    direct = [(m.at_s, m.direct_p99_ms) for m in moments]
    seen += draw_line(axes, direct, "p99 direct", "direct", style="--", thin=True)
    direct = [(m.at_s, m.direct_p50_ms) for m in moments]
    seen += draw_line(axes, direct, "p50 direct", "direct", style=":", thin=True)
    if seen:
        ms_axis(axes, seen)
    _time_axis(axes, stage)
    return drawing.chart(legend=bool(seen))


def _time_axis(axes: Axes, stage: Stage) -> None:
    axes.set_xlim(0, max(1.0, stage.seconds))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} s"))


def _by_rate(report: Report) -> Chart:
    ramp = report.shape == "ramp"
    drawing = Drawing(
        "Latency by rate",
        "Full responses at each rate; a cross marks a rate that missed its targets."
        if not ramp
        else "Full responses, by the rate at the second in which they were due.",
    )
    axes = drawing.axes
    if ramp:
        moments = report.headline.moments
        rows = [(m.rate or 0, m.p50_ms, m.p99_ms, m.direct_p99_ms) for m in moments]
    else:
        rows = []
        for stage in sorted(report.stages, key=lambda one: one.rate or 0):
            direct = stage.direct.latencies.get(TOTAL) if stage.direct else None
            total = stage.gate.latencies.get(TOTAL)
            p50, p99 = (total.percentiles_ms[p] if total else None for p in ("p50", "p99"))
            base = direct.percentiles_ms["p99"] if direct else None
            rows.append((stage.rate or 0, p50, p99, base))
    dots = not ramp
    seen = draw_line(axes, [(row[0], row[2]) for row in rows], "p99", "gate", dots=dots)
    seen += draw_line(axes, [(row[0], row[1]) for row in rows], "p50", "series-1", dots=dots)
    seen += draw_line(
        axes, [(row[0], row[3]) for row in rows], "p99 direct", "direct", style="--", thin=True
    )
    missed = {stage.rate for stage in report.stages if not stage.met}
    crosses = [(row[0], row[2]) for row in rows if row[0] in missed and row[2] is not None]
    if crosses and not ramp:
        axes.plot(
            *zip(*crosses, strict=True), "x", color=COLOURS["bad"], label="missed", markersize=9
        )
    for text in report.plan["targets"]:
        target = parse_target(text)
        if target.series == TOTAL and not target.added:
            axes.axhline(target.value, color=COLOURS["bad"], linewidth=1, linestyle=":", label=text)
            seen.append(target.value)
    if seen:
        ms_axis(axes, seen)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.4g}/s"))
    return drawing.chart(legend=bool(seen))


def _answers(stage: Stage) -> Chart:
    drawing = Drawing(
        "Answers a second",
        "By the second in which requests were due. Refused: 402 and 429, before anything ran.",
    )
    axes = drawing.axes
    # a slice lasts until the next, the last one too
    moments = [*stage.moments, *stage.moments[-1:]]
    at = [*(moment.at_s for moment in stage.moments), stage.seconds]
    each = 1 / stage.slice_s
    kinds = [
        ("good", "gate", [moment.good * each for moment in moments]),
        ("refused", "refused", [moment.refused * each for moment in moments]),
        ("errors", "bad", [moment.errors * each for moment in moments]),
    ]
    kinds = [kind for kind in kinds if any(kind[2]) or kind[0] == "good"]
    axes.stackplot(
        at,
        *(values for _, _, values in kinds),
        labels=[name for name, _, _ in kinds],
        colors=[COLOURS[colour] for _, colour, _ in kinds],
        alpha=0.55,
        linewidth=0,
        step="post" if len(at) <= _FEW else None,
    )
    draw_line(
        axes,
        [(second, moment.rate) for second, moment in zip(at, moments, strict=True)],
        "meant to be sent",
        "ink",
        style="--",
        thin=True,
    )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}/s"))
    _time_axis(axes, stage)
    return drawing.chart()


_FIRST: Final = ("worker", "ledger", "exporter", "provider", "supervisor")


def _roles(stage: Stage) -> list[str]:
    """Roles in the order in which they matter; the workers of a gate are one."""
    roles = dict.fromkeys(role_of(process.name) for process in stage.processes)
    known = [role for role in _FIRST if role in roles]
    return [*known, *(role for role in roles if role not in known)][:6]


def role_of(name: str) -> str:
    """worker of worker-0; other names as they are."""
    head, _, number = name.rpartition("-")
    return head if number.isdigit() else name


def _by_role(values: Sequence[Mapping[str, float]], role: str) -> list[float]:
    return [sum(v for name, v in one.items() if role_of(name) == role) for one in values]


def _look_axis(axes: Axes, stage: Stage) -> None:
    axes.set_xlim(min(look.at_s for look in stage.looks), max(1.0, stage.seconds))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} s"))


def _cpu(stage: Stage) -> Chart:
    drawing = Drawing(
        "CPU",
        "Of each part's processes together; 100 % is one core. The load before 0 s is the warm-up.",
    )
    axes = drawing.axes
    at = [look.at_s for look in stage.looks]
    cores = [look.cores for look in stage.looks]
    for number, role in enumerate(_roles(stage), 1):
        line = list(zip(at, _by_role(cores, role), strict=True))
        draw_line(axes, line, role, f"series-{number}")
    senders = [(look.at_s, look.senders) for look in stage.looks]
    draw_line(axes, senders, "busiest sender", "dim", style="--", thin=True)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}"))
    _look_axis(axes, stage)
    return drawing.chart()


def _memory(stage: Stage) -> Chart:
    drawing = Drawing("Memory", "Resident, of each part's processes together.")
    axes = drawing.axes
    at = [look.at_s for look in stage.looks]
    sizes = [look.memory_bytes for look in stage.looks]
    for number, role in enumerate(_roles(stage), 1):
        values = [value / 2**20 for value in _by_role(sizes, role)]
        draw_line(axes, list(zip(at, values, strict=True)), role, f"series-{number}")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f} MiB"))
    _look_axis(axes, stage)
    return drawing.chart()
