"""Refusals that the ledger decides: a reservation that it denies, or one that it cannot extend."""

from typing import Any

from gateway.domain.money import format_amount
from gateway.domain.reservation import Denied
from gateway.domain.standing import count_of, describe
from gateway.flow.refusals import Particulars, Refused


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
                Particulars(reason=denied.reason, detail=detail, status=insufficient_status),
            )
        case "credit_held":
            return Refused(
                "credit_held",
                f"This request can cost up to {estimate} credits; the balance would pay for it, but"
                f" requests that are still running hold all but {available}. Try again shortly.",
                Particulars(reason=denied.reason, detail=detail, retry_after_s=retry_after_s),
            )
        case "spend_limit":
            held = denied.retry_after_ms == 0
            return Refused(
                "credit_held" if held else "no_credit",
                f"The spend limit of {_limit_source(denied)} is reached: {left} credits are left in"
                f" it and this request can cost up to {estimate}. {reached}",
                Particulars(
                    reason=denied.reason,
                    detail=detail,
                    retry_after_s=None if held else retry_after_s,
                    status=None if held else insufficient_status,
                ),
            )
        case "rate_limit" | "concurrency_limit":
            return Refused(
                "rate_limited",
                f"The limit of {_limit_source(denied)} is reached: {left} left. {reached}",
                Particulars(reason=denied.reason, detail=detail, retry_after_s=retry_after_s),
            )
        case "wallet_frozen":
            return refused_frozen()
        case _:  # stale_account, stale_windows, went_back, shard_frozen, outbox_full, and
            # unknown_account: a configured customer whose wallet the ledger has lost
            return Refused(
                "ledger_unavailable",
                "The ledger cannot take reservations at the moment. Try again shortly.",
                Particulars(reason=denied.reason),
            )


def refused_frozen() -> Refused:
    """Say that an account admits nothing until its operator decides otherwise."""
    return Refused(
        "account_frozen",
        "This account is frozen; adding credits does not help. Ask the operator to thaw it.",
        Particulars(reason="wallet_frozen", detail={"reason": "wallet_frozen"}),
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
                Particulars(detail=detail),
            )
        case "spend_limit" | "rate_limit":
            return Refused(
                "no_credit" if reason == "spend_limit" else "rate_limited",
                "A limit was reached while this answer ran; it was cut here.",
                Particulars(detail=detail),
            )
        case "wallet_frozen":
            return Refused(
                "account_frozen",
                "This account was frozen while this answer ran; it was cut where its hold ended.",
                Particulars(detail=detail),
            )
        case _:
            return Refused(
                "no_credit",
                "The credit was used up while this answer ran; it was cut here. Add credits to go on.",
                Particulars(detail=detail),
            )


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
