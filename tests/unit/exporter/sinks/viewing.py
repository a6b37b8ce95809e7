"""The ready-made views: the same sums from every store that has SQL.

A store's test file derives from `ViewContract` and supplies `sink`, a fresh `Store` that is not open, and
`query`, which runs a statement on its tables and returns the rows.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.domain.events import Event
from gateway.exporter.sink import Store
from tests.unit.exporter.sinks.contract import batch_of, make_event

Query = Callable[[str], list[tuple[Any, ...]]]

T0: Final = int(dt.datetime(2027, 1, 31, 22, 59, 59, 999_000, dt.UTC).timestamp() * 1000)
"""The last millisecond of an hour."""
HOUR_MS: Final = 3_600_000


def _event(seq: int, name: str, at_ms: int, amount: int, **changed: Any) -> Event:
    facts: Mapping[str, Any] = {"key_id": "k", "model": "m", **changed.pop("facts", {})}
    kinds = {"settled": "settle", "released": "release", "expired": "expire"}
    outcome = name.partition(":")[2]
    return make_event(
        seq,
        event_id=name,
        kind=kinds.get(outcome, outcome if outcome == "grant" else "settle_late"),
        occurred_at_ms=at_ms,
        amount_nano=amount,
        facts=facts,
        **changed,
    )


EVENTS: Final = (
    _event(0, "a:settled", T0, 70, cost_nano=30, usage={"input": 5, "cache_read": 2, "image": 9}),
    _event(1, "b:settled", T0 + 1, 50, cost_nano=60, usage={"cache_write": 3, "cache_write_1h": 4}),
    _event(2, "c:expired", T0 + 2, 40, cost_nano=20, usage={"input": 100}),
    _event(3, "c:settled_late", T0 + 2 + HOUR_MS, -10, cost_nano=-5, usage={"output": 7}),
    _event(
        4, "d:expired", T0 + 3, 9, usage={"input": 1}, facts={"project_id": "web", "model": "n"}
    ),
    _event(5, "e:released", T0 + 4, 0, usage={}),
    _event(6, "f:grant", T0 + 5, 1000, usage={}),
    _event(7, "g:settled", T0, 1, usage={"reasoning": 8}, customer_id="beta"),
)
"""Traps: an hour's and a day's edge, a late settle in the next day, one that never settled and has no cost,
entries that are no charges."""

COLUMNS: Final = (
    "customer_id, project_id, key_id, model, requests, charged_nano, cost_nano, margin_nano, input,"
    " cache_read, cache_write, output, reasoning"
)
BY_HOUR: Final = [
    ("2027-01-31T22", "acme", None, "k", "m", 1, 70, 30, 40, 5, 2, 0, 0, 0),
    ("2027-01-31T22", "beta", None, "k", "m", 1, 1, None, None, 0, 0, 0, 0, 8),
    ("2027-01-31T23", "acme", None, "k", "m", 2, 90, 80, 10, 0, 0, 7, 0, 0),
    ("2027-01-31T23", "acme", "web", "k", "n", 1, 9, None, None, 1, 0, 0, 0, 0),
    ("2027-02-01T00", "acme", None, "k", "m", 0, -10, -5, -5, 0, 0, 0, 7, 0),
]
BY_DAY: Final = [
    ("2027-01-31", "acme", None, "k", "m", 3, 160, 110, 50, 5, 2, 7, 0, 0),
    ("2027-01-31", "acme", "web", "k", "n", 1, 9, None, None, 1, 0, 0, 0, 0),
    ("2027-01-31", "beta", None, "k", "m", 1, 1, None, None, 0, 0, 0, 0, 8),
    ("2027-02-01", "acme", None, "k", "m", 0, -10, -5, -5, 0, 0, 0, 7, 0),
]


def _said(rows: list[tuple[Any, ...]], digits: int) -> list[tuple[Any, ...]]:
    """Rows with the moment as text, to the hour or day, in order."""
    said = [(str(moment).replace(" ", "T")[:digits], *rest) for moment, *rest in rows]
    return sorted(said, key=lambda row: [part or "" for part in row[:5]])


class ViewContract:
    """Usage, charge, cost and margin by hour and by day."""

    async def test_usage_by_hour_and_day_adds_up_what_was_charged(
        self, sink: Store, query: Query
    ) -> None:
        await sink.open()
        await sink.write(batch_of(EVENTS))
        assert _said(query(f"SELECT hour, {COLUMNS} FROM usage_by_hour"), 13) == BY_HOUR
        assert _said(query(f"SELECT day, {COLUMNS} FROM usage_by_day"), 10) == BY_DAY
