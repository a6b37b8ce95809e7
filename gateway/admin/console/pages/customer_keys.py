"""Creating and rotating API keys. The secret is on the page that answers the form, and nowhere else."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.forms import FormView, entered, explain, refused
from gateway.admin.console.rendering import PREFIX, page
from gateway.domain.key_terms import KeyTerms
from gateway.operations.customers import find_customer
from gateway.operations.errors import NotFound, OperationError
from gateway.operations.keys import (
    DAY_MS,
    KeyCreated,
    KeyEntry,
    NewKey,
    create_key,
    get_key,
    rotate_key,
)

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Writer = Annotated[Session, Depends(require("keys.write"))]

EXPIRIES: Final = {"": "Never", "30": "In 30 days", "90": "In 90 days", "365": "In a year"}
GRACES: Final = {
    "0": "Revoke it now",
    "3600": "Keep it valid for an hour",
    "86400": "Keep it valid for a day",
    "604800": "Keep it valid for 7 days",
    "2592000": "Keep it valid for 30 days",
}


@dataclass(frozen=True, slots=True)
class NewKeyView:
    """The page that shows a secret. replaces: the key that was rotated"""

    title: str
    back: str
    made: KeyCreated
    replaces: str = ""
    section: str = "customers"


@router.get("/customers/{customer_id}/new-key")
async def create_form(request: Request, session: Writer, customer_id: str) -> Response:
    """Create a key."""
    return page(request, session, "key_new.html", await _new_view(session, customer_id))


@router.post("/customers/{customer_id}/new-key")
async def create(request: Request, session: Writer, customer_id: str) -> Response:
    """Create it. Its id follows from the form, so that sending that twice creates one key."""
    entry, view = await entered(request), await _new_view(session, customer_id)
    reason = entry.reason()
    models = entry.names("models")
    days = entry.chosen("expires", EXPIRIES, "Choose one of the expiries.")
    now_ms = await session.backend.ledger_time_ms()
    if not entry.problems:
        terms = KeyTerms(
            entry.text("name") or None,
            now_ms + int(days) * DAY_MS if days else None,
            frozenset(models) if models else None,
            networks=entry.names("networks"),
            test=entry.text("purpose") == "test",
        )
        key_id = f"k_{hashlib.sha256(entry.key.encode()).hexdigest()[:16]}"
        project_id = entry.text("project") or None
        try:
            made = await create_key(
                session.backend, NewKey(customer_id, project_id, key_id, terms), reason
            )
        except OperationError as error:
            explain(entry, error)
        else:
            return page(
                request, session, "key_created.html", NewKeyView("New key", view.back, made)
            )
    return refused(request, session, "key_new.html", view, entry)


@router.get("/customers/{customer_id}/keys/{key_id}/rotate")
async def rotate_form(request: Request, session: Writer, customer_id: str, key_id: str) -> Response:
    """Replace a key by another one with the same options."""
    return page(
        request, session, "key_rotate.html", await _rotate_view(session, customer_id, key_id)
    )


@router.post("/customers/{customer_id}/keys/{key_id}/rotate")
async def rotate(request: Request, session: Writer, customer_id: str, key_id: str) -> Response:
    """Replace it."""
    entry, view = await entered(request), await _rotate_view(session, customer_id, key_id)
    reason = entry.reason()
    grace_s = entry.chosen("grace", GRACES, "Choose how long the old key stays valid.")
    if not entry.problems:
        try:
            made = await rotate_key(session.backend, key_id, int(grace_s) * 1000, reason)
        except OperationError as error:
            explain(entry, error)
        else:
            shown = NewKeyView("New key", view.back, made, key_id)
            return page(request, session, "key_created.html", shown)
    return refused(request, session, "key_rotate.html", view, entry)


async def _new_view(session: Session, customer_id: str) -> FormView:
    """Raises NotFound."""
    await find_customer(session.backend, customer_id)
    back = f"/customers/{customer_id}"
    return FormView(
        "customers", f"New key for {customer_id}", f"{back}/new-key", back, subject=EXPIRIES
    )


async def _rotate_view(session: Session, customer_id: str, key_id: str) -> FormView:
    """Raises NotFound."""
    key: KeyEntry = await get_key(session.backend, key_id)
    if key.customer_id != customer_id:
        raise NotFound(f"{customer_id} has no key {key_id}")
    back = f"/customers/{customer_id}"
    action = f"{back}/keys/{key_id}/rotate"
    return FormView(
        "customers",
        f"Rotate key {key_id}",
        action,
        back,
        {"grace": "86400"},
        subject=(key, GRACES),
    )
