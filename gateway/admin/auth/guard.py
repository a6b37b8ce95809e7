"""`require`: the one place where requests are authenticated and authorised.

@router.get("/customers")
async def list_customers(session: Annotated[Session, Depends(require("customers.read"))]) -> …
"""

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.requests import Request

from gateway.admin.api.errors import ApiError
from gateway.admin.auth.identity import Identity, identify
from gateway.admin.auth.roles import OPERATIONS, may
from gateway.admin.auth.sessions import CSRF_FIELD, CSRF_HEADER
from gateway.admin.context import context_of
from gateway.domain.access import Role
from gateway.domain.actors import Actor
from gateway.operations.backend import Backend

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_bearer = HTTPBearer(
    scheme_name="token", description="An API token, or the admin token.", auto_error=False
)


@dataclass(frozen=True, slots=True)
class Session:
    """An authorised request.

    scopes:  operations that its token is restricted to; empty for no restriction
    backend: writes this actor into everything that it changes
    csrf:    what forms of this session must carry as `csrf_token`; None for a bearer token
    """

    actor: Actor
    role: Role
    scopes: frozenset[str]
    backend: Backend
    csrf: str | None

    def may(self, operation: str) -> bool:
        """Whether it may do this as well, so that a page shows no button that would be refused."""
        return may(self.role, operation, self.scopes)


def require(operation: str) -> Callable[..., Awaitable[Session]]:
    """A dependency that lets pass who may do this.

    It raises ApiError: 401 without a valid credential, 403 without the right or without the CSRF token
    of a browser session. An operation that the role table does not have raises KeyError at import.
    """
    _ = OPERATIONS[operation]

    async def authorise(request: Request, _: Annotated[Any, Security(_bearer)] = None) -> Session:
        context = context_of(request)
        identity = await identify(context, request)
        await _check_csrf(request, identity)
        if not may(identity.role, operation, identity.scopes):
            raise ApiError("role_insufficient", _insufficient(identity, operation))
        backend = replace(context.backend, actor=identity.actor)
        return Session(identity.actor, identity.role, identity.scopes, backend, identity.csrf)

    authorise.operation = operation  # type: ignore[attr-defined]
    return authorise


async def _check_csrf(request: Request, identity: Identity) -> None:
    if identity.csrf is None or request.method in SAFE_METHODS:
        return
    given: object = request.headers.get(CSRF_HEADER)
    if given is None and request.headers.get("content-type", "").startswith(_FORMS):
        given = (await request.form()).get(CSRF_FIELD)
    if not isinstance(given, str) or not hmac.compare_digest(
        given.encode(), identity.csrf.encode()
    ):
        raise ApiError("csrf_token_invalid")


def _insufficient(identity: Identity, operation: str) -> str:
    if identity.scopes and identity.role in OPERATIONS[operation]:
        return f"The token is restricted to other operations than {operation}."
    roles = ", ".join(sorted(OPERATIONS[operation]))
    return f"The role {identity.role!r} does not permit {operation}; these roles do: {roles}."
