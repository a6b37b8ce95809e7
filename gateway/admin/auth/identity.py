"""From a request to who sent it: a bearer token, or the session that a browser's cookie names."""

import hmac
from dataclasses import dataclass

from starlette.requests import Request

from gateway.admin.api.errors import ApiError
from gateway.admin.auth.sessions import csrf_token, session_id_of
from gateway.admin.context import AdminContext
from gateway.domain.access import Role
from gateway.domain.actors import Actor
from gateway.ledger.codec.admin_records import SignIn
from gateway.operations.tokens import secret_digest

ADMIN_TOKEN_ACTOR = Actor("token", "admin.token")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sent a request.

    scopes: operations that the token is restricted to; empty for no restriction
    csrf:   of a browser session, what its writes must repeat; None for a bearer token
    """

    actor: Actor
    role: Role
    scopes: frozenset[str] = frozenset()
    csrf: str | None = None


async def identify(context: AdminContext, request: Request) -> Identity:
    """Who sent the request; asked once per request. Raises ApiError, LedgerUnavailable."""
    known: Identity | None = getattr(request.state, "identity", None)
    if known is None:
        known = request.state.identity = await _identify(context, request)
    return known


async def signed_in_still(context: AdminContext, request: Request) -> bool:
    """Whether the credential of a request that goes on is still valid. Raises LedgerUnavailable."""
    try:
        await _identify(context, request)
    except ApiError:
        return False
    return True


async def _identify(context: AdminContext, request: Request) -> Identity:
    headers = request.headers.getlist("authorization")
    if headers:
        scheme, _, secret = headers[0].partition(" ")
        if len(headers) > 1 or scheme.lower() != "bearer" or not secret.strip():
            raise ApiError("credential_malformed")
        identity = await by_secret(context, secret.strip())
        if identity is None:
            raise ApiError("token_invalid")
        return identity
    session_id = session_id_of(context, request)
    if session_id is None:
        raise ApiError("credential_missing")
    digest = secret_digest(session_id)
    session = await context.backend.accounts.admin_access.find("session", digest)
    identity = None if session is None else await _still(context, session)
    if identity is None:
        raise ApiError("session_expired")
    return Identity(identity.actor, identity.role, identity.scopes, csrf_token(session_id))


async def by_secret(context: AdminContext, secret: str) -> Identity | None:
    """Whose token this is; None for one that is unknown, revoked or expired."""
    return await _by_digest(context, secret_digest(secret))


async def _still(context: AdminContext, session: SignIn) -> Identity | None:
    """Who a session belongs to. One that a token has opened has that token's rights, and ends with it."""
    if session.token_digest is None:
        return Identity(session.actor, session.role)
    return await _by_digest(context, session.token_digest)


async def _by_digest(context: AdminContext, digest: str) -> Identity | None:
    if hmac.compare_digest(digest, context.admin_token_digest):
        return Identity(ADMIN_TOKEN_ACTOR, "admin")
    token = await context.backend.accounts.admin_access.find_token(digest)
    return (
        None
        if token is None
        else Identity(Actor("token", token.token_id), token.role, token.scopes)
    )
