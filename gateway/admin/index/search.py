"""Searching requests in the index, the latest first.

The rarest of what is asked for leads: an index has each series and each outcome in the order of time, so
that a page of a rare one does not read the common ones.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any, Final, NamedTuple

import orjson

_SERIES_MOST: Final = 300
"""More than so many are not looked up one by one; the requests are read in the order of time."""
_LINE: Final = """
    SELECT requests.at_ms, requests.id, request_id, customer_id, project_id, key_id, model, kind, status,
        flags, amount_nano, price_versions.name, duration_ms
    FROM requests JOIN series ON series.id = series JOIN outcomes ON outcomes.id = outcome
    LEFT JOIN price_versions ON price_versions.id = price_version WHERE requests.id = ?
"""


class RequestPlace(NamedTuple):
    """Where a request stands among all. Of two at one time, that which was indexed later is later."""

    at_ms: int
    number: int


@dataclass(frozen=True, slots=True)
class RequestsAsked:
    """Which requests; what is None does not matter. Unix ms: from `since_ms` on, before `until_ms`.

    kind: settle, release, expire or settle_late. before: only what stands before this place
    """

    customer_id: str | None = None
    key_id: str | None = None
    project_id: str | None = None
    model: str | None = None
    kind: str | None = None
    status: int | None = None
    flag: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    before: RequestPlace | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class IndexedRequest:
    """One event that ended a request. amount_nano: of settle_late the difference"""

    place: RequestPlace
    request_id: str
    customer_id: str
    project_id: str
    key_id: str
    model: str
    kind: str
    status: int | None
    flags: Sequence[str]
    amount_nano: int
    price_version: str | None
    duration_ms: int | None


class _Chosen(NamedTuple):
    """Series or outcomes that pass. requests: how many requests they have in all"""

    column: str
    numbers: list[int]
    requests: int


def search(connection: sqlite3.Connection, asked: RequestsAsked) -> list[IndexedRequest]:
    """The latest that pass, at most `limit`. Raises sqlite3.Error."""
    connection.execute("BEGIN")
    try:
        places = _places(connection, asked)
        return [_line(connection, place) for place in places]
    finally:
        connection.execute("COMMIT")


def _places(connection: sqlite3.Connection, asked: RequestsAsked) -> list[RequestPlace]:
    chosen = [each for each in (_series(connection, asked), _outcomes(connection, asked)) if each]
    if any(not each.numbers for each in chosen):
        return []
    leading = [each for each in chosen if len(each.numbers) <= _SERIES_MOST]
    lead = min(leading, key=lambda each: each.requests, default=None)
    conditions, values = _in_time(asked)
    for each in chosen:
        if each is not lead:
            conditions.append(f"+{each.column} IN ({', '.join(map(str, each.numbers))})")
    found: list[RequestPlace] = []
    for number in (None,) if lead is None else lead.numbers:
        one = [] if lead is None or number is None else [f"{lead.column} = {number}"]
        question = (
            f"SELECT at_ms, id FROM requests WHERE {' AND '.join([*one, *conditions]) or 'TRUE'}"  # noqa: S608
            " ORDER BY at_ms DESC, id DESC LIMIT ?"
        )
        rows = connection.execute(question, (*values, asked.limit))
        found += [RequestPlace(*row) for row in rows]
    return nlargest(asked.limit, found)


def _series(connection: sqlite3.Connection, asked: RequestsAsked) -> _Chosen | None:
    wanted = {
        "customer_id": asked.customer_id,
        "key_id": asked.key_id,
        "project_id": asked.project_id,
        "model": asked.model,
    }
    return _choose(connection, ("series", "series"), _equal(wanted))


def _outcomes(connection: sqlite3.Connection, asked: RequestsAsked) -> _Chosen | None:
    wanted = _equal({"kind": asked.kind, "status": asked.status})
    if asked.flag is not None:
        wanted["EXISTS (SELECT 1 FROM json_each(flags) WHERE value = ?)"] = asked.flag
    return _choose(connection, ("outcomes", "outcome"), wanted)


def _equal(wanted: dict[str, Any]) -> dict[str, Any]:
    return {f"{name} = ?": value for name, value in wanted.items() if value is not None}


def _choose(
    connection: sqlite3.Connection, table: tuple[str, str], wanted: dict[str, Any]
) -> _Chosen | None:
    """table: its name, and the column of requests that refers to it"""
    if not wanted:
        return None
    question = f"SELECT id, requests FROM {table[0]} WHERE {' AND '.join(wanted)}"  # noqa: S608
    rows = [row for row in connection.execute(question, [*wanted.values()]) if row[1]]
    return _Chosen(table[1], [number for number, _ in rows], sum(count for _, count in rows))


def _in_time(asked: RequestsAsked) -> tuple[list[str], list[int]]:
    """Conditions, and their values in order."""
    given: list[tuple[str, list[int]]] = []
    if asked.since_ms is not None:
        given.append(("at_ms >= ?", [asked.since_ms]))
    if asked.until_ms is not None:
        given.append(("at_ms < ?", [asked.until_ms]))
    if asked.before is not None:
        given.append(("(at_ms, id) < (?, ?)", [*asked.before]))
    return [condition for condition, _ in given], [v for _, values in given for v in values]


def _line(connection: sqlite3.Connection, place: RequestPlace) -> IndexedRequest:
    row = connection.execute(_LINE, (place.number,)).fetchone()
    request_id, customer, project, key, model, kind, status, flags, *end = row[2:]
    amount_nano, version, duration_ms = end
    return IndexedRequest(
        place,
        request_id,
        customer,
        project,
        key,
        model,
        kind,
        status or None,
        orjson.loads(flags),
        amount_nano,
        version,
        duration_ms,
    )
