"""Targets: what a load test must show, as people write it.

    p99<25ms          added p99<=2ms      first byte p50 < 300ms     frame gap p99<80ms
    errors<0.1%       refusals<5%         rate>=200                  refusal p99<5ms

Invariants: a figure that was not measured misses its target; it is never taken for zero.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from loadtest.tester.tally import FIRST_BYTE, FRAME_GAP, REFUSAL, TOTAL

Unit = Literal["ms", "share", "per_second"]

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SERIES: Final[Mapping[str, str]] = {
    "": TOTAL,
    "total": TOTAL,
    "first byte": FIRST_BYTE,
    "ttfb": FIRST_BYTE,
    "frame gap": FRAME_GAP,
    "gap": FRAME_GAP,
    "refusal": REFUSAL,
}
_TO_MS: Final = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_FORM: Final = re.compile(
    r"(?P<figure>[a-z][a-z _]*?)?\s*(?:\bp(?P<percent>\d{1,2}(?:\.\d+)?))?\s*"
    r"(?P<sign><=|>=|<|>|≤|≥)\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>us|µs|ms|s|%|/s)?"
)
EXAMPLE: Final = "Write such as p99<25ms, added p99<2ms, errors<0.1% or rate>=200."


class BadTarget(ValueError):
    """A text that is no target; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Target:
    """One target.

    series, percent:  which latency and percentile; None for a rate or a share
    added:            the difference to direct in the same run
    figure:           errors | refusals | rate, "" for a latency
    value:            in milliseconds, a share of 1, or answers a second
    """

    text: str
    series: str | None
    percent: float | None
    added: bool
    figure: str
    sign: str
    value: float

    @property
    def unit(self) -> Unit:
        """What the value counts."""
        if self.series is not None:
            return "ms"
        return "per_second" if self.figure == "rate" else "share"

    def met(self, measured: float | None) -> bool:
        """Whether the measured figure meets it."""
        return measured is not None and _COMPARISONS[self.sign](measured, self.value)

    def show(self, value: float | None) -> str:
        """A figure of this target's kind, for people."""
        if value is None:
            return "not measured"
        if self.unit == "share":
            return f"{value * 100:.3g} %"
        if self.unit == "per_second":
            return f"{value:,.4g}/s" if value < 1000 else f"{value:,.0f}/s"
        return show_ms(value)


def parse_target(text: str) -> Target:
    """Read one target. Raises BadTarget."""
    found = _FORM.fullmatch(" ".join(text.strip().lower().split()))
    if found is None:
        raise BadTarget(f"{text!r} is not a target")
    name = (found["figure"] or "").replace("_", " ").strip()
    sign = found["sign"].replace("≤", "<=").replace("≥", ">=")
    value, unit = float(found["value"]), found["unit"]
    if found["percent"] is None:
        return _plain(text, name.removesuffix(" rate"), sign, value, unit)
    added = name == "added" or name.startswith("added ")
    series = _SERIES.get(name.removeprefix("added").strip())
    if series is None or (added and series == REFUSAL):
        known = ", ".join(repr(word) for word in _SERIES if word)
        raise BadTarget(f"{name!r} is no latency; there is {known}")
    if unit not in _TO_MS:
        raise BadTarget(f"{text!r} needs a unit of time: us, ms or s")
    percent = float(found["percent"])
    if "<" not in sign:
        raise BadTarget(f"{text!r} would ask for slow answers")
    return Target(text, series, percent, added, "", sign, value * _TO_MS[unit])


def _plain(text: str, name: str, sign: str, value: float, unit: str | None) -> Target:
    if name == "error":
        name = "errors"
    if name in ("errors", "refusals"):
        if unit != "%":
            raise BadTarget(f"{text!r} needs a share in %")
        return Target(text, None, None, False, name, sign, value / 100)
    if name == "rate":
        if unit not in (None, "/s"):
            raise BadTarget(f"{text!r} takes answers a second, without a unit")
        return Target(text, None, None, False, name, sign, value)
    raise BadTarget(f"{text!r} names no figure")


def show_ms(value: float) -> str:
    """Milliseconds to three digits, in the unit that reads best."""
    if abs(value) < 1:
        return f"{value * 1e3:.3g} µs" if abs(value) < 0.9995 else "1 ms"
    if abs(value) < 999.5:
        return f"{value:.3g} ms"
    return f"{value / 1e3:.3g} s" if abs(value) < 999_500 else f"{value / 1e3:,.0f} s"
