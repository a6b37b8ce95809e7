"""Signing in and out: the form, which takes a one-time code or a token, and the end of a session."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Form
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.admin.answers import SIGN_IN
from gateway.admin.api.errors import ApiError
from gateway.admin.auth.guard import Session, require
from gateway.admin.auth.identity import by_secret
from gateway.admin.auth.sessions import begin_session, end_session
from gateway.admin.console.rendering import render
from gateway.admin.context import AdminContext, context_of
from gateway.ledger.codec.admin_records import SignIn
from gateway.operations.audit import Noted, record
from gateway.operations.tokens import CODE_PREFIX, secret_digest

router = APIRouter(include_in_schema=False)


@router.get("/console/sign-in")
async def form(request: Request) -> Response:
    """The form."""
    return sign_in_form(request, context_of(request))


@router.post("/console/sign-in")
async def sign_in(request: Request, secret: Annotated[str, Form(max_length=512)]) -> Response:
    """Begin a session. A failed attempt counts against its address."""
    context = context_of(request)
    address = request.client.host if request.client else ""
    wait_s = context.attempts.wait_s(address)
    if wait_s:
        return sign_in_form(request, context, ApiError("too_many_attempts", retry_after_s=wait_s))
    found = await _signing_in(context, secret.strip())
    if found is None:
        context.attempts.note_failure(address)
        return sign_in_form(request, context, ApiError("sign_in_refused"))
    return await signed_in(request, context, found)


async def signed_in(request: Request, context: AdminContext, found: SignIn) -> Response:
    """Begin a session, and say so in the audit log. Raises LedgerUnavailable."""
    backend = replace(context.backend, actor=found.actor)
    await record(backend, Noted("session.create", str(found.actor), after={"role": found.role}))
    response = render(request, "signed_in.html")
    await begin_session(context, found, response)
    return response


@router.post("/console/sign-out")
async def sign_out(
    request: Request, _: Annotated[Session, Depends(require("overview.read"))]
) -> Response:
    """End the session."""
    response = RedirectResponse(SIGN_IN, 303)
    await end_session(context_of(request), request, response)
    return response


async def _signing_in(context: AdminContext, secret: str) -> SignIn | None:
    access, digest = context.backend.accounts.admin_access, secret_digest(secret)
    if secret.startswith(CODE_PREFIX):
        return await access.take("code", digest)
    identity = await by_secret(context, secret)
    return None if identity is None else SignIn(identity.actor, identity.role, digest)


def sign_in_form(
    request: Request, context: AdminContext, problem: ApiError | None = None
) -> Response:
    """The form, with what went wrong before."""
    oidc = context.settings.console.oidc
    return render(
        request,
        "sign_in.html",
        status=problem.kind.status if problem else 200,
        headers=problem.headers if problem else None,
        problem=problem,
        oidc=oidc.issuer if oidc else None,
    )
