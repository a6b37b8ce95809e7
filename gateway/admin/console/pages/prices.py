"""Prices: what is charged, what a changed configuration would charge, and every version before."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.forms import FormView, entered, explain, refused
from gateway.admin.console.jobs import Job, jobs_of
from gateway.admin.console.rendering import PREFIX, Toast, done, page
from gateway.domain.pricebook import Activation, Schedule
from gateway.domain.pricing import PriceTable
from gateway.operations.backend import Backend
from gateway.operations.errors import NotFound, OperationError
from gateway.operations.plan_prices import PlanRequest, plan_prices
from gateway.operations.price_books import (
    BookView,
    activate_book,
    apply_prices,
    roll_back_prices,
    show_book,
)
from gateway.operations.price_changes import PendingPrices, pending_prices
from gateway.operations.price_plan import Plan
from gateway.operations.price_text import rate_text, unit_price

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Viewer = Annotated[Session, Depends(require("prices.read"))]
Changing = Annotated[Session, Depends(require("prices.write"))]

PLAN_DAYS: Final = 30
_DAY_MS: Final = 86_400_000
_SHOWN_CUSTOMERS: Final = 200


@dataclass(frozen=True, slots=True)
class UnitRow:
    """One unit of a price. margin: what is left of the price in percent, where both are plain"""

    unit: str
    price: str
    cost: str
    margin: Fraction | None


@dataclass(frozen=True, slots=True)
class PriceRow:
    """The price of one model for everyone, one plan or one customer."""

    whose: str
    model: str
    version: str
    units: Sequence[UnitRow]


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One unit whose price would change."""

    whose: str
    model: str
    unit: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ActivationRow:
    """One line of the history."""

    activation: Activation
    state: str


@dataclass(frozen=True, slots=True)
class PricesView:
    """The page. left_out: prices of customers that are not shown, because there are many"""

    book: BookView | None
    prices: Sequence[PriceRow]
    left_out: int
    pending: PendingPrices | None
    changes: Sequence[ChangeRow]
    history: Sequence[ActivationRow]
    can_undo: bool
    plan: Job[Plan] | None
    now_ms: int
    problem: str = ""
    section: str = "prices"


@router.get("/prices")
async def show(request: Request, session: Viewer) -> Response:
    """The page."""
    view = await prices_view(session.backend, jobs_of(request).last("plan"))
    return page(request, session, "prices.html", view)


@router.post("/prices/plan")
async def start_plan(request: Request, session: Viewer) -> Response:
    """Rate the last days' requests at the configuration's prices; changes nothing."""

    async def work(job: Job[Plan]) -> Plan:
        backend = session.backend
        configured = backend.configured
        draft = await asyncio.to_thread(configured.price_draft)
        since_ms = time.time_ns() // 1_000_000 - PLAN_DAYS * _DAY_MS

        def report(count: int, total: int) -> None:
            job.progress = f"{count:,} of {total:,} requests"

        asked = PlanRequest(draft, configured.billing_day, since_ms)
        return await plan_prices(backend, asked, report)

    jobs_of(request).start("plan", session.actor.name, work)
    return done(request, "/prices#plan", Toast("Planning on the last 30 days' requests."))


async def prices_view(backend: Backend, plan: Job[Plan] | None) -> PricesView:
    """Gather the page. Raises LedgerUnavailable."""
    try:
        book = await show_book(backend)
    except NotFound as error:
        now_ms = await backend.ledger_time_ms()
        return PricesView(None, (), 0, None, (), (), False, plan, now_ms, str(error))
    draft = await asyncio.to_thread(backend.configured.price_draft)
    pending = await pending_prices(backend, draft)
    rows, left_out = _price_rows(book)
    return PricesView(
        book,
        rows,
        left_out,
        pending,
        _change_rows(pending) if pending else (),
        _history(book.schedule, book.now_ms),
        len({each.number for each in book.schedule.activations}) > 1,
        plan,
        book.now_ms,
    )


def _price_rows(view: BookView) -> tuple[list[PriceRow], int]:
    book = view.book
    rows = [_row("", model, view.tables[version]) for model, version in book.models.items()]
    for plan, overrides in book.plans.items():
        rows += [_row(f"plan {plan}", m, view.tables[v]) for m, v in overrides.items()]
    own = [
        (name, model, version)
        for name, customer in book.customers.items()
        for model, version in customer.prices.items()
    ]
    shown = own[:_SHOWN_CUSTOMERS]
    rows += [_row(f"customer {name}", model, view.tables[v]) for name, model, v in shown]
    return rows, len(own) - len(shown)


