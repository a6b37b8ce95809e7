"""Creating a customer, changing it or its plan, suspending, resuming and deleting it."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.forms import Entered, FormView, entered, explain, refused
from gateway.admin.console.rendering import PREFIX, Toast, Tone, done, page
from gateway.domain.customers import CustomerRecord
from gateway.domain.money import format_amount
from gateway.operations.backend import Backend
from gateway.operations.customer_changes import (
    CustomerChange,
    NewCustomer,
    create_customer,
    delete_customer,
    resume_customer,
    suspend_customer,
    update_customer,
)
from gateway.operations.customers import get_customer
from gateway.operations.errors import OperationError

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Writer = Annotated[Session, Depends(require("customers.write"))]
Verb = Literal["suspend", "resume", "delete"]

_VERBS: Final = {"suspend": suspend_customer, "resume": resume_customer, "delete": delete_customer}
_DONE: Final = {
    "suspend": "is suspended: gates admit none of its requests",
    "resume": "is active again",
    "delete": "is deleted; its books stay",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What the forms are about. record: None for a new customer"""

    record: CustomerRecord | None
    plans: tuple[str, ...]
    models: tuple[str, ...]
    verb: str = ""


@router.get("/new-customer")
async def create_form(request: Request, session: Writer) -> Response:
    """Create a customer."""
    return page(request, session, "customer_new.html", _new_view(session))


@router.post("/new-customer")
async def create(request: Request, session: Writer) -> Response:
    """Create it. An id that was not entered follows from the form, which thus creates one customer."""
    entry, view = await entered(request), _new_view(session)
    made_up = f"cus_{hashlib.sha256(entry.key.encode()).hexdigest()[:20]}"
    new = NewCustomer(entry.text("customer_id", 128) or made_up, **_fields(entry, session))
    reason = entry.reason()
    if not entry.problems:
        try:
            made = await create_customer(session.backend, new, reason)
        except OperationError as error:
            explain(entry, error)
        else:
            name = made.record.customer_id
            return done(request, f"/customers/{name}", Toast(f"Customer {name} is created."))
    return refused(request, session, "customer_new.html", view, entry)


@router.get("/customers/{customer_id}/edit")
async def edit_form(request: Request, session: Writer, customer_id: str) -> Response:
    """Change what is known of a customer."""
    return page(request, session, "customer_edit.html", await _edit_view(session, customer_id))


@router.post("/customers/{customer_id}/edit")
async def edit(request: Request, session: Writer, customer_id: str) -> Response:
    """Change it."""
    entry, view = await entered(request), await _edit_view(session, customer_id)
    change, reason = CustomerChange(**_fields(entry, session)), entry.reason()
    if not entry.problems:
        try:
            await update_customer(session.backend, customer_id, change, reason)
        except OperationError as error:
            explain(entry, error)
        else:
            return done(request, view.back, Toast(f"{customer_id} is changed."))
    return refused(request, session, "customer_edit.html", view, entry)


@router.get("/customers/{customer_id}/plan")
async def plan_form(request: Request, session: Writer, customer_id: str) -> Response:
    """Change the plan."""
    return page(request, session, "customer_plan.html", await _plan_view(session, customer_id))


@router.post("/customers/{customer_id}/plan")
async def change_plan(request: Request, session: Writer, customer_id: str) -> Response:
    """Change it: limits and prices apply to the next request."""
    entry, view = await entered(request), await _plan_view(session, customer_id)
    plan, reason = _plan(entry, session), entry.reason()
    if not entry.problems:
        try:
            await update_customer(session.backend, customer_id, CustomerChange(plan=plan), reason)
        except OperationError as error:
            explain(entry, error)
        else:
            said = (
                f"{customer_id} is on the plan {plan}." if plan else f"{customer_id} has no plan."
            )
            return done(request, view.back, Toast(said))
    return refused(request, session, "customer_plan.html", view, entry)


