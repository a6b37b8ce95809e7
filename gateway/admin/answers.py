"""What the application answers when a handler raises: JSON for the API, a page for browsers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.admin.api.errors import ApiError
from gateway.admin.console.rendering import render
from gateway.admin.context import context_of
from gateway.domain.stores import StoreMissing
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.operations.errors import Conflict, NotFound, OperationError, OutcomeUnknown

DOCS_PATH: Final = "/api/docs/errors"
CONSOLE: Final = "/console"
SIGN_IN: Final = "/console/sign-in"
_RETRY_AFTER_S: Final = 1
_HTTP: Final[Mapping[int, str]] = {
    404: "route_unknown",
    405: "method_not_allowed",
    415: "media_type_unsupported",
}
_VALIDATION: Final[Mapping[str, str]] = {
    "missing": "parameter_missing",
    "extra_forbidden": "parameter_unknown",
    "json_invalid": "body_malformed",
    "model_attributes_type": "body_malformed",
    "dict_type": "body_malformed",
}
"""Kinds of pydantic's errors → codes; any other is `parameter_invalid`."""


def error_response(request: Request, error: ApiError) -> Response:
    """The error as a browser or a program expects it."""
    headers = dict(error.headers)
    if error.kind.status == 401:
        headers["www-authenticate"] = 'Bearer realm="creditgate"'
    if request.url.path.startswith(CONSOLE):
        return _page(request, error, headers)
    return Response(
        orjson.dumps(error_document(request, error)),
        error.kind.status,
        headers,
        media_type="application/json",
    )


def error_document(request: Request, error: ApiError) -> dict[str, Any]:
    """The one shape of errors."""
    base_url = context_of(request).site.base_url
    return {
        "error": {
            "type": error.kind.type,
            "code": error.code,
            "message": str(error),
            "param": error.param,
            "doc_url": f"{base_url}{DOCS_PATH}#{error.code}",
            "request_id": request.state.request_id,
        }
    }


def api_error_of(error: Exception) -> ApiError:
    """What an exception of the operations, or of the framework, means to a client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OutcomeUnknown):
        return ApiError("outcome_unknown", str(error), retry_after_s=_RETRY_AFTER_S)
    if isinstance(error, NotFound):
        return ApiError("not_found", str(error))
    if isinstance(error, Conflict | OperationError):
        return ApiError("conflict", str(error))
    if isinstance(error, LedgerRefusal):
        return ApiError("ledger_refused", f"The ledger refused the change: {error.word}.")
    if isinstance(error, LedgerUnavailable):
        return ApiError("ledger_unavailable", str(error), retry_after_s=_RETRY_AFTER_S)
    if isinstance(error, StoreMissing):
        return ApiError("store_unavailable", str(error), retry_after_s=_RETRY_AFTER_S)
    if isinstance(error, RequestValidationError):
        return _validation(error.errors())
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, ApiError):  # raised while the framework read the body
            return error.__cause__
        return ApiError(_HTTP.get(error.status_code, "body_malformed"), headers=error.headers)
    return ApiError("internal_error")


def install(app: FastAPI) -> None:
    """Answer these exceptions; any other is a fault, which the boundary logs."""

    async def answer(request: Request, error: Exception) -> Response:
        found = api_error_of(error)
        if found.code == "method_not_allowed":
            found.headers.pop("Allow", None)
            found.headers["allow"] = ", ".join(sorted(_allowed(request))) or "GET"
        return error_response(request, found)

    handled: Sequence[type[Exception]] = (
        ApiError,
        OperationError,
        LedgerRefusal,
        LedgerUnavailable,
        StoreMissing,
        RequestValidationError,
        HTTPException,
    )
    handler: Callable[[Request, Exception], Awaitable[Response]] = answer
    for kind in handled:
        app.add_exception_handler(kind, handler)


def _allowed(request: Request) -> set[str]:
    """Methods of every route with this path: the framework names those of the first one."""
    path = request.url.path
    routes = (route for router in request.app.state.api_routers for route in router.routes)
    return {method for route in routes if route.path_regex.match(path) for method in route.methods}


def _page(request: Request, error: ApiError, headers: Mapping[str, str]) -> Response:
    wants_sign_in = error.code in ("credential_missing", "session_expired", "token_invalid")
    if wants_sign_in and request.method in ("GET", "HEAD") and request.url.path != SIGN_IN:
        if "hx-request" in request.headers:  # htmx would put the form into a part of the page
            return Response(status_code=401, headers={"hx-redirect": SIGN_IN})
        return RedirectResponse(SIGN_IN, 303)
    return render(request, "error.html", status=error.kind.status, headers=headers, error=error)


def _validation(errors: Sequence[Any]) -> ApiError:
    """The first of the mistakes, with its place: `limits.0.ceiling`, or the parameter's name."""
    first = errors[0]
    place = [str(part) for part in first["loc"][1:]]
    code = _VALIDATION.get(first["type"], "parameter_invalid")
    param = ".".join(place) or None
    if code == "body_malformed" and len(place) > 0 and first["type"] != "json_invalid":
        code = "parameter_invalid"
    if code == "body_malformed":
        return ApiError(code, param=None)
    message = first["msg"].removeprefix("Value error, ")
    shown = f"`{param}`" if param else "The request"
    if code == "parameter_missing":
        return ApiError(code, f"{shown} is required.", param=param)
    if code == "parameter_unknown":
        return ApiError(code, f"There is no parameter {shown} here.", param=param)
    given = str(first.get("input"))
    quoted = f", got {given[:80]!r}" if isinstance(first.get("input"), str | int | float) else ""
    return ApiError(code, f"{shown}: {message}{quoted}.", param=param)
