"""Build a statement from the customer's events.

An event belongs to the statement in whose stretch of the outbox it lies. A period ends before the first event
at or after its end; a closed statement has recorded where it ended, so what arrives for it later lies behind that
place, and comes on the next statement as a correction. Every event is in exactly one part of a statement.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.domain.billing_periods import BillingPeriod, period_containing
from gateway.domain.event_rows import EventRow
from gateway.domain.events import EventKind
from gateway.domain.history import reserved_at_ms
from gateway.domain.money import format_amount
from gateway.domain.stores import EventStore, RowFilter
from gateway.domain.wallet_history import (
    CREDIT_CATEGORIES,
    MOVEMENTS,
    RERATE_PREFIX,
    USES,
    CreditCategory,
    Moved,
    Movement,
    WalletHistory,
    is_refund,
    sign_of,
)
from gateway.operations.backend import Subscription
from gateway.operations.price_plan import Rater
from gateway.operations.statements.lines import VOLUME_SUFFIXES, Prices, UsageCollector
from gateway.operations.statements.reading import first_place, in_order
from gateway.operations.statements.statement import (
    PARTS,
    Entry,
    EntryKind,
    GrantLine,
    Opening,
    Part,
    Statement,
    StatementDiffers,
)

_BY_KIND: Final[dict[EventKind, Part]] = {
    "grant": "granted",
    "expire_grant": "expired",
    "void": "voided",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """What a statement is made of: events, prices, and the ledger's script that rates."""

    store: EventStore
    prices: Prices
    rater: Rater


@dataclass(frozen=True, slots=True)
class StatementRequest:
    """Whose statement to make. opening: of the last closed statement before it"""

    customer_id: str
    period: BillingPeriod
    subscription: Subscription | None = None
    opening: Opening | None = None


async def build_statement(sources: Sources, request: StatementRequest) -> Statement:
    """Read the customer's events and add them up.

    Raises StatementDiffers when they are not what the ledger's balances say; LedgerUnavailable.
    """
    store, customer_id, period = sources.store, request.customer_id, request.period
    opening = request.opening
    builder = _Builder(sources, request)
    follows = opening is not None and opening.period.end_ms >= period.start_ms
    begins = None if follows else first_place(store, customer_id, period.start_ms)
    ends = first_place(store, customer_id, period.end_ms)
    done = opening.history.place if opening is not None else None
    since_ms = opening.period.start_ms if opening is not None else None
    for row in in_order(store, RowFilter(since_ms, period.end_ms, customer_id)):
        if done is not None and row.place <= done:
            continue
        if ends is not None and row.place >= ends:
            break
        await builder.take(row, before=not follows and (begins is None or row.place < begins))
    return await builder.statement()