@router.get("/customers/{customer_id}/status/{verb}")
async def status_form(request: Request, session: Writer, customer_id: str, verb: Verb) -> Response:
    """Suspend, resume or delete a customer."""
    view = await _status_view(session, customer_id, verb)
    return page(request, session, "customer_status.html", view)


@router.post("/customers/{customer_id}/status/{verb}")
async def change_status(
    request: Request, session: Writer, customer_id: str, verb: Verb
) -> Response:
    """Do so; deleting requires the id."""
    entry, view = await entered(request), await _status_view(session, customer_id, verb)
    reason = entry.reason()
    if verb == "delete" and entry.text("confirm") != customer_id:
        entry.problems["confirm"] = f"Enter {customer_id} to delete it."
    if not entry.problems:
        try:
            await _VERBS[verb](session.backend, customer_id, reason)
        except OperationError as error:
            explain(entry, error)
        else:
            tone: Tone = "ok" if verb == "resume" else "warn"
            return done(request, view.back, Toast(f"{customer_id} {_DONE[verb]}.", tone))
    return refused(request, session, "customer_status.html", view, entry)


def _fields(entry: Entered, session: Session) -> dict[str, Any]:
    """The fields that creating and changing have in common; what is empty is the plan's, or unknown."""
    models = entry.names("models")
    return {
        "plan": _plan(entry, session),
        "name": entry.text("name") or None,
        "email": entry.text("email") or None,
        "external_ids": entry.pairs("external_ids"),
        "tags": entry.pairs("tags"),
        "credit_limit_nano": entry.optional_amount_nano("credit_limit"),
        "billing_day": entry.whole("billing_day", 1, 31) if entry.text("billing_day") else None,
        "models": frozenset(models) if models else None,
    }


def _plan(entry: Entered, session: Session) -> str | None:
    options = ("", *session.backend.configured.plans)
    return entry.chosen("plan", options, "Choose one of the configured plans.") or None


def _new_view(session: Session) -> FormView:
    subject = _subject(session.backend, None)
    return FormView("customers", "New customer", "/new-customer", "/customers", subject=subject)


async def _edit_view(session: Session, customer_id: str) -> FormView:
    """Raises NotFound."""
    subject = await _known(session.backend, customer_id)
    record = subject.record
    values: dict[str, str] = {}
    if record is not None:
        limit, day = record.credit_limit_nano, record.billing_day
        values = {
            "plan": record.plan or "",
            "name": record.name or "",
            "email": record.email or "",
            "external_ids": _lines(dict(record.external_ids)),
            "tags": _lines(dict(record.tags)),
            "credit_limit": "" if limit is None else format_amount(limit),
            "billing_day": "" if day is None else str(day),
            "models": ", ".join(sorted(record.models or ())),
        }
    back = f"/customers/{customer_id}"
    return FormView(
        "customers", f"Edit {customer_id}", f"{back}/edit", back, values, subject=subject
    )


async def _plan_view(session: Session, customer_id: str) -> FormView:
    """Raises NotFound."""
    subject = await _known(session.backend, customer_id)
    plan = subject.record.plan if subject.record else None
    back, title = f"/customers/{customer_id}", f"Change the plan of {customer_id}"
    return FormView("customers", title, f"{back}/plan", back, {"plan": plan or ""}, subject=subject)


async def _status_view(session: Session, customer_id: str, verb: Verb) -> FormView:
    """Raises NotFound."""
    known = await _known(session.backend, customer_id)
    subject = Subject(known.record, known.plans, known.models, verb)
    back, title = f"/customers/{customer_id}", f"{verb.capitalize()} {customer_id}"
    return FormView("customers", title, f"{back}/status/{verb}", back, subject=subject)


async def _known(backend: Backend, customer_id: str) -> Subject:
    return _subject(backend, (await get_customer(backend, customer_id)).record)


def _subject(backend: Backend, record: CustomerRecord | None) -> Subject:
    configured = backend.configured
    return Subject(record, tuple(sorted(configured.plans)), tuple(sorted(configured.models)))


def _lines(pairs: dict[str, str]) -> str:
    return "\n".join(f"{name} = {value}" for name, value in pairs.items())
