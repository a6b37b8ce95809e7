"""What every request passes before its handler, and every response on its way out.

Invariants: a page of another site that has this console's address under its own name (DNS rebinding)
is stopped by the Host header, a form of another site by the Origin header; a request body has a bound;
no response is cached or framed; a fault shows its request id and nothing else.
"""

import re
import secrets
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin.answers import error_response
from gateway.admin.api.errors import ApiError
from gateway.admin.auth.guard import SAFE_METHODS
from gateway.admin.context import AdminContext
from gateway.telemetry.logs import failure

log = structlog.get_logger("admin")

BODY_BYTES_MOST: Final = 1_048_576
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")


class Boundary:
    """Middleware around the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: AdminContext = scope["app"].state.context
        request = Request(scope)
        request_id = _request_id(request.headers)
        request.state.request_id = request_id
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _complete(MutableHeaders(raw=message["headers"]), context, request_id)
                message["headers"] = message["headers"]
            await send(message)

        try:
            check_source(context, request)
            await self._app(scope, _bounded(request, receive), sending)
        except ApiError as error:
            if started:
                raise
            await error_response(request, error)(scope, receive, sending)
        except Exception as error:
            log.error("request_failed", request_id=request_id, path=scope["path"], **failure(error))
            if not started:
                answer = error_response(request, ApiError("internal_error"))
                await answer(scope, receive, sending)


def check_source(context: AdminContext, request: Request) -> None:
    """Raise ApiError for a request that was sent to another host, or a write from another origin."""
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or hosts[0].lower() not in context.site.hosts:
        raise ApiError("host_refused")
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("origin")
    if origin is None:
        # Browsers send it with every write; programs do not, and have no cookie either.
        if "cookie" in request.headers:
            raise ApiError("origin_refused")
        return
    scheme, _, host = origin.lower().partition("://")
    if scheme not in ("http", "https") or host not in context.site.hosts:
        raise ApiError("origin_refused")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _GIVEN_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _complete(headers: MutableHeaders, context: AdminContext, request_id: str) -> None:
    headers["x-request-id"] = request_id
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("cache-control", "no-store")
    if context.site.secure:
        headers["strict-transport-security"] = "max-age=31536000"


def _bounded(request: Request, receive: Receive) -> Receive:
    """Raise ApiError once a body exceeds its bound. A form of files has its own bound in its route."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > BODY_BYTES_MOST:
        raise ApiError("body_too_large")
    taken = 0

    async def receiving() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > BODY_BYTES_MOST:
                raise ApiError("body_too_large")
        return message

    return receiving
