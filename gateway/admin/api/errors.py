"""Errors of the admin API: one shape, and one table of codes.

Each error is `{"error": {"type", "code", "message", "param", "doc_url", "request_id"}}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "idempotency_error",
    "rate_limit_error",
    "api_error",
]


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One code. message: what is said unless the place of the error knows more."""

    status: int
    type: ErrorType
    message: str


ERRORS: Final[Mapping[str, ErrorKind]] = {
    "parameter_invalid": ErrorKind(
        400, "invalid_request_error", "A parameter has a value that cannot be used."
    ),
    "parameter_missing": ErrorKind(
        400, "invalid_request_error", "A required parameter is missing."
    ),
    "parameter_unknown": ErrorKind(
        400, "invalid_request_error", "There is no parameter of this name here."
    ),
    "body_malformed": ErrorKind(
        400, "invalid_request_error", "The request body is not valid JSON of the expected shape."
    ),
    "signature_invalid": ErrorKind(
        400, "invalid_request_error", "The webhook's signature is missing, wrong or too old."
    ),
    "idempotency_key_invalid": ErrorKind(
        400,
        "idempotency_error",
        "An Idempotency-Key has 1 to 64 printable ASCII characters.",
    ),
    "credential_missing": ErrorKind(
        401, "authentication_error", "Send an API token: `Authorization: Bearer cga_…`."
    ),
    "credential_malformed": ErrorKind(
        401, "authentication_error", "The Authorization header must be one `Bearer TOKEN`."
    ),
    "token_invalid": ErrorKind(
        401, "authentication_error", "The token is unknown, expired or revoked."
    ),
    "session_expired": ErrorKind(
        401, "authentication_error", "The session has ended. Sign in again."
    ),
    "sign_in_refused": ErrorKind(
        401,
        "authentication_error",
        "The code or token is unknown, used, expired or revoked.",
    ),
    "host_refused": ErrorKind(
        403,
        "permission_error",
        "The Host header names none of this console's hosts. Set `console.public_url` or"
        " `console.allowed_hosts`.",
    ),
    "origin_refused": ErrorKind(
        403, "permission_error", "Writes are not accepted from pages of other origins."
    ),
    "csrf_token_invalid": ErrorKind(
        403, "permission_error", "The CSRF token is missing or wrong. Reload the page and retry."
    ),
    "role_insufficient": ErrorKind(403, "permission_error", "The role does not permit this."),
    "route_unknown": ErrorKind(404, "not_found_error", "There is nothing at this path."),
    "not_found": ErrorKind(404, "not_found_error", "What the request names does not exist."),
    "method_not_allowed": ErrorKind(
        405, "invalid_request_error", "This path does not take this method."
    ),
    "conflict": ErrorKind(409, "conflict_error", "The present state does not permit this."),
    "ledger_refused": ErrorKind(409, "conflict_error", "The ledger refused the change."),
    "idempotency_key_in_use": ErrorKind(
        409, "idempotency_error", "A request with this Idempotency-Key is still running; retry."
    ),
    "body_too_large": ErrorKind(
        413, "invalid_request_error", "The request body is larger than this server accepts."
    ),
    "media_type_unsupported": ErrorKind(
        415, "invalid_request_error", "Send the body as application/json."
    ),
    "idempotency_key_reused": ErrorKind(
        422,
        "idempotency_error",
        "This Idempotency-Key was used for another request. Use a new key for each request.",
    ),
    "too_many_attempts": ErrorKind(
        429, "rate_limit_error", "Too many failed sign-ins. Wait before the next attempt."
    ),
    "internal_error": ErrorKind(
        500, "api_error", "The server failed. The log has the details under the request id."
    ),
    "outcome_unknown": ErrorKind(
        503,
        "api_error",
        "The connection to the ledger was lost before its answer. Retry with the same"
        " Idempotency-Key.",
    ),
    "ledger_unavailable": ErrorKind(503, "api_error", "The ledger cannot be reached; retry."),
    "provider_unavailable": ErrorKind(
        503, "api_error", "The OpenID Connect provider cannot be used now; the log has the reason."
    ),
    "store_unavailable": ErrorKind(503, "api_error", "The event store cannot be read; retry."),
}


class ApiError(Exception):
    """The request is answered with an error. message: instead of the code's own."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = ERRORS[code]
        super().__init__(message or self.kind.message)
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["retry-after"] = str(retry_after_s)
