"""Browser sessions: kept in the ledger under the hash of a random id that only the cookie has.

So a session ends when someone signs out, when it has lasted for `console.session_hours`, or with the
token that opened it, on every admin process of the ledger.
"""

import hashlib
import hmac
import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.context import AdminContext, Site
from gateway.ledger.codec.admin_records import SignIn
from gateway.operations.tokens import secret_digest

CSRF_HEADER: Final = "x-csrf-token"
CSRF_FIELD: Final = "csrf_token"
_COOKIE: Final = "creditgate_session"
_HOUR_S: Final = 3600


def cookie_name(site: Site) -> str:
    """The cookie's name: over HTTPS browsers refuse this one from other hosts."""
    return f"__Host-{_COOKIE}" if site.secure else _COOKIE


def csrf_token(session_id: str) -> str:
    """What forms and scripts of this session send with every write."""
    return hmac.new(session_id.encode(), b"csrf", hashlib.sha256).hexdigest()


async def begin_session(context: AdminContext, sign_in: SignIn, response: Response) -> None:
    """Sign a person in with this response. Raises LedgerUnavailable."""
    session_id = secrets.token_urlsafe(32)
    lasts_s = context.settings.console.session_hours * _HOUR_S
    access = context.backend.accounts.admin_access
    await access.keep("session", secret_digest(session_id), sign_in, lasts_s * 1000)
    response.set_cookie(
        cookie_name(context.site),
        session_id,
        max_age=lasts_s,
        path="/",
        secure=context.site.secure,
        httponly=True,
        samesite="strict",
    )


async def end_session(context: AdminContext, request: Request, response: Response) -> None:
    """Sign the person out. Raises LedgerUnavailable."""
    session_id = session_id_of(context, request)
    if session_id is not None:
        await context.backend.accounts.admin_access.take("session", secret_digest(session_id))
    response.delete_cookie(cookie_name(context.site), path="/", secure=context.site.secure)


def session_id_of(context: AdminContext, request: Request) -> str | None:
    """The session id that the request carries, valid or not."""
    return request.cookies.get(cookie_name(context.site)) or None
