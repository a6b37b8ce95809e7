"""`x-ratelimit-*` of the customer's own limits, by OpenAI's names, which SDKs and frameworks read.

The provider's fields of these names describe the operator's account and never pass. Of the limits on
requests, and of those on tokens, that apply to a request the one with the shortest window is shown.
What is left of it is in the ledger: a refusal tells it, and a granted hold does not, so that
`-remaining-` stands on refusals alone. `GET /v1/credits` has it at any time.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.domain.limits import SLOTS, Limit, Window, window_borders_ms
from gateway.domain.reservation import Account, Denied

_SHOWN: Final = ("requests", "tokens")
_WINDOWS: Final[tuple[Window, ...]] = ("minute", "hour", "day", "week", "month", "total")

Fields = tuple[tuple[str, str], ...]


def rate_fields(account: Account, model: str, now_ms: int, denied: Denied | None = None) -> Fields:
    """The fields for a request of this account. denied: when a limit refused it."""
    if not account.limits:
        return ()
    fields: list[tuple[str, str]] = []
    for measure in _SHOWN:
        limit = _tightest(account, measure, model)
        left = None
        if denied is not None and denied.limit is not None and denied.limit.measure == measure:
            limit, left = denied.limit, denied.limit_left
        if limit is None:
            continue
        fields.append((f"x-ratelimit-limit-{measure}", str(limit.ceiling)))
        if left is not None:
            fields.append((f"x-ratelimit-remaining-{measure}", str(left)))
        reset_ms = _reset_ms(limit, now_ms)
        if reset_ms is not None:
            fields.append((f"x-ratelimit-reset-{measure}", duration(reset_ms)))
    return tuple(fields)


def _tightest(account: Account, measure: str, model: str) -> Limit | None:
    applying = _applying(account.limits, measure, model, has_project=account.project_id is not None)
    return min(
        applying, key=lambda limit: (_WINDOWS.index(limit.window), limit.ceiling), default=None
    )


def _applying(
    limits: Sequence[Limit], measure: str, model: str, *, has_project: bool
) -> Iterator[Limit]:
    for limit in limits:
        if (
            limit.measure == measure
            and (limit.scope != "model" or limit.model == model)
            and (limit.scope != "project" or has_project)
        ):
            yield limit


def _reset_ms(limit: Limit, now_ms: int) -> int | None:
    """Until all of the limit is there again if nothing more runs; None for a lifetime limit."""
    if limit.window == "total":
        return None
    if limit.rolling:
        return limit.slot_ms * (SLOTS + 1)
    return window_borders_ms(limit.window, now_ms)[2] - now_ms


def duration(ms: int) -> str:
    """As OpenAI writes it: `6m0s`, `1h0m30s`, `850ms`."""
    if ms < 1000:
        return f"{max(ms, 0)}ms"
    minutes, seconds = divmod(-(-ms // 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
