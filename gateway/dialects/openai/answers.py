"""What the gate itself says in OpenAI's shape: refusals, and the frames that end a stream.

Shapes: platform.openai.com/docs/guides/error-codes; the official SDKs map the HTTP status to an
exception and read `code`, `param` and `type` from the body.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.dialects.base import Dialect, Refusal, RefusalKind

_SHAPES: Final[Mapping[RefusalKind, tuple[int, str, str | None]]] = {
    "no_credit": (402, "insufficient_quota", "credit_balance_exhausted"),
    "account_frozen": (402, "account_frozen", "account_frozen"),
    "credit_held": (429, "rate_limit_error", "credit_held"),
    "rate_limited": (429, "rate_limit_error", "rate_limit_exceeded"),
    "bad_key": (401, "invalid_request_error", "invalid_api_key"),
    "forbidden_model": (403, "invalid_request_error", "model_not_found"),
    "unknown_model": (404, "invalid_request_error", "model_not_found"),
    "not_found": (404, "invalid_request_error", "unknown_url"),
    "method_not_allowed": (405, "invalid_request_error", "method_not_supported"),
    "bad_request": (400, "invalid_request_error", None),
    "conflict": (409, "invalid_request_error", "conflict"),
    "already_done": (409, "invalid_request_error", "already_done"),
    "timeout": (408, "invalid_request_error", "request_timeout"),
    "too_large": (413, "invalid_request_error", "request_too_large"),
    "unsupported_media": (415, "invalid_request_error", "unsupported_media_type"),
    "unprocessable": (422, "invalid_request_error", None),
    "ledger_unavailable": (503, "api_error", "ledger_unavailable"),
    "overloaded": (503, "api_error", "overloaded"),
    "shutting_down": (503, "api_error", "shutting_down"),
    "upstream_unreachable": (502, "api_error", "upstream_unreachable"),
    "upstream_auth": (502, "api_error", "upstream_auth"),
    "upstream_timeout": (504, "api_error", "upstream_timeout"),
    "internal": (500, "api_error", "internal_error"),
}
"""Kind → status, `type`, `code`."""


class OpenAIDialect(Dialect):
    """What all of OpenAI's dialects say alike. One that has no error frame can only be broken off."""

    def refusal(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and JSON body of a refusal."""
        return refuse(refusal)

    def error_frame(self, refusal: Refusal) -> bytes:  # noqa: ARG002
        """Nothing."""
        return b""


STREAM_END: Final = b"data: [DONE]\n\n"


def refuse(refusal: Refusal) -> tuple[int, bytes]:
    """Status and body."""
    status = refusal.status or _SHAPES[refusal.kind][0]
    return status, orjson.dumps({"error": error_of(refusal)})


def error_of(refusal: Refusal) -> dict[str, Any]:
    """The `error` object."""
    _, kind, code = _SHAPES[refusal.kind]
    error: dict[str, Any] = {
        "message": refusal.message,
        "type": kind,
        "param": refusal.param,
        "code": refusal.code or code,
    }
    if refusal.detail:
        error["metadata"] = dict(refusal.detail)
    return error


def end_chunk_stream(refusal: Refusal, kind: str, choice: Mapping[str, Any]) -> bytes:
    """Ends a running stream of chunks: one with `error` and finish reason "error", then `[DONE]`.

    Never `length`: agent frameworks carry on after that.
    """
    chunk = {
        "id": refusal.request_id,
        "object": kind,
        "created": 0,
        "model": "",
        "choices": [{"index": 0, **choice, "logprobs": None, "finish_reason": "error"}],
        "error": error_of(refusal),
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n" + STREAM_END