class _Builder:
    """Takes events in order, those before the period too."""

    def __init__(self, sources: Sources, request: StatementRequest) -> None:
        self._store, self._request = sources.store, request
        self._period = request.period
        opening = request.opening
        self._history = opening.history if opening else WalletHistory()
        self._wrong: str | None = None
        self._collector = UsageCollector(sources.prices, sources.rater, request.period.billing_day)
        self._begun = False
        self._opening: dict[CreditCategory, int] = {}
        self._openings: dict[int, int] = {}
        self._parts: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self._credit = {c: dict.fromkeys(MOVEMENTS, 0) for c in CREDIT_CATEGORIES}
        self._by_grant: dict[int, dict[Movement, int]] = defaultdict(
            lambda: dict.fromkeys(MOVEMENTS, 0)
        )
        self._entries: list[Entry] = []
        self._late: set[str] = set()

    async def take(self, row: EventRow, *, before: bool) -> None:
        """Apply one event. before: it only makes the opening balance"""
        if not before:
            self._begin()
        moved = self._history.apply(row)
        difference = self._history.difference(row, moved)
        # What a repair of the ledger re-ordered comes right again; what is wrong at the end counts.
        self._wrong = None if difference is None else self._wrong or difference
        if before:
            return
        for each in moved:
            self._credit[each.category][each.movement] += each.nano
            if each.no:
                self._by_grant[each.no][each.movement] += each.nano
        part = await self._part_of(row, moved)
        if part != "none":
            self._parts[part] += sum(each.nano for each in moved)

    async def statement(self) -> Statement:
        """The statement of everything taken."""
        self._begin()
        customer_id, period = self._request.customer_id, self._period
        if self._wrong is not None:
            raise StatementDiffers(
                f"the statement of {customer_id} for {period.label} would not equal the ledger:"
                f" {self._wrong} (nano-credits). An event is missing in the store, or was changed:"
                " run `creditgate verify`"
            )
        await self._count_what_came_before()
        usage = await self._collector.lines()
        statement = Statement(
            customer_id,
            period,
            self._request.subscription,
            usage,
            sum(self._opening.values()),
            self._history.credit_nano,
            self._parts,
            self._opening,
            self._credit,
            tuple(self._grant_lines()),
            tuple(self._entries),
            self._history,
        )
        _check(statement)
        return statement

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._opening = self._history.by_category()
            grants = self._history.grants.values()
            self._openings = {grant.no: grant.remaining_nano for grant in grants}

    async def _part_of(self, row: EventRow, moved: list[Moved]) -> Part:
        """Which part of the statement an event belongs to; notes what is listed one by one."""
        if row.occurred_at_ms < self._period.start_ms and (moved or row.kind in USES):
            return self._note(row, "late_event", period=self._label(row.occurred_at_ms))
        if row.kind in USES:
            return await self._used(row)
        if row.kind == "adjust":
            return self._adjusted(row)
        return _BY_KIND.get(row.kind, "none")

    async def _used(self, row: EventRow) -> Part:
        if row.kind == "settle_late" and not self._collector.has_expiry(row):
            expired = row.event_id.rpartition(":")[0] + ":expired"
            return self._note(
                row,
                "late_settlement",
                expired,
                self._label(self._charged_ms(row.event_id, row.occurred_at_ms)),
            )
        await self._collector.add(row)
        return "usage"

    def _adjusted(self, row: EventRow) -> Part:
        facts: dict[str, Any] = orjson.loads(row.facts)
        corrects = facts.get("corrects")
        kind: EntryKind = "adjustment"
        if row.event_id.endswith(VOLUME_SUFFIXES) and facts.get("reason") == "volume":
            if corrects not in self._late:
                self._collector.credit(row)
                return "usage"
            kind = "volume_credit"
        elif row.event_id.startswith(RERATE_PREFIX):
            kind = "rerate"
        elif is_refund(row):
            kind = "refund"
        period = None
        if corrects is not None:
            charged_ms = self._charged_ms(corrects, row.occurred_at_ms)
            if charged_ms < self._period.start_ms:
                period = self._label(charged_ms)
        return self._note(row, kind, corrects, period, facts.get("reason"))

    def _charged_ms(self, event_id: str, default_ms: int) -> int:
        """When the request of an event was charged first: of a late settlement, when it expired."""
        reservation_id, _, outcome = event_id.rpartition(":")
        if outcome == "settled_late":
            default_ms = reserved_at_ms(reservation_id, default_ms)
            event_id = f"{reservation_id}:expired"
        stored = self._store.event(event_id)
        return stored.event.occurred_at_ms if stored else default_ms

    def _note(
        self,
        row: EventRow,
        kind: EntryKind,
        corrects: str | None = None,
        period: str | None = None,
        reason: str | None = None,
    ) -> Part:
        self._entries.append(
            Entry(
                row.event_id,
                kind,
                row.occurred_at_ms,
                sign_of(row.kind) * row.amount_nano,
                corrects,
                reason,
                period,
            )
        )
        if period is not None:
            self._late.add(row.event_id)
            return "corrections"
        return "refunds" if kind == "refund" else "adjustments"

    async def _count_what_came_before(self) -> None:
        """Let the counters of prices stand where earlier uses of the same counting periods left them."""
        earliest_ms = self._collector.earliest_ms
        if earliest_ms is None or earliest_ms >= self._period.start_ms:
            return
        wanted = RowFilter(earliest_ms, self._period.start_ms, self._request.customer_id, USES)
        for row in in_order(self._store, wanted):
            if row.event_id not in self._late:
                await self._collector.add(row, counts=False)

    def _grant_lines(self) -> list[GrantLine]:
        return [
            GrantLine(grant, self._openings.get(no, 0), self._by_grant[no])
            for no, grant in sorted(self._history.grants.items())
        ]

    def _label(self, at_ms: int) -> str:
        return period_containing(at_ms, self._period.billing_day).label


def _check(statement: Statement) -> None:
    """Raise StatementDiffers unless every sum of the statement is exact."""
    closing_nano, usage = statement.closing_nano, statement.usage.charged_nano
    by_category = (sum(moved.values()) for moved in statement.credit.values())
    for what, total, must_be in (
        ("its parts", statement.opening_nano + sum(statement.parts.values()), closing_nano),
        ("its categories", sum(statement.opening.values()) + sum(by_category), closing_nano),
        ("its usage", -usage, statement.parts["usage"]),
    ):
        if total != must_be:
            raise StatementDiffers(
                f"the statement of {statement.customer_id} for {statement.period.label} does not add"
                f" up: {what} make {format_amount(total)}, its events {format_amount(must_be)}"
            )
