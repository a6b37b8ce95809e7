"""Moments as people write them on the command line."""

import datetime as dt
import re
from typing import Final

from gateway.cli.output import fail

_AGO: Final = re.compile(r"(\d{1,6})([mhdw])")
_UNIT_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def read_moment(text: str, now_ms: int) -> int:
    """Unix ms of a date (its start in UTC), an RFC 3339 time, or a time ago (30m, 12h, 7d, 4w).

    Ends the command for anything else.
    """
    if ago := _AGO.fullmatch(text):
        return now_ms - int(ago[1]) * _UNIT_MS[ago[2]]
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise fail(
            f"{text!r} is no time; write 2027-01-31, 2027-01-31T08:00:00Z, or 7d for seven days ago"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return int(moment.timestamp() * 1000)
