"""Charts as values: paths and ticks in the coordinates of an SVG, for the templates to draw.

They are drawn on the server, so that they are there without scripts.
"""

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

Point = tuple[float, float]
"""A moment in Unix ms and a value."""

Look = Literal["", "two", "ahead"]

_STEPS: Final = (1, 2, 2.5, 5, 10)
_TIME_STEPS_S: Final = (
    *(10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400),
    *(2 * 86_400, 5 * 86_400, 7 * 86_400, 14 * 86_400, 30 * 86_400, 90 * 86_400, 365 * 86_400),
)
_NARROW: Final = 360
_LEFT: Final = 56
_RIGHT: Final = 12
_TOP: Final = 16
_BOTTOM: Final = 22


@dataclass(frozen=True, slots=True)
class Series:
    """One line. step: it keeps each value until the next point, as a balance does"""

    points: Sequence[Point]
    look: Look = ""
    step: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A path to draw. area: the same, closed down to zero; "" for none"""

    path: str
    look: str
    area: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `label` is its tooltip."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart to draw. now_x: where this moment is; None if it is an end of the axis."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    y_ticks: Sequence[Tick]
    x_ticks: Sequence[Tick]
    lines: Sequence[Line] = ()
    marks: Sequence[Tick] = ()
    bars: Sequence[Bar] = ()
    now_x: float | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """The same chart for a wide and for a narrow screen."""

    wide: Chart
    narrow: Chart


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a chart and how its values read. marks: moments to point out"""

    show: Callable[[float], str]
    width: int = 860
    height: int = 210
    now_ms: float | None = None
    marks: Sequence[tuple[float, str]] = ()


def line_chart(series: Sequence[Series], frame: Frame) -> Drawn | None:
    """Lines over time, from zero (or below, where values are). None without two moments."""
    return _drawn(lambda sized: _lines(series, sized), frame)


def bar_chart(values: Sequence[tuple[str, float]], frame: Frame) -> Drawn | None:
    """One bar for each label, from zero. None where nothing is above zero."""
    return _drawn(lambda sized: _bars(values, sized), frame)


def _drawn(draw: Callable[[Frame], Chart | None], frame: Frame) -> Drawn | None:
    wide = draw(frame)
    narrow = draw(replace(frame, width=_NARROW, height=min(frame.height, 190)))
    return Drawn(wide, narrow) if wide and narrow else None


def _lines(series: Sequence[Series], frame: Frame) -> Chart | None:
    points = [point for each in series for point in each.points]
    if len({at for at, _ in points}) < 2:
        return None
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    ticks = _nice(min(0.0, *(v for _, v in points)), max(0.0, *(v for _, v in points)))
    low, high = ticks[0], ticks[-1]
    right, bottom = frame.width - _RIGHT, frame.height - _BOTTOM

    def x(at_ms: float) -> float:
        return _LEFT + (at_ms - first) / (last - first) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - _TOP)

    lines: list[Line] = []
    for each in series:
        path = _path(each, x, y)
        area = ""
        if not lines and each.points:
            zero = y(0)
            area = f"{path}V{zero:.1f}H{x(each.points[0][0]):.1f}Z"
        lines.append(Line(path, each.look, area))
    now_x = None
    if frame.now_ms is not None and first < frame.now_ms < last:
        now_x = round(x(frame.now_ms), 1)
    return Chart(
        frame.width,
        frame.height,
        _LEFT,
        right,
        _TOP,
        bottom,
        [Tick(round(y(value), 1), frame.show(value)) for value in ticks],
        [Tick(round(x(at), 1), label) for at, label in _moments(first, last, frame.width // 115)],
        lines,
        [Tick(round(x(at), 1), label) for at, label in frame.marks if first <= at <= last],
        (),
        now_x,
    )


def _bars(values: Sequence[tuple[str, float]], frame: Frame) -> Chart | None:
    if not any(value > 0 for _, value in values):
        return None
    ticks = _nice(0.0, max(value for _, value in values))
    right, bottom = frame.width - _RIGHT, frame.height - _BOTTOM
    slot = (right - _LEFT) / len(values)
    width = min(slot * 0.72, 48)

    def y(value: float) -> float:
        return bottom - value / ticks[-1] * (bottom - _TOP)

    bars = [
        Bar(
            round(_LEFT + slot * index + (slot - width) / 2, 1),
            round(y(max(0.0, value)), 1),
            round(width, 1),
            round(bottom - y(max(0.0, value)), 1),
            f"{label}: {frame.show(value)}",
        )
        for index, (label, value) in enumerate(values)
    ]
    every = max(1, math.ceil(len(values) / (frame.width // 80)))
    x_ticks = [
        Tick(round(_LEFT + slot * (index + 0.5), 1), label)
        for index, (label, _) in enumerate(values)
        if index % every == 0
    ]
    return Chart(
        frame.width,
        frame.height,
        _LEFT,
        right,
        _TOP,
        bottom,
        [Tick(round(y(value), 1), frame.show(value)) for value in ticks],
        x_ticks,
        bars=bars,
    )


def thinned(points: Sequence[Point], most: int = 240) -> list[Point]:
    """At most about `most` of the points: the first, the last, and evenly some between."""
    if len(points) <= most:
        return list(points)
    every = len(points) / (most - 1)
    kept = [points[int(index * every)] for index in range(most - 1)]
    return [*kept, points[-1]]


def _path(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    parts: list[str] = []
    for at, value in series.points:
        if parts and series.step:
            parts.append(f"H{x(at):.1f}V{y(value):.1f}")
        else:
            parts.append(f"{'L' if parts else 'M'}{x(at):.1f},{y(value):.1f}")
    return "".join(parts)


def _nice(low: float, high: float, most: int = 4) -> list[float]:
    """Round values that enclose the range, evenly spaced."""
    if high <= low:
        high = low + 1
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in _STEPS if step * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _moments(first_ms: float, last_ms: float, most: int) -> list[tuple[float, str]]:
    """Round moments in the range, with labels as short as they can be."""
    seconds = (last_ms - first_ms) / 1000
    step_s = next((step for step in _TIME_STEPS_S if seconds / step <= most), _TIME_STEPS_S[-1])
    shape = "%H:%M:%S" if step_s < 60 else "%H:%M" if step_s < 86_400 else "%d %b"
    found: list[tuple[float, str]] = []
    at_s = math.ceil(first_ms / 1000 / step_s) * step_s
    while at_s * 1000 <= last_ms:
        moment = dt.datetime.fromtimestamp(at_s, dt.UTC)
        midnight = step_s < 86_400 and moment.hour == moment.minute == moment.second == 0
        found.append((at_s * 1000, moment.strftime("%d %b" if midnight else shape)))
        at_s += step_s
    return found
