"""One wallet of a customer: what it has, how long that lasts, its limits, holds, keys, and refusals."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console import text
from gateway.admin.console.charts import Drawn, Frame, Point, Series, line_chart, thinned
from gateway.admin.console.ownership import Owner, owner_view
from gateway.admin.console.rendering import PREFIX, page
from gateway.domain.delivery import StoredEvent
from gateway.domain.money import NANO_PER_CREDIT, format_amount
from gateway.domain.standing import Standing, count_of
from gateway.domain.stores import EventStore, StoreMissing
from gateway.ledger.codec.wallet_records import Grant
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.backend import Backend
from gateway.operations.decisions import RefusalFilter, recent_refusals
from gateway.operations.freeze import WalletStatus, wallet_status
from gateway.operations.holds import OpenHolds, list_holds
from gateway.operations.projection import DAY_MS, Projection, project
from gateway.operations.wallets import WalletView, show_wallet

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Viewer = Annotated[Session, Depends(require("customers.read"))]

HISTORY_EVENTS: Final = 2000
RATE_DAYS: Final = 7
AHEAD_DAYS: Final = 30
AHEAD_LEAST_MS: Final = 600_000
SHOWN_EVENTS: Final = 12
SHOWN_REFUSALS: Final = 8
SHOWN_HOLDS: Final = 20


@dataclass(frozen=True, slots=True)
class GrantRow:
    """One grant of the table. pays_for: the model groups; empty for every model"""

    grant: Grant
    name: str | None
    status: str
    pays_for: Sequence[str]


@dataclass(frozen=True, slots=True)
class Gauge:
    """One limit, as shares of its ceiling in percent."""

    standing: Standing
    used: str
    held: str
    ceiling: str
    used_share: float
    held_share: float

    @property
    def tone(self) -> str:
        """How near it is to its ceiling."""
        full = self.used_share + self.held_share
        return "bad" if full >= 100 else "warn" if full >= 80 else ""


@dataclass(frozen=True, slots=True)
class BurnDown:
    """The balance over time. per_day_nano: of the last days, None where nothing is known"""

    chart: Drawn | None
    per_day_nano: int
    ahead: Projection
    days_known: float


@dataclass(frozen=True, slots=True)
class CustomerView:
    """The page."""

    customer_id: str
    wallet: WalletView
    status: WalletStatus
    owner: Owner
    grants: Sequence[GrantRow]
    gauges: Sequence[Gauge]
    burn_down: BurnDown
    holds: OpenHolds
    events: Sequence[StoredEvent]
    refusals: Sequence[NotedRefusal]
    store_problem: str
    section: str = "customers"


@router.get("/customers/{customer_id}")
async def show(request: Request, session: Viewer, customer_id: str) -> Response:
    """The page."""
    return page(
        request, session, "customer.html", await customer_view(session.backend, customer_id)
    )


async def customer_view(backend: Backend, customer_id: str) -> CustomerView:
    """Gather the page. Raises NotFound, Conflict, LedgerUnavailable."""
    wallet = await show_wallet(backend, customer_id)
    owner, holds, refusals = await asyncio.gather(
        owner_view(backend, customer_id),
        list_holds(backend, customer_id),
        recent_refusals(backend, RefusalFilter(customer_id), SHOWN_REFUSALS),
    )
    events, spent_nano, problem = await asyncio.to_thread(
        _from_store, backend.store, customer_id, wallet.now_ms
    )
    return CustomerView(
        customer_id,
        wallet,
        wallet_status(wallet.wallet),
        owner,
        _grants(wallet),
        [_gauge(standing) for standing in wallet.limits],
        _burn_down(wallet, events, spent_nano),
        holds,
        events[-SHOWN_EVENTS:][::-1],
        refusals,
        problem,
    )


def _from_store(
    store: EventStore, customer_id: str, now_ms: int
) -> tuple[list[StoredEvent], int, str]:
    """The latest events, and what was charged in the last days."""
    try:
        events = store.latest(HISTORY_EVENTS, customer_id=customer_id)
        spent = store.charges_since(customer_id, now_ms - RATE_DAYS * DAY_MS, 0)
    except StoreMissing as missing:
        return [], 0, str(missing)
    # An audit's balance is 0: it asks for no wallet.
    events = [item for item in events if item.event.kind != "audit"]
    return events, spent.amount_nano, ""


def _grants(view: WalletView) -> list[GrantRow]:
    bits = {name: 1 << (number - 1) for name, number in view.groups.items()}
    rows = []
    for grant in view.wallet.grants:
        status = "active"
        if grant.no in view.voided:
            status = "voided"
        elif not grant.active(view.now_ms):
            status = "not yet" if grant.effective_at_ms > view.now_ms else "expired"
        groups = [name for name, bit in bits.items() if grant.scope_bits & bit]
        rows.append(GrantRow(grant, view.names.get(grant.no), status, groups))
    return rows


def _gauge(standing: Standing) -> Gauge:
    limit = standing.limit
    ceiling = max(1, limit.ceiling)
    used = min(Fraction(100), Fraction(100 * standing.used, ceiling))
    held = min(100 - used, Fraction(100 * standing.held, ceiling))

    def shown(count: int) -> str:
        value = count_of(limit, count)
        return text.amount(count) if isinstance(value, str) else text.count(value)

    return Gauge(
        standing,
        shown(standing.used),
        shown(standing.held),
        shown(limit.ceiling),
        round(float(used), 2),
        round(float(held), 2),
    )


def _burn_down(view: WalletView, events: Sequence[StoredEvent], spent_nano: int) -> BurnDown:
    now_ms = view.now_ms
    ordered = sorted(events, key=lambda item: (item.event.occurred_at_ms, item.position))
    past: list[Point] = [
        (item.event.occurred_at_ms, item.event.balance_nano / NANO_PER_CREDIT)
        for item in ordered
        if item.event.occurred_at_ms >= now_ms - 3 * AHEAD_DAYS * DAY_MS
    ]
    known_ms = now_ms - (past[0][0] if past else now_ms)
    # A customer of three days spends what it spent in three days, not in seven.
    days = min(float(RATE_DAYS), max(known_ms / DAY_MS, 1 / 24)) if past else float(RATE_DAYS)
    per_day = round(spent_nano / days) if spent_nano > 0 else 0
    ahead_ms = (
        max(2 * known_ms, AHEAD_LEAST_MS)
        if known_ms < AHEAD_DAYS * DAY_MS / 2
        else AHEAD_DAYS * DAY_MS
    )
    ahead_ms = min(int(ahead_ms), AHEAD_DAYS * DAY_MS)
    ahead = project(view.wallet, per_day, now_ms, now_ms + AHEAD_DAYS * DAY_MS)
    balance = view.wallet.balance_nano(now_ms) / NANO_PER_CREDIT
    past = [*thinned(past), (now_ms, balance)]
    coming: list[Point] = [
        (at, nano / NANO_PER_CREDIT) for at, nano in ahead.points if at <= now_ms + ahead_ms
    ]
    coming += _cut(ahead.points, now_ms + ahead_ms)
    marks = [
        (float(each.at_ms), f"grant {each.grant_no} expires: {format_amount(each.amount_nano)}")
        for each in ahead.forfeits
    ]
    frame = Frame(text.rounded, now_ms=now_ms, marks=marks, height=230, width=860)
    chart = line_chart([Series(past, step=True), Series(coming, "ahead")], frame)
    return BurnDown(chart, per_day, ahead, days)


def _cut(points: Sequence[tuple[int, int]], at_ms: int) -> list[Point]:
    """Where the line crosses a moment."""
    for (left, low), (right, high) in itertools.pairwise(points):
        if left < at_ms < right:
            share = (at_ms - left) / (right - left)
            return [(at_ms, (low + (high - low) * share) / NANO_PER_CREDIT)]
    return []
