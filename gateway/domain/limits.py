"""Limits compiled to counter rows for the scripts: what is counted, where, up to what.

A limit hangs on a scope (customer, project or key) and counts one measure in calendar
windows (UTC), or, for `concurrent`, the open reservations. The scripts pick the window by
the ledger's clock among the boundaries that a row carries (rule 16 of the ledger).
"""

import datetime as dt
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal, get_args

Scope = Literal["customer", "project", "key"]
Measure = Literal["spend", "requests", "tokens", "concurrent"]
Window = Literal["minute", "hour", "day", "week", "month", "total"]

SCOPES: Final[tuple[str, ...]] = get_args(Scope)
MEASURE_NUMBERS: Final = {"spend": 1, "requests": 2, "tokens": 3, "concurrent": 4}

_ROW = struct.Struct("<BBIdddd")


@dataclass(frozen=True, slots=True)
class Limit:
    """`ceiling` is nano-credits for spend, else a count."""

    scope: Scope
    measure: Measure
    window: Window
    ceiling: int

    @property
    def counter_id(self) -> int:
        """Names the counter inside the scope's record, for ever: 32 bits of what it counts."""
        return zlib.crc32(f"{self.measure}/{self.window}".encode())


def window_borders_ms(window: Window, now_ms: int) -> tuple[int, int, int]:
    """Start of the current window, of the next and of the one after, in Unix ms, UTC.

    `total` and concurrency have one window without end: (0, 2^52, 2^52).
    """
    endless = 1 << 52
    if window == "total":
        return 0, endless, endless
    start = dt.datetime.fromtimestamp(now_ms // 1000, dt.UTC).replace(second=0, microsecond=0)
    if window != "minute":
        start = start.replace(minute=0)
    if window not in ("minute", "hour"):
        start = start.replace(hour=0)
    if window == "week":
        start -= dt.timedelta(days=start.weekday())
    if window == "month":
        start = start.replace(day=1)
    second = _next_window(window, start)
    third = _next_window(window, second)
    return (_unix_ms(start), _unix_ms(second), _unix_ms(third))


def pack_limits(limits: tuple[Limit, ...], now_ms: int) -> tuple[bytes, int]:
    """Rows for the reserve script, and until when they hold (Unix ms; repack after that)."""
    rows = []
    valid_until = 1 << 52
    for limit in limits:
        window: Window = "total" if limit.measure == "concurrent" else limit.window
        current, following, after = window_borders_ms(window, now_ms)
        valid_until = min(valid_until, following)
        rows.append(
            _ROW.pack(
                SCOPES.index(limit.scope),
                MEASURE_NUMBERS[limit.measure],
                limit.counter_id,
                limit.ceiling,
                current,
                following,
                after,
            )
        )
    return b"".join(rows), valid_until


def _next_window(window: Window, start: dt.datetime) -> dt.datetime:
    if window == "month":
        return (start + dt.timedelta(days=32)).replace(day=1)
    days = {"minute": 0, "hour": 0, "day": 1, "week": 7}[window]
    if days:
        return start + dt.timedelta(days=days)
    return start + (dt.timedelta(minutes=1) if window == "minute" else dt.timedelta(hours=1))


def _unix_ms(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1000
