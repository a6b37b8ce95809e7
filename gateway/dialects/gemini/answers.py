"""What the gate itself says in Google's shape: `google.rpc.Status` as JSON, with details.

Shapes: cloud.google.com/apis/design/errors; the SDK reads `code`, `message` and `status`, and retries
408, 429 and some 5xx by the HTTP status. A want of credit is `FAILED_PRECONDITION`: what does not end
by itself.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.dialects.base import Refusal, RefusalKind

_SHAPES: Final[Mapping[RefusalKind, tuple[int, str]]] = {
    "no_credit": (402, "FAILED_PRECONDITION"),
    "account_frozen": (402, "FAILED_PRECONDITION"),
    "credit_held": (429, "RESOURCE_EXHAUSTED"),
    "rate_limited": (429, "RESOURCE_EXHAUSTED"),
    "bad_key": (401, "UNAUTHENTICATED"),
    "forbidden_model": (403, "PERMISSION_DENIED"),
    "unknown_model": (404, "NOT_FOUND"),
    "not_found": (404, "NOT_FOUND"),
    "method_not_allowed": (405, "UNIMPLEMENTED"),
    "bad_request": (400, "INVALID_ARGUMENT"),
    "conflict": (409, "ABORTED"),
    "already_done": (409, "ALREADY_EXISTS"),
    "timeout": (408, "DEADLINE_EXCEEDED"),
    "too_large": (413, "INVALID_ARGUMENT"),
    "unsupported_media": (415, "INVALID_ARGUMENT"),
    "unprocessable": (422, "INVALID_ARGUMENT"),
    "ledger_unavailable": (503, "UNAVAILABLE"),
    "overloaded": (503, "UNAVAILABLE"),
    "shutting_down": (503, "UNAVAILABLE"),
    "upstream_unreachable": (502, "UNAVAILABLE"),
    "upstream_auth": (502, "UNAVAILABLE"),
    "upstream_timeout": (504, "DEADLINE_EXCEEDED"),
    "internal": (500, "INTERNAL"),
}
"""Kind → status, `status`."""

_TYPE: Final = "type.googleapis.com/google.rpc."
_DOMAIN: Final = "creditgate"


def refuse(refusal: Refusal) -> tuple[int, bytes]:
    """Status and body."""
    error = error_of(refusal)
    return error["code"], orjson.dumps({"error": error})


def error_of(refusal: Refusal) -> dict[str, Any]:
    """The `error` object."""
    status, word = _SHAPES[refusal.kind]
    details: list[dict[str, Any]] = [
        {
            "@type": _TYPE + "ErrorInfo",
            "reason": (refusal.code or refusal.kind).upper(),
            "domain": _DOMAIN,
            "metadata": {
                **{name: str(value) for name, value in refusal.detail.items()},
                "request_id": refusal.request_id,
            },
        }
    ]
    if refusal.param is not None:
        violation = {"field": refusal.param, "description": refusal.message}
        details.append({"@type": _TYPE + "BadRequest", "fieldViolations": [violation]})
    if refusal.retry_after_s is not None:
        details.append({"@type": _TYPE + "RetryInfo", "retryDelay": f"{refusal.retry_after_s}s"})
    code = refusal.status or status
    return {"code": code, "message": refusal.message, "status": word, "details": details}