def _row(whose: str, model: str, table: PriceTable) -> PriceRow:
    units = []
    for unit in table.units:
        rate, cost = table.rates.get(unit), table.costs_pico.get(unit)
        margin = None
        if rate is not None and rate.plain and cost is not None and rate.tiers[0].rate_pico:
            price = rate.tiers[0].rate_pico
            margin = Fraction(100 * (price - cost), price)
        units.append(
            UnitRow(
                unit,
                rate_text(rate) if rate else "as its parent",
                unit_price(unit, cost) if cost is not None else "",
                margin,
            )
        )
    return PriceRow(whose, model, table.price_version, units)


def _change_rows(pending: PendingPrices) -> list[ChangeRow]:
    rows = []
    for change in pending.changes:
        whose = f"customer {change.customer_id}" if change.customer_id else ""
        if change.plan:
            whose = f"plan {change.plan}"
        before: Mapping[str, str] = pending.rates(change.before)
        after: Mapping[str, str] = pending.rates(change.after)
        differing = [u for u in {**before, **after} if before.get(u) != after.get(u)]
        rows += [
            ChangeRow(whose, change.model, unit, before.get(unit, ""), after.get(unit, ""))
            for unit in differing
        ]
        if not differing:
            rows.append(ChangeRow(whose, change.model, "costs only", "", ""))
    return rows


def _history(schedule: Schedule, now_ms: int) -> list[ActivationRow]:
    current = schedule.at(now_ms)
    rows = []
    for each in reversed(schedule.activations):
        state = "in force" if each == current else "to come" if each.from_ms > now_ms else ""
        rows.append(ActivationRow(each, state))
    return rows


# -- changes ---------------------------------------------------------------------------


@router.get("/prices/apply")
async def apply_form(request: Request, session: Changing) -> Response:
    """Put the configuration's prices in force."""
    return page(request, session, "prices_apply.html", await _apply_view(session.backend))


@router.post("/prices/apply")
async def apply(request: Request, session: Changing) -> Response:
    """Put them in force."""
    entry, backend = await entered(request), session.backend
    view = await _apply_view(backend)
    reason = entry.reason()
    if not entry.problems:
        try:
            draft = await asyncio.to_thread(backend.configured.price_draft)
            taken = await apply_prices(backend, draft, reason=reason)
        except OperationError as error:
            explain(entry, error)
        else:
            return done(request, "/prices", Toast(f"Price book {taken.number} is in force."))
    return refused(request, session, "prices_apply.html", view, entry)


async def _apply_view(backend: Backend) -> FormView:
    draft = await asyncio.to_thread(backend.configured.price_draft)
    pending = await pending_prices(backend, draft)
    subject: Any = _change_rows(pending) if pending else []
    return FormView("prices", "Apply pending prices", "/prices/apply", "/prices", subject=subject)


@router.get("/prices/rollback")
async def rollback_form(request: Request, session: Changing) -> Response:
    """Undo the last change."""
    return page(request, session, "prices_rollback.html", _rollback_view())


@router.post("/prices/rollback")
async def rollback(request: Request, session: Changing) -> Response:
    """Undo it."""
    entry, view = await entered(request), _rollback_view()
    reason = entry.reason()
    if not entry.problems:
        try:
            schedule = await roll_back_prices(session.backend, reason)
        except OperationError as error:
            explain(entry, error)
        else:
            number = schedule.activations[-1].number
            return done(request, "/prices", Toast(f"Price book {number} is in force.", "warn"))
    return refused(request, session, "prices_rollback.html", view, entry)


def _rollback_view() -> FormView:
    return FormView("prices", "Roll back prices", "/prices/rollback", "/prices")


@router.get("/prices/books/{number}/activate")
async def activate_form(request: Request, session: Changing, number: int) -> Response:
    """Put an earlier book in force again."""
    return page(request, session, "prices_activate.html", _activate_view(number))


@router.post("/prices/books/{number}/activate")
async def activate(request: Request, session: Changing, number: int) -> Response:
    """Put it in force."""
    entry, view = await entered(request), _activate_view(number)
    reason = entry.reason()
    if not entry.problems:
        try:
            await activate_book(session.backend, number, reason=reason)
        except OperationError as error:
            explain(entry, error)
        else:
            return done(request, "/prices", Toast(f"Price book {number} is in force.", "warn"))
    return refused(request, session, "prices_activate.html", view, entry)


def _activate_view(number: int) -> FormView:
    action = f"/prices/books/{number}/activate"
    return FormView("prices", f"Activate book {number}", action, "/prices", subject=number)
