"""How values read on a page: amounts, counts, moments, durations."""

import datetime as dt
from fractions import Fraction
from typing import Final

from markupsafe import Markup, escape

from gateway.domain.money import format_amount

_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))
_NO_BREAK: Final = "\N{NARROW NO-BREAK SPACE}"


def amount(nano: int | None, places: int = 2) -> str:
    """Credits, exact, with groups of thousands and at least `places` decimals: 1,234.50."""
    if nano is None:
        return "–"
    text = format_amount(nano)
    whole, _, decimals = text.partition(".")
    sign, digits = ("−", whole[1:]) if whole.startswith("-") else ("", whole)
    grouped = f"{int(digits):,}"
    decimals = decimals.ljust(places, "0")
    return f"{sign}{grouped}.{decimals}" if decimals else f"{sign}{grouped}"


def signed(nano: int | None) -> str:
    """An amount that always has its sign."""
    text = amount(nano)
    return f"+{text}" if nano is not None and nano > 0 else text


def rounded(number: float) -> str:
    """A rate or an estimate in credits: three significant digits, never in powers of ten."""
    if not number:
        return "0"
    size = abs(number)
    if size >= 1000:
        return f"{number:,.0f}"
    if size >= 0.001:
        return f"{number:,.{max(0, 2 - _exponent(size))}f}"
    return "<0.001" if number > 0 else ">−0.001"


def count(number: float | None) -> str:
    """A whole number with groups of thousands."""
    return "–" if number is None else f"{number:,.0f}"


def rate(per_s: float | None) -> str:
    """Something per second: three significant digits."""
    if per_s is None:
        return "–"
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}" if per_s >= 1 else f"{per_s:.2g}"


def percent(share: Fraction | float | None) -> str:
    """A percentage with one decimal; it comes in hundredths of one already."""
    return "–" if share is None else f"{float(share):.1f}{_NO_BREAK}%"


def milliseconds(ms: float | None) -> str:
    """A short time, in the unit that reads best."""
    if ms is None:
        return "–"
    if ms < 1:
        return f"{ms * 1000:.0f}{_NO_BREAK}µs"
    return f"{ms:.3g}{_NO_BREAK}ms" if ms < 1000 else f"{ms / 1000:.3g}{_NO_BREAK}s"


def duration(seconds: float | None) -> str:
    """A time span by its largest unit: 3 min, 2 h, 12 d."""
    if seconds is None:
        return "–"
    for size, name in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f}{_NO_BREAK}{name}"
    return f"{seconds:.0f}{_NO_BREAK}s" if seconds >= 1 or not seconds else f"<1{_NO_BREAK}s"


def ago(unix_ms: int, now_ms: int) -> str:
    """A moment from now: `3 min ago`, `in 12 d`, `now`."""
    seconds = (now_ms - unix_ms) / 1000
    if abs(seconds) < 1:
        return "now"
    span = duration(abs(seconds))
    return f"{span} ago" if seconds > 0 else f"in {span}"


def moment(unix_ms: int) -> str:
    """A moment in UTC to the second: 2026-11-30 20:17:57 UTC."""
    return f"{_utc(unix_ms):%Y-%m-%d %H:%M:%S} UTC"


def iso(unix_ms: int) -> str:
    """A moment as the attribute `datetime` has it."""
    return f"{_utc(unix_ms):%Y-%m-%dT%H:%M:%S}.{unix_ms % 1000:03d}Z"


def when(unix_ms: int | None, now_ms: int) -> Markup:
    """A relative time with the moment itself as its title; scripts keep it up to date."""
    if not unix_ms:
        return Markup('<span class="dim">–</span>')
    return Markup('<time datetime="{}" title="{}" data-ago>{}</time>').format(
        iso(unix_ms),
        moment(unix_ms),
        ago(unix_ms, now_ms),
    )


def clock(unix_ms: int) -> str:
    """The time of day to the millisecond, UTC."""
    return f"{_utc(unix_ms):%H:%M:%S}.{unix_ms % 1000:03d}"


def broken(identifier: str) -> Markup:
    """A long id that may break anywhere, so that it is never cut off."""
    return Markup('<code class="id">{}</code>').format(escape(identifier))


def words(name: str) -> str:
    """A name of the code as words: insufficient_credits → insufficient credits."""
    return name.replace("_", " ")


def _utc(unix_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(unix_ms // 1000, dt.UTC)


def _exponent(size: float) -> int:
    return int(f"{size:e}".partition("e")[2])
