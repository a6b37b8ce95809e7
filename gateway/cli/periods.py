"""Times on the command line: dates, moments, durations, and how long ago."""

import datetime as dt
import re
import time
from typing import Annotated, Final

import typer

from gateway.cli.parameters import moment_ms

_AGO: Final = re.compile(r"([0-9]{1,6})([mhdw])")
_UNIT_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Since = Annotated[
    str,
    typer.Option(
        metavar="WHEN",
        help="From then on: a date (UTC), a moment with its time zone, or 7d, 24h, 30m ago.",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="Before then, in the same forms; up to now without it."),
]


def period_ms(since: str, until: str | None) -> tuple[int, int | None]:
    """Read both; Unix ms. A value that does not fit, or an empty period, is a usage error."""
    now_ms = time.time_ns() // 1_000_000
    since_ms = when_ms(since, now_ms)
    until_ms = None if until is None else when_ms(until, now_ms)
    if until_ms is not None and until_ms <= since_ms:
        raise typer.BadParameter("--until is not after --since")
    return since_ms, until_ms


def when_ms(text: str, now_ms: int) -> int:
    """Read one moment: `2027-01-31` is its first moment in UTC, `7d` that long before `now_ms`."""
    ago = _AGO.fullmatch(text)
    if ago:
        return max(0, now_ms - int(ago[1]) * _UNIT_MS[ago[2]])
    if _DATE.fullmatch(text):
        try:
            day = dt.date.fromisoformat(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a date") from None
        text = f"{day.isoformat()}T00:00:00Z"
    return int(moment_ms(text))


def duration_ms(text: str) -> int:
    """A length of time: 30m, 24h, 7d, 2w, or 0; in ms."""
    ago = _AGO.fullmatch(text)
    if ago is None and text != "0":
        raise typer.BadParameter(f"{text!r} is not a duration. Write 30m, 24h, 7d, 2w or 0")
    return int(ago[1]) * _UNIT_MS[ago[2]] if ago else 0


def expiry_ms(text: str) -> int:
    """A moment to come: a date (its first moment in UTC), a moment, or so long from now: 90d. Unix ms."""
    if _AGO.fullmatch(text):
        return time.time_ns() // 1_000_000 + duration_ms(text)
    return when_ms(text, 0)
