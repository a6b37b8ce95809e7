"""Limits compiled to counter rows for the scripts: what is counted, where, up to what.

A limit belongs to a scope (customer, project, key, or a model within a customer) and counts one
measure in windows or, for `concurrent`, the open reservations. Windows are those of the calendar
(UTC): the scripts pick one by the ledger's clock among the boundaries that a row carries (rule 16 of
the ledger). Or they roll: a window then consists of SLOTS slots plus the current
one, so that no period of the window's length admits more than the ceiling, wherever it starts.
"""

import datetime as dt
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Scope = Literal["customer", "project", "key", "model"]
Measure = Literal["spend", "requests", "tokens", "concurrent"]
Window = Literal["minute", "hour", "day", "week", "month", "total"]

SCOPES: Final[tuple[str, ...]] = ("customer", "project", "key")
"""Scopes whose records have counters, by number. A model's counters are in the customer's record.
"""
SLOTS: Final = 12
"""Slots of a rolling window."""
MEASURE_NUMBERS: Final = {"spend": 1, "requests": 2, "tokens": 3, "concurrent": 4}

_ROW = struct.Struct("<BBIddddd")
_ENDLESS: Final = 1 << 52
_MINUTE_MS: Final = 60_000
_LENGTHS_MS: Final[dict[Window, int]] = {
    "minute": _MINUTE_MS,
    "hour": 60 * _MINUTE_MS,
    "day": 1440 * _MINUTE_MS,
    "week": 7 * 1440 * _MINUTE_MS,
    "month": 30 * 1440 * _MINUTE_MS,
}
"""Lengths of rolling windows."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`ceiling` is nano-credits for spend, else a count. model: of the scope `model` alone."""

    scope: Scope
    measure: Measure
    window: Window
    ceiling: int
    rolling: bool = False
    model: str | None = None

    @property
    def counts_in(self) -> int:
        """Number of the scope whose record has the counter."""
        return 0 if self.scope == "model" else SCOPES.index(self.scope)

    @property
    def counter_id(self) -> int:
        """Permanent id of the counter in that record: 32 bits of what it counts."""
        window = "total" if self.measure == "concurrent" else self.window
        rolling = "/rolling" if self.rolling else ""
        model = f"/model/{self.model}" if self.scope == "model" else ""
        return zlib.crc32(f"{self.measure}/{window}{rolling}{model}".encode())

    @property
    def slot_ms(self) -> int:
        """Length of a slot of a rolling window."""
        return _LENGTHS_MS[self.window] // SLOTS

    @property
    def place(self) -> tuple[str, str, str, str | None]:
        """A limit replaces another one with the same place."""
        return self.scope, self.measure, self.window, self.model


@dataclass(frozen=True, slots=True)
class LimitRows:
    """Limits as the reserve script takes them.

    limits:       those that the rows stand for, in their order: a refusal names a row
    scopes:       1 when one counts in the project's record, plus 2 when one counts in the key's
    fresh_from_ms, fresh_until_ms: while the clock is between them the first window is the current
                  one; the rows serve one window before and one after as well
    """

    limits: tuple[Limit, ...]
    packed: bytes
    scopes: int
    fresh_from_ms: int
    fresh_until_ms: int


def window_borders_ms(window: Window, now_ms: int) -> tuple[int, int, int, int]:
    """Starts of the previous, the current, the next window and the one after, in Unix ms, UTC.

    `total` and concurrency have one window without end: (0, 0, 2^52, 2^52).
    """
    if window == "total":
        return 0, 0, _ENDLESS, _ENDLESS
    start = dt.datetime.fromtimestamp(now_ms // 1000, dt.UTC).replace(second=0, microsecond=0)
    if window != "minute":
        start = start.replace(minute=0)
    if window not in ("minute", "hour"):
        start = start.replace(hour=0)
    if window == "week":
        start -= dt.timedelta(days=start.weekday())
    if window == "month":
        start = start.replace(day=1)
    following = _next_window(window, start)
    return (
        _unix_ms(_previous_window(window, start)),
        _unix_ms(start),
        _unix_ms(following),
        _unix_ms(_next_window(window, following)),
    )


def replace_limits(limits: Iterable[Limit], own: Iterable[Limit]) -> tuple[Limit, ...]:
    """Merge limits: more specific ones replace those with the same place, others are added."""
    return tuple({limit.place: limit for limit in (*limits, *own)}.values())


def pack_limits(
    limits: Iterable[Limit], now_ms: int, *, project: bool = True, model: str | None = None
) -> LimitRows:
    """Compile limits to rows. Of two that count the same, the lower ceiling holds.

    project: whether the key belongs to one; limits of the project scope are left out otherwise
    model:   the request's; limits of other models are left out
    """
    tightest: dict[tuple[int, int], Limit] = {}
    for limit in limits:
        if limit.scope == "model" and limit.model != model:
            continue
        same = (limit.counts_in, limit.counter_id)
        known = tightest.get(same)
        if (project or limit.scope != "project") and (
            known is None or limit.ceiling < known.ceiling
        ):
            tightest[same] = limit
    rows, scopes, fresh_from, fresh_until = [], 0, 0, _ENDLESS
    for limit in tightest.values():
        scope = limit.counts_in
        scopes |= scope
        if limit.rolling:
            borders = (limit.slot_ms, 0, 0, 0)
        else:
            borders = window_borders_ms(
                "total" if limit.measure == "concurrent" else limit.window, now_ms
            )
            fresh_from, fresh_until = max(fresh_from, borders[1]), min(fresh_until, borders[2])
        rows.append(
            _ROW.pack(
                scope, MEASURE_NUMBERS[limit.measure], limit.counter_id, limit.ceiling, *borders
            )
        )
    return LimitRows(tuple(tightest.values()), b"".join(rows), scopes, fresh_from, fresh_until)


def _next_window(window: Window, start: dt.datetime) -> dt.datetime:
    if window == "month":
        return (start + dt.timedelta(days=32)).replace(day=1)
    days = {"minute": 0, "hour": 0, "day": 1, "week": 7}[window]
    if days:
        return start + dt.timedelta(days=days)
    return start + (dt.timedelta(minutes=1) if window == "minute" else dt.timedelta(hours=1))


def _previous_window(window: Window, start: dt.datetime) -> dt.datetime:
    if window == "month":
        return (start - dt.timedelta(days=1)).replace(day=1)
    return start - (_next_window(window, start) - start)


def _unix_ms(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1000
