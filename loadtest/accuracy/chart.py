"""The picture of a run: a panel a figure, a row a contender, a dot a tenant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.accuracy.report import Report, Summary
from loadtest.accuracy.run import TenantOutcome

OURS_COLOUR: Final = "#0b6e4f"
PEER_COLOUR: Final = "#8d99ae"
TARGET_COLOUR: Final = "#c1121f"


@dataclass(frozen=True, slots=True)
class _Panel:
    """One figure: its value for a tenant, where the target stands, and what is cut off the view."""

    title: str
    figure: Callable[[TenantOutcome], float]
    target: Callable[[Summary | None], float | None]
    good: str
    view: tuple[float, float] | None = None


_PANELS: Final = (
    _Panel(
        "served beyond the budget, %",
        lambda tenant: 100 * tenant.over_served / tenant.budget,
        lambda _peer: 0.05,
        "≤ 0.05",
        (-6, 3),
    ),
    _Panel(
        "usable part of the budget, %",
        lambda tenant: 100 * tenant.usable,
        lambda _peer: 99.5,
        "≥ 99.5",
        (93.5, 100.3),
    ),
    _Panel("streams cut", lambda tenant: tenant.load.cut, lambda _peer: 1, "mean ≤ 1"),
    _Panel(
        "seconds to exhaust it",
        lambda tenant: tenant.load.ended_s,
        lambda peer: None if peer is None else 1.2 * peer.seconds,
        "≤ 1.2 × hardcap p95",
    ),
    _Panel(
        "requests refused for a while",
        lambda tenant: tenant.refusals,
        lambda peer: None if peer is None else peer.refusals_mean,
        "≤ hardcap p95",
    ),
)


def draw(report: Report, target: Path) -> None:
    """Write the chart as SVG (or PNG, by the name's end)."""
    summaries = report.summaries()
    names = [summary.contender for summary in summaries]
    colours = [OURS_COLOUR if summary.ours else PEER_COLOUR for summary in summaries]
    peer = report.peer()
    with mpl.rc_context({"font.size": 9, "svg.hashsalt": "accuracy", "axes.grid": True}):
        figure = Figure(figsize=(15, 1.9 + 0.42 * len(names)), layout="constrained")
        axes = figure.subplots(1, len(_PANELS), sharey=True)
        for axis, panel in zip(axes, _PANELS, strict=True):
            values = [
                [
                    panel.figure(tenant)
                    for outcome in report.outcomes
                    if outcome.contender == name
                    for tenant in outcome.tenants
                ]
                for name in names
            ]
            _panel(axis, panel, values, colours, panel.target(peer))
        axes[0].set_yticks(range(len(names)), names)
        axes[0].invert_yaxis()
        scenario = report.scenario
        figure.suptitle(
            f"{scenario.streams} concurrent streams a tenant, {scenario.replicas} replicas, "
            f"budgets of {scenario.budget:,} tokens, log-normal answers (median "
            f"{scenario.median:g}, σ {scenario.sigma:g}); a dot is a tenant, a bar their mean",
            fontsize=10,
        )
        metadata: dict[str, Any] = {"Date": None} if target.suffix == ".svg" else {}
        figure.savefig(target, dpi=110, metadata=metadata)


def _panel(
    axis: Axes,
    panel: _Panel,
    values: Sequence[Sequence[float]],
    colours: Sequence[str],
    target: float | None,
) -> None:
    axis.set_title(f"{panel.title}\n{panel.good}", fontsize=9)
    axis.grid(axis="y", visible=False)
    axis.set_axisbelow(True)
    most = max((value for row in values for value in row), default=0.0)
    low, high = panel.view or (0.0, 1.12 * max(most, target or 0.0, 1.0))
    axis.set_xlim(low, high)
    for place, (row, colour) in enumerate(zip(values, colours, strict=True)):
        mean = sum(row) / len(row)
        start = 0.0 if panel.view is None or low < 0 else low
        axis.barh(place, mean - start, left=start, height=0.6, color=colour, alpha=0.35)
        inside = [value for value in row if low <= value <= high]
        axis.plot(inside, [place] * len(inside), "o", color=colour, markersize=3.5)
        if mean > high:
            axis.text(high, place, f"{mean:+.0f} ▸ ", ha="right", va="center", fontsize=8)
        elif mean < low:
            axis.text(low, place, f" ◂ {mean:.0f}", ha="left", va="center", fontsize=8)
        else:
            axis.annotate(
                f"{mean:.4g}", (mean, place), (5, 5), textcoords="offset points", fontsize=7
            )
    if target is not None:
        axis.axvline(target, color=TARGET_COLOUR, linewidth=1.2, linestyle="--")
