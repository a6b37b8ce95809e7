"""The search behind the list of requests: events of the index, and the latest refusals.

While the index is being built, the latest events of the store are searched instead.
"""

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from gateway.admin.context import AdminContext
from gateway.admin.index.index import IndexNotReady
from gateway.admin.index.search import IndexedRequest, RequestPlace, RequestsAsked
from gateway.domain.delivery import StoredEvent
from gateway.domain.events import USAGE_KINDS
from gateway.domain.stores import EventStore, StoreMissing
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.decisions import RefusalFilter, recent_refusals

LOOKED_AT: Final = 5000
"""Of the store's latest events, while there is no index."""
_LAST: Final = (1 << 63) - 1
"""Of refusals, which have no number: before the events of the same millisecond."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is wanted; what is empty does not matter. since, until: as `datetime-local` fields send them"""

    customer: str = ""
    key: str = ""
    model: str = ""
    outcome: str = ""
    flag: str = ""
    status: str = ""
    since: str = ""
    until: str = ""
    before: str = ""

    @property
    def narrowed(self) -> bool:
        """Whether anything is asked for."""
        return any(getattr(self, name) for name in self.__slots__ if name != "before")

    def query(self, **changes: str) -> str:
        """The search as a query string."""
        changed = replace(self, **changes)
        pairs = {name: getattr(changed, name) for name in self.__slots__}
        return urlencode({name: value for name, value in pairs.items() if value})

    def since_ms(self) -> int | None:
        """The first moment that counts, Unix ms."""
        return _moment_ms(self.since)

    def until_ms(self) -> int | None:
        """The first moment that does not."""
        return _moment_ms(self.until)

    def place(self) -> RequestPlace | None:
        """What is wanted stands before this place."""
        at_ms, _, number = self.before.partition(".")
        if not (at_ms.isdecimal() and number.isdecimal() and len(self.before) < 40):
            return None
        return RequestPlace(min(int(at_ms), _LAST), min(int(number), _LAST))

    def asked(self, limit: int) -> RequestsAsked:
        """The same question to the index."""
        return RequestsAsked(
            self.customer or None,
            self.key or None,
            model=self.model or None,
            kind=self.outcome or None,
            status=int(self.status) if self.status else None,
            flag=self.flag or None,
            since_ms=self.since_ms(),
            until_ms=self.until_ms(),
            before=self.place(),
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request of the list. amount_nano: what was charged; of a refusal, what it could have cost"""

    request_id: str
    place: RequestPlace
    customer_id: str
    key_id: str
    model: str
    outcome: str
    reason: str
    status: int | None
    flags: Sequence[str]
    amount_nano: int | None
    duration_ms: int | None

    @property
    def at_ms(self) -> int:
        """When it ended or was refused."""
        return self.place.at_ms


@dataclass(frozen=True, slots=True)
class Found:
    """The latest requests that are wanted. before: from where to go on; "" when that was all"""

    rows: Sequence[RequestRow]
    before: str
    problem: str = ""


async def search(context: AdminContext, wanted: Search, limit: int) -> Found:
    """Requests that are wanted, the latest first. Raises LedgerUnavailable."""
    rows: list[RequestRow] = []
    problem = ""
    if wanted.outcome != "refused":
        try:
            rows += [
                _of_indexed(each) for each in await context.index.search(wanted.asked(limit + 1))
            ]
            problem = context.index.problem
        except IndexNotReady:
            try:
                rows += await asyncio.to_thread(_served, context.backend.store, wanted)
            except StoreMissing as missing:
                problem = str(missing)
    if wanted.outcome in ("", "refused") and not wanted.flag:
        status = int(wanted.status) if wanted.status else None
        filtered = RefusalFilter(
            wanted.customer or None, wanted.key or None, wanted.model or None, status=status
        )
        noted = await recent_refusals(context.backend, filtered, 1000)
        refused = [_of_refusal(each) for each in noted]
        rows += [row for row in refused if _in_time(row.place, wanted)]
    rows.sort(key=lambda row: row.place, reverse=True)
    more = len(rows) > limit
    last = f"{rows[limit - 1].place.at_ms}.{rows[limit - 1].place.number}" if more else ""
    return Found(rows[:limit], last, problem)


def _served(store: EventStore, wanted: Search) -> list[RequestRow]:
    stored = store.latest(LOOKED_AT, customer_id=wanted.customer or None)
    return [_of_event(item) for item in stored if _passes(item, wanted)]


def _passes(item: StoredEvent, wanted: Search) -> bool:
    event, facts = item.event, item.event.facts
    return (
        event.kind in USAGE_KINDS
        and wanted.outcome in ("", event.kind)
        and wanted.key in ("", facts.get("key_id"))
        and wanted.model in ("", facts.get("model"))
        and wanted.status in ("", str(facts.get("http_status")))
        and (not wanted.flag or wanted.flag in (facts.get("flags") or ()))
        and _in_time(RequestPlace(event.occurred_at_ms, item.position), wanted)
    )


def _in_time(place: RequestPlace, wanted: Search) -> bool:
    since, until, before = wanted.since_ms(), wanted.until_ms(), wanted.place()
    return (
        (since is None or place.at_ms >= since)
        and (until is None or place.at_ms < until)
        and (before is None or place < before)
    )


def _of_indexed(found: IndexedRequest) -> RequestRow:
    return RequestRow(
        found.request_id,
        found.place,
        found.customer_id,
        found.key_id,
        found.model,
        found.kind,
        "",
        found.status,
        found.flags,
        found.amount_nano,
        found.duration_ms,
    )


def _of_event(item: StoredEvent) -> RequestRow:
    event, facts = item.event, item.event.facts
    return RequestRow(
        facts.get("request_id") or event.reservation_id or "",
        RequestPlace(event.occurred_at_ms, item.position),
        event.customer_id,
        facts.get("key_id") or "",
        facts.get("model") or "",
        event.kind,
        "",
        facts.get("http_status"),
        facts.get("flags") or (),
        event.amount_nano,
        facts.get("duration_ms"),
    )


def _of_refusal(noted: NotedRefusal) -> RequestRow:
    refused = noted.refused
    return RequestRow(
        refused.request_id,
        RequestPlace(noted.noted_at_ms, _LAST),
        refused.customer_id or "",
        refused.key_id or "",
        refused.model or "",
        "refused",
        refused.reason,
        refused.status,
        (),
        refused.estimate_nano,
        None,
    )


def _moment_ms(written: str) -> int | None:
    """A `datetime-local` value, read as UTC; None for one that is empty or malformed."""
    try:
        return int(dt.datetime.fromisoformat(written).replace(tzinfo=dt.UTC).timestamp() * 1000)
    except ValueError:
        return None
