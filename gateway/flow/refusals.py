"""A refusal as an exception, from wherever the flow decides it, and how a denial becomes one."""

from collections.abc import Sequence
from typing import Any, Final, cast

from gateway.dialects.base import BadRequest, Refusal, RefusalKind, TooLarge
from gateway.domain.money import format_amount
from gateway.domain.reservation import Denied
from gateway.domain.standing import count_of, describe
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


class Refused(Exception):
    """The gate's own answer to a request. `reason` is what metrics and `why` show; `headers` are
    those of this refusal beside `refusal_headers`."""

    def __init__(
        self,
        kind: RefusalKind,
        message: str,
        *,
        reason: str | None = None,
        param: str | None = None,
        code: str | None = None,
        detail: dict[str, Any] | None = None,
        retry_after_s: int | None = None,
        status: int | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.reason = reason or kind
        self.param = param
        self.code = code
        self.detail = detail or {}
        self.retry_after_s = retry_after_s or RETRY_AFTER_S.get(kind)
        self.status = status
        self.headers = headers

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
                reason=error.word,
            )
        case LedgerUnavailable():
            cannot = f"refuses to serve ({error.code})" if error.code else "cannot be reached"
            return Refused(
                "ledger_unavailable",
                f"The ledger {cannot}, so nothing can be admitted. Try again shortly.",
            )


def refused_by_ledger(denied: Denied, *, insufficient_status: int) -> Refused:
    """Say a denial of the ledger: 402 when the balance cannot pay, 429 when time will help."""
    estimate, available = format_amount(denied.estimate_nano), format_amount(denied.available_nano)
    detail: dict[str, Any] = {
        "reason": denied.reason,
        "limit_source": _limit_source(denied),
        "available": available,
        "estimate": estimate,
    }
    retry_after_s = _seconds(denied.retry_after_ms)
    left = reached = ""
    if denied.limit is not None:
        limit = describe(denied.limit, denied.limit_of)
        left = f"{count_of(denied.limit, denied.limit_left)} of {limit['ceiling']}"
        reached = _when(denied)
        detail["limit"] = {
            **limit,
            "left": count_of(denied.limit, denied.limit_left),
            "retry_after_s": retry_after_s,
        }
    match denied.reason:
        case "insufficient_credits":
            return Refused(
                "no_credit",
                f"This request can cost up to {estimate} credits and {available} are available."
                " Add credits, or lower the output maximum.",
                reason=denied.reason,
                detail=detail,
                status=insufficient_status,
            )
        case "credit_held":
            return Refused(
                "credit_held",
                f"This request can cost up to {estimate} credits; the balance would pay for it, but"
                f" requests that are still running hold all but {available}. Try again shortly.",
                reason=denied.reason,
                detail=detail,
                retry_after_s=retry_after_s,
            )
        case "spend_limit":
            held = denied.retry_after_ms == 0
            return Refused(
                "credit_held" if held else "no_credit",
                f"The spend limit of {_limit_source(denied)} is reached: {left} credits are left in"
                f" it and this request can cost up to {estimate}. {reached}",
                reason=denied.reason,
                detail=detail,
                retry_after_s=None if held else retry_after_s,
                status=None if held else insufficient_status,
            )
        case "rate_limit" | "concurrency_limit":
            return Refused(
                "rate_limited",
                f"The limit of {_limit_source(denied)} is reached: {left} left. {reached}",
                reason=denied.reason,
                detail=detail,
                retry_after_s=retry_after_s,
            )
        case "wallet_frozen":
            return Refused(
                "account_frozen",
                "This account is frozen; adding credits does not help. Ask the operator to thaw it.",
                reason=denied.reason,
                detail={"reason": denied.reason},
            )
        case _:  # stale_account, stale_windows, went_back, shard_frozen, outbox_full, and
            # unknown_account: a configured customer whose wallet the ledger has lost
            return Refused(
                "ledger_unavailable",
                "The ledger cannot take reservations at the moment. Try again shortly.",
                reason=denied.reason,
            )


def refused_by_kill(reason: str) -> Refused:
    """Say that the operator has ended what was running."""
    if reason == "key_revoked":
        return Refused(
            "bad_key",
            "This API key was revoked while its request ran; the answer ends here.",
            reason=reason,
            detail={"reason": reason},
        )
    if reason == "gate_stopped":
        return Refused(
            "shutting_down",
            "The gate is stopping, so this answer ends here; only what was delivered is charged."
            " Try again.",
            reason=reason,
            detail={"reason": reason},
        )
    return Refused(
        "account_frozen",
        "This account was frozen while its request ran; the answer ends here. Ask the operator to"
        " thaw it.",
        reason=reason,
        detail={"reason": reason},
    )


def refused_growth(reason: str | None, held: str) -> Refused:
    """Say why a stream ends before its answer does: its hold could not grow."""
    detail: dict[str, str | int] = {"reason": reason or "insufficient_credits", "estimate": held}
    match reason:
        case "credit_held":
            return Refused(
                "credit_held",
                "Other requests hold the credit that this answer needed; it was cut here. The balance"
                " would have paid for it.",
                detail=detail,
            )
        case "spend_limit" | "rate_limit":
            return Refused(
                "no_credit" if reason == "spend_limit" else "rate_limited",
                "A limit was reached while this answer ran; it was cut here.",
                detail=detail,
            )
        case "wallet_frozen":
            return Refused(
                "account_frozen",
                "This account was frozen while this answer ran; it was cut where its hold ended.",
                detail=detail,
            )
        case _:
            return Refused(
                "no_credit",
                "The credit was used up while this answer ran; it was cut here. Add credits to go on.",
                detail=detail,
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
        return Refused("upstream_timeout", message, reason=reason)
    if error.cause == "busy":
        return Refused(
            "upstream_unreachable",
            "All connections to the upstream are in use. Try again shortly.",
            reason=reason,
            status=503,
            retry_after_s=UPSTREAM_BUSY_RETRY_S,
        )
    message = (
        "The upstream closed the connection before completing its response."
        if error.sent
        else "The upstream could not be reached."
    )
    return Refused("upstream_unreachable", message, reason=reason)


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


def _limit_source(denied: Denied) -> str:
    """Whose limit on what: `key k_build (tokens per minute)`."""
    limit = denied.limit
    if limit is None:
        return "balance"
    whose = f"{limit.scope} {denied.limit_of}".rstrip()
    if limit.measure == "concurrent":
        return f"{whose} (concurrent requests)"
    return f"{whose} ({limit.measure} {'in' if limit.window == 'total' else 'per'} {limit.window})"


def _when(denied: Denied) -> str:
    """When another try helps."""
    if denied.retry_after_ms is None:
        return "No later time helps: ask for less, or have the limit raised."
    if denied.retry_after_ms == 0:
        return "Requests that are still running hold the rest. Try again shortly."
    return f"Try again in {_seconds(denied.retry_after_ms)} s."


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else max(1, -(-ms // 1000))
