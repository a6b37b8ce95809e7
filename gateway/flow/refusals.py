"""Refusals as exceptions, and the headers that they carry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import quote

from gateway.dialects.base import BadRequest, Refusal, RefusalKind, TooLarge
from gateway.http.interface import BodyError, UpstreamAuthError, UpstreamError
from gateway.ledger.client.errors import LedgerUnavailable, ShardClosed

RETRY_AFTER_S = {
    "credit_held": 2,
    "conflict": 2,
    "ledger_unavailable": 1,
    "overloaded": 1,
    "shutting_down": 1,
}
"""What a transient refusal advises when the ledger does not know better."""

TRANSIENT = frozenset(
    {
        "credit_held",
        "rate_limited",
        "ledger_unavailable",
        "overloaded",
        "shutting_down",
        "conflict",
        "timeout",
        "upstream_unreachable",
        "upstream_timeout",
        "internal",
    }
)
"""Kinds that a retry may cure; all others carry `x-should-retry: false`, and so does a limit that is
below what one such request counts."""

UPSTREAM_BUSY_RETRY_S: Final = 1
"""What is advised when no connection to an upstream is free: one is, as soon as a response ends."""

LONGEST_WAIT_S: Final = 120
"""Nobody should sleep longer than this inside one call; SDKs exist that would sleep for a month."""


@dataclass(frozen=True, slots=True)
class Particulars:
    """What one refusal states beyond its kind, message, code and parameter."""

    reason: str | None = None
    """What metrics and `why` show; the kind where it is None."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the error object for programs."""
    retry_after_s: int | None = None
    status: int | None = None
    """Replaces the status that the kind implies."""
    headers: Sequence[tuple[str, str]] = ()
    """Sent in addition to `refusal_headers`."""


NO_PARTICULARS: Final = Particulars()


class Refused(Exception):
    """The gate's own answer to a request."""

    def __init__(
        self,
        kind: RefusalKind,
        message: str,
        particulars: Particulars = NO_PARTICULARS,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.code = code
        self.reason = particulars.reason or kind
        self.detail = dict(particulars.detail)
        self.retry_after_s = particulars.retry_after_s or RETRY_AFTER_S.get(kind)
        self.status = particulars.status
        self.headers = particulars.headers

    def tell_top_up(self, url: str | None, customer_id: str) -> None:
        """Add where the customer adds credit, if that is what this refusal is about. url: see `Policy`"""
        lacking = self.kind == "no_credit" and self.detail.get("reason") == "insufficient_credits"
        if url is not None and lacking:
            self.detail["top_up_url"] = url.replace("{customer}", quote(customer_id, safe=""))
            self.message = f"{self.message} Top up: {self.detail['top_up_url']}"

    def as_refusal(self, request_id: str) -> Refusal:
        """The value that a dialect renders."""
        return Refusal(
            kind=self.kind,
            message=self.message,
            request_id=request_id,
            param=self.param,
            code=self.code,
            detail=self.detail,
            retry_after_s=self.retry_after_s,
            status=self.status,
        )


INTERNAL = Refused(
    "internal", "The gate failed. What was held for this request and not used is given back."
)


def as_refused(error: Refused | BadRequest | BodyError | LedgerUnavailable) -> Refused:
    """What the parts of the flow raise, as the refusal that it means."""
    match error:
        case Refused():
            return error
        case TooLarge():
            return Refused("too_large", error.message, param=error.param, code=error.code)
        case BadRequest():
            return Refused("bad_request", error.message, param=error.param, code=error.code)
        case BodyError():
            return Refused(cast(RefusalKind, error.kind), error.message)
        case ShardClosed():
            return Refused(
                "ledger_unavailable",
                "The ledger cannot serve this account at the moment. Try again shortly.",
                Particulars(reason=error.word),
            )
        case LedgerUnavailable():
            cannot = f"refuses to serve ({error.code})" if error.code else "cannot be reached"
            return Refused(
                "ledger_unavailable",
                f"The ledger {cannot}, so nothing can be admitted. Try again shortly.",
            )


def refused_by_kill(reason: str) -> Refused:
    """Say that the operator has ended what was running."""
    if reason == "key_revoked":
        return Refused(
            "bad_key",
            "This API key was revoked while its request ran; the answer ends here.",
            Particulars(reason=reason, detail={"reason": reason}),
        )
    if reason == "gate_stopped":
        return Refused(
            "shutting_down",
            "The gate is stopping, so this answer ends here; only what was delivered is charged."
            " Try again.",
            Particulars(reason=reason, detail={"reason": reason}),
        )
    return Refused(
        "account_frozen",
        "This account was frozen while its request ran; the answer ends here. Ask the operator to"
        " thaw it.",
        Particulars(reason=reason, detail={"reason": reason}),
    )


def refused_by_upstream(error: UpstreamError) -> Refused:
    """Say that the upstream gave no answer that could be passed on."""
    if isinstance(error, UpstreamAuthError):
        return Refused(
            "upstream_auth",
            f"The upstream refused this gateway's own credential ({error.status}). Your API key is"
            " valid; the operator of this gateway must fix the upstream's credential.",
        )
    reason = f"upstream_{error.cause}"
    if error.timeout:
        message = "The upstream did not answer in time (the gate's limit)."
        return Refused("upstream_timeout", message, Particulars(reason=reason))
    if error.cause == "busy":
        return Refused(
            "upstream_unreachable",
            "All connections to the upstream are in use. Try again shortly.",
            Particulars(reason=reason, status=503, retry_after_s=UPSTREAM_BUSY_RETRY_S),
        )
    message = (
        "The upstream closed the connection before completing its response."
        if error.sent
        else "The upstream could not be reached."
    )
    return Refused("upstream_unreachable", message, Particulars(reason=reason))


def refusal_headers(refusal: Refusal) -> list[tuple[str, str]]:
    """Headers of the gate's own errors. Official SDKs obey `x-should-retry`."""
    headers = [("content-type", "application/json"), ("x-request-id", refusal.request_id)]
    never = refusal.kind == "rate_limited" and refusal.retry_after_s is None
    too_long = (refusal.retry_after_s or 0) > LONGEST_WAIT_S
    if never or too_long or refusal.kind not in TRANSIENT:
        headers.append(("x-should-retry", "false"))
    if refusal.kind == "bad_key":
        headers.append(("www-authenticate", "Bearer"))  # RFC 9110, 15.5.2
    if refusal.retry_after_s is not None:
        headers.append(("retry-after", str(refusal.retry_after_s)))
    if "cost" in refusal.detail:
        headers.append(("x-credits-cost", str(refusal.detail["cost"])))
    return headers
