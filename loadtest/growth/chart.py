"""Charts of growth: SVG with text that is read on a light page and on a dark one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK: Final = "#7a7f87"
"""Of words and axes: a contrast of 4 to white and of 5 to black."""
COLOURS: Final = ("#2f81d6", "#d2722c", "#2b9a66", "#a25cc4", "#c94f5d")
_STYLE: Final[Any] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "growth",
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its points, and for each the span that its samples lie in."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes. `log`, `log_y`: by tenfolds. `bound`: a line not to pass, and its name."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log: bool = True
    log_y: bool = False
    bound: tuple[float, str] | None = None
    from_zero: bool = True
    dots: bool = True


def draw(panels: Sequence[Panel], target: Path) -> None:
    """Write the panels side by side, or below one another when there are more than two."""
    target.parent.mkdir(parents=True, exist_ok=True)
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.4 * columns, 3.1 * rows), layout="constrained")
        figure.patch.set_alpha(0)
        for axes, panel in zip(_each(figure.subplots(rows, columns)), panels, strict=False):
            _panel(axes, panel)
        figure.savefig(target, metadata={"Date": None, "Creator": None})


def short(number: float) -> str:
    """1k for 1000, 10M for 10 million."""
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def _each(axes: Any) -> Iterable[Axes]:
    return [axes] if isinstance(axes, Axes) else list(axes.flat)


def _panel(axes: Axes, panel: Panel) -> None:
    axes.patch.set_alpha(0)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    if panel.log:
        axes.set_xscale("log")
        ticks = sorted({x for line in panel.lines for x in line.x})
        axes.set_xticks(ticks, [short(x) for x in ticks], minor=False)
        axes.set_xticks([], minor=True)
    if panel.log_y:
        axes.set_yscale("log")
    for line, colour in zip(panel.lines, COLOURS, strict=False):
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            line.x,
            line.y,
            marker="o" if panel.dots else None,
            markersize=4,
            linewidth=1.4,
            color=colour,
            label=line.name,
        )
    if panel.bound is not None:
        at, name = panel.bound
        axes.axhline(at, color=INK, linewidth=1, linestyle="--", label=name)
    if panel.from_zero and not panel.log_y:
        axes.set_ylim(bottom=0)
        axes.set_ylim(top=1.12 * axes.get_ylim()[1])
    if len(panel.lines) > 1 or panel.bound is not None:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
