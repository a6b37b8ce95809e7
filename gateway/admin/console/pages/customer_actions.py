"""What can be done to a customer's money: top up, void, freeze, thaw, refund; each with a reason.

A form is a page by itself; scripts show it in a dialog. Its idempotency key is made when it is shown,
so that sending it twice does it once.
"""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console import text
from gateway.admin.console.forms import FormView, entered, explain, refused
from gateway.admin.console.rendering import PREFIX, Toast, done, page
from gateway.domain.money import format_amount
from gateway.ledger.codec.operations import Category
from gateway.operations.customers import wallet_of
from gateway.operations.errors import NotFound, OperationError
from gateway.operations.freeze import freeze, kill, thaw
from gateway.operations.grant import GrantRequest, grant
from gateway.operations.holds import release_hold
from gateway.operations.keys import revoke_key
from gateway.operations.refund import RefundRequest, refund
from gateway.operations.void import void

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Granting = Annotated[Session, Depends(require("grants.write"))]
Freezing = Annotated[Session, Depends(require("freezes.write"))]
Refunding = Annotated[Session, Depends(require("refunds.write"))]
Revoking = Annotated[Session, Depends(require("keys.revoke"))]
Releasing = Annotated[Session, Depends(require("holds.write"))]

_DAY_MS: Final = 86_400_000
_CATEGORIES: Final[tuple[Category, ...]] = ("paid", "promotional", "adjustment")
_EXPIRIES: Final = {"": "Never", "30": "In 30 days", "90": "In 90 days", "365": "In a year"}


@router.get("/customers/{customer_id}/top-up")
async def top_up_form(request: Request, session: Granting, customer_id: str) -> Response:
    """Add credit."""
    await wallet_of(session.backend, customer_id)
    return page(request, session, "top_up.html", _top_up_view(customer_id))


@router.post("/customers/{customer_id}/top-up")
async def top_up(request: Request, session: Granting, customer_id: str) -> Response:
    """Grant it."""
    entry = await entered(request)
    amount_nano, reason = entry.amount_nano("amount"), entry.reason()
    chosen: Category | None = next(
        (each for each in _CATEGORIES if each == entry.text("category")), None
    )
    if chosen is None:
        entry.problems["category"] = "Choose what kind of credit it is."
    days = entry.text("expires")
    if days not in _EXPIRIES:
        entry.problems["expires"] = "Choose one of the expiries."
    name = entry.text("name", 100)
    view = _top_up_view(customer_id)
    if not entry.problems and chosen is not None:
        now_ms = await session.backend.ledger_time_ms()
        made = GrantRequest(
            customer_id,
            entry.key,
            amount_nano,
            chosen,
            expires_at_ms=now_ms + int(days) * _DAY_MS if days else None,
            name=name or None,
            reason=reason,
        )
        try:
            granted = await grant(session.backend, made)
        except OperationError as error:
            explain(entry, error)
        else:
            said = (
                f"Granted {customer_id} {format_amount(amount_nano)} credits;"
                f" the balance is {text.amount(granted.balance_nano)}."
            )
            return done(request, view.back, Toast(said))
    return refused(request, session, "top_up.html", view, entry)


def _top_up_view(customer_id: str) -> FormView:
    back = f"/customers/{customer_id}"
    title = f"Top up {customer_id}"
    return FormView("customers", title, f"{back}/top-up", back, subject=(_CATEGORIES, _EXPIRIES))


@router.get("/customers/{customer_id}/grants/{grant_no}/void")
async def void_form(
    request: Request, session: Granting, customer_id: str, grant_no: int
) -> Response:
    """Take back a grant."""
    return page(request, session, "void.html", await _void_view(session, customer_id, grant_no))


@router.post("/customers/{customer_id}/grants/{grant_no}/void")
async def void_grant(
    request: Request, session: Granting, customer_id: str, grant_no: int
) -> Response:
    """Take it back."""
    entry = await entered(request)
    reason, view = entry.reason(), await _void_view(session, customer_id, grant_no)
    if not entry.problems:
        try:
            voided = await void(session.backend, customer_id, grant_no, reason)
        except OperationError as error:
            explain(entry, error)
        else:
            said = f"Voided grant {grant_no}: {format_amount(voided.voided_nano)} credits."
            return done(request, view.back, Toast(said))
    return refused(request, session, "void.html", view, entry)


async def _void_view(session: Session, customer_id: str, grant_no: int) -> FormView:
    """Raises NotFound."""
    wallet = await wallet_of(session.backend, customer_id)
    subject = next((grant for grant in wallet.grants if grant.no == grant_no), None)
    if subject is None:
        raise NotFound(f"{customer_id} has no grant {grant_no} with anything left in it")
    back = f"/customers/{customer_id}"
    action = f"{back}/grants/{grant_no}/void"
    return FormView(
        "customers", f"Void grant {grant_no} of {customer_id}", action, back, subject=subject
    )


@router.get("/customers/{customer_id}/freeze")
async def freeze_form(request: Request, session: Freezing, customer_id: str) -> Response:
    """Stop admitting requests."""
    return page(request, session, "freeze.html", await _status_view(session, customer_id, "freeze"))


@router.get("/customers/{customer_id}/thaw")
async def thaw_form(request: Request, session: Freezing, customer_id: str) -> Response:
    """Admit requests again."""
    return page(request, session, "thaw.html", await _status_view(session, customer_id, "thaw"))


