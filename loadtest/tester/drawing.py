"""One chart as SVG that takes its colours and its font from the page around it."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from loadtest.tester.targets import show_ms

_NAMES: Final = (
    *("ink", "dim", "grid", "gate", "direct", "refused", "bad"),
    *("series-1", "series-2", "series-3", "series-4", "series-5", "series-6"),
)
COLOURS: Final[Mapping[str, str]] = {
    name: f"#0a0b{number:02x}" for number, name in enumerate(_NAMES)
}
"""Stand-ins that no chart draws otherwise; each becomes `var(--name)`."""
_SIZE: Final = (7.2, 3.1)
_LEGEND_CHARACTERS: Final = 80
"""What fits above a chart in one line, a key's line counted as six."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and what it shows."""

    title: str
    note: str
    svg: str


class Drawing:
    """A figure in the page's style, and its conversion to SVG."""

    def __init__(self, title: str, note: str) -> None:
        self._title = title
        self._note = note
        ink, dim, grid = (COLOURS[name] for name in ("ink", "dim", "grid"))
        self._style: Any = {
            "font.size": 9.5,
            "svg.fonttype": "none",
            "svg.hashsalt": title,
            "axes.edgecolor": grid,
            "axes.labelcolor": dim,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": grid,
            "grid.linewidth": 0.7,
            "text.color": ink,
            "xtick.color": dim,
            "ytick.color": dim,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
        with mpl.rc_context(self._style):
            self._figure = Figure(figsize=_SIZE, layout="constrained")
            self.axes: Axes = self._figure.subplots()

    def chart(self, *, legend: bool = True) -> Chart:
        """The finished drawing."""
        with mpl.rc_context(self._style):
            if legend:
                names = self.axes.get_legend_handles_labels()[1]
                columns = 6 if sum(map(len, names)) + 6 * len(names) < _LEGEND_CHARACTERS else 4
                self.axes.legend(
                    loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2
                )
            written = io.StringIO()
            self._figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
        return Chart(self._title, self._note, _for_page(written.getvalue(), self._title))


def _for_page(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{title}"', svg, count=1
    )
    svg = re.sub(r"(font(?:-family)?: ?(?:[\d.]+px ?)?)'[^;\"]*", r"\1var(--font)", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    # one page holds several drawings: their ids must differ
    mark = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'\bid="', f'id="{mark}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{mark}-", svg)


def ms_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of milliseconds with few, round marks."""
    axes.set_yscale("log")
    low, high = min(values), max(values)
    axes.set_ylim(low / 1.35, high * 1.5)
    subs = (1.0, 2.0, 5.0) if high / low < 40 else (1.0, 3.0) if high / low < 2000 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show_ms(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)


def draw_line(
    axes: Axes,
    points: Sequence[tuple[float, float | None]],
    name: str,
    colour: str,
    *,
    style: str = "-",
    thin: bool = False,
    dots: bool = False,
) -> list[float]:
    """Draw the points that have a value; return their values."""
    there = [(x, y) for x, y in points if y is not None]
    if there:
        axes.plot(
            [x for x, _ in there],
            [y for _, y in there],
            color=COLOURS[colour],
            label=name,
            linestyle=style,
            linewidth=1.2 if thin else 1.8,
            marker="o" if dots else None,
            markersize=4,
        )
    return [y for _, y in there]