@router.post("/customers/{customer_id}/freeze")
async def freeze_wallet(request: Request, session: Freezing, customer_id: str) -> Response:
    """Freeze it, and cancel running requests if asked to."""
    entry = await entered(request)
    reason, view = entry.reason(), await _status_view(session, customer_id, "freeze")
    running = entry.text("running")
    if not entry.problems:
        change = kill if running == "cancel" else freeze
        try:
            await change(session.backend, customer_id, reason)
        except OperationError as error:
            explain(entry, error)
        else:
            more = "; its running requests are cancelled" if running == "cancel" else ""
            return done(request, view.back, Toast(f"{customer_id} is frozen{more}.", "warn"))
    return refused(request, session, "freeze.html", view, entry)


@router.post("/customers/{customer_id}/thaw")
async def thaw_wallet(request: Request, session: Freezing, customer_id: str) -> Response:
    """Thaw it."""
    entry = await entered(request)
    reason, view = entry.reason(), await _status_view(session, customer_id, "thaw")
    if not entry.problems:
        try:
            await thaw(session.backend, customer_id, reason)
        except OperationError as error:
            explain(entry, error)
        else:
            return done(request, view.back, Toast(f"{customer_id} is active again."))
    return refused(request, session, "thaw.html", view, entry)


async def _status_view(
    session: Session, customer_id: str, verb: Literal["freeze", "thaw"]
) -> FormView:
    wallet = await wallet_of(session.backend, customer_id)
    back = f"/customers/{customer_id}"
    title = f"{verb.capitalize()} {customer_id}"
    return FormView("customers", title, f"{back}/{verb}", back, subject=wallet)


@router.get("/customers/{customer_id}/keys/{key_id}/revoke")
async def revoke_form(
    request: Request, session: Revoking, customer_id: str, key_id: str
) -> Response:
    """Revoke a key."""
    return page(request, session, "revoke.html", _revoke_view(customer_id, key_id))


@router.post("/customers/{customer_id}/keys/{key_id}/revoke")
async def revoke(request: Request, session: Revoking, customer_id: str, key_id: str) -> Response:
    """Revoke it, and cancel its running requests if asked to."""
    entry, view = await entered(request), _revoke_view(customer_id, key_id)
    reason, cancel = entry.reason(), entry.text("running") == "cancel"
    if not entry.problems:
        try:
            await revoke_key(session.backend, key_id, kill=cancel, reason=reason)
        except OperationError as error:
            explain(entry, error)
        else:
            return done(request, view.back, Toast(f"Key {key_id} is revoked.", "warn"))
    return refused(request, session, "revoke.html", view, entry)


def _revoke_view(customer_id: str, key_id: str) -> FormView:
    back = f"/customers/{customer_id}"
    action = f"{back}/keys/{key_id}/revoke"
    return FormView("customers", f"Revoke key {key_id}", action, back, subject=key_id)


@router.get("/refund")
async def refund_form(
    request: Request, session: Refunding, event: Annotated[str, Query(max_length=200)]
) -> Response:
    """Give back a charge."""
    return page(request, session, "refund.html", _refund_view(session, event))


@router.post("/refund")
async def make_refund(
    request: Request, session: Refunding, event: Annotated[str, Query(max_length=200)]
) -> Response:
    """Give it back."""
    entry, view = await entered(request), _refund_view(session, event)
    reason = entry.reason()
    everything = not entry.text("amount")
    amount_nano = None if everything else entry.amount_nano("amount")
    if not entry.problems:
        try:
            made = await refund(
                session.backend, RefundRequest(event, entry.key, reason, amount_nano)
            )
        except OperationError as error:
            explain(entry, error)
        else:
            said = (
                f"Refunded {format_amount(made.amount_nano)} credits to {made.event.customer_id}."
            )
            return done(request, view.back, Toast(said))
    return refused(request, session, "refund.html", view, entry)


def _refund_view(session: Session, event_id: str) -> FormView:
    """Raises NotFound, StoreMissing."""
    stored = session.backend.store.event(event_id)
    if stored is None:
        raise NotFound(f"there is no event {event_id} in the store")
    request_id = stored.event.facts.get("request_id")
    back = f"/requests/{request_id}" if request_id else f"/customers/{stored.event.customer_id}"
    return FormView("events", "Refund", f"/refund?event={event_id}", back, subject=stored.event)


@router.get("/holds/{reservation_id}/release")
async def release_form(request: Request, session: Releasing, reservation_id: str) -> Response:
    """Give back a hold by hand."""
    return page(request, session, "release.html", _release_view(reservation_id))


@router.post("/holds/{reservation_id}/release")
async def release(request: Request, session: Releasing, reservation_id: str) -> Response:
    """Give it back."""
    entry, view = await entered(request), _release_view(reservation_id)
    reason = entry.reason()
    if not entry.problems:
        try:
            ended = await release_hold(session.backend, reservation_id, reason)
        except OperationError as error:
            explain(entry, error)
        else:
            said = f"Returned {format_amount(ended.given_back_nano)} credits of the hold."
            return done(request, view.back, Toast(said))
    return refused(request, session, "release.html", view, entry)


def _release_view(reservation_id: str) -> FormView:
    action = f"/holds/{reservation_id}/release"
    return FormView(
        "now", "Release a hold", action, f"/requests/{reservation_id}", subject=reservation_id
    )
