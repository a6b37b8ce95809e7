"""Refusals of the last days, and what would have let each request through."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.money import format_amount
from gateway.ledger.codec.refusals import RefusedRequest
from gateway.ledger.refusals import NotedRefusal
from gateway.operations.backend import Backend


@dataclass(frozen=True, slots=True)
class RefusalFilter:
    """Which refusals are wanted; what is None does not matter."""

    customer_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    reason: str | None = None
    status: int | None = None

    def passes(self, refused: RefusedRequest) -> bool:
        """Whether a refusal is wanted."""
        return (
            self.customer_id in (None, refused.customer_id)
            and self.key_id in (None, refused.key_id)
            and self.model in (None, refused.model)
            and self.reason in (None, refused.reason)
            and self.status in (None, refused.status)
        )


async def recent_refusals(
    backend: Backend, wanted: RefusalFilter, limit: int = 50
) -> Sequence[NotedRefusal]:
    """The latest refusals that pass, the latest first. Raises LedgerUnavailable."""
    return await backend.latest_refusals(wanted.passes, limit)


def remedies(refused: RefusedRequest) -> list[str]:
    """What would have let this request through: any one of these, the most direct first."""
    known = _AMOUNTS.get(refused.reason)
    if known is not None:
        return known(refused)
    return list(_WORDS.get(refused.reason, ()))


def _credit(refused: RefusedRequest) -> list[str]:
    short = _short_nano(refused)
    ways = []
    if short:
        ways.append(f"{format_amount(short)} more credits: a top-up, or a higher credit limit.")
    else:
        ways.append("More credits: a top-up, or a higher credit limit.")
    if refused.estimate_nano and refused.available_nano and refused.available_nano > 0:
        share = 100 * refused.available_nano // refused.estimate_nano
        ways.append(
            f"A request that can cost at most {format_amount(refused.available_nano)} credits, {share}"
            " % of this one: a lower output maximum, or a less expensive model."
        )
    return ways


def _held(refused: RefusedRequest) -> list[str]:
    return [
        "Waiting: the balance pays for it as soon as running requests return what they hold and do not"
        " use.",
        f"{format_amount(short)} more credits."
        if (short := _short_nano(refused))
        else "More credits.",
        "Lower output maximums, so that each request holds less.",
    ]


def _limit(refused: RefusedRequest) -> list[str]:
    which = refused.limit or "that limit"
    ways = [f"A higher limit for {which}."]
    if refused.reason == "concurrency_limit":
        return ["Waiting until one of the running requests ends.", *ways]
    ways.insert(0, f"Waiting until the window of {which} moves on or ends.")
    if refused.reason == "spend_limit":
        ways.append("A request that can cost less: a lower output maximum.")
    return ways


def _short_nano(refused: RefusedRequest) -> int:
    if refused.estimate_nano is None or refused.available_nano is None:
        return 0
    return max(0, refused.estimate_nano - refused.available_nano)


_AMOUNTS: Final = {
    "insufficient_credits": _credit,
    "credit_held": _held,
    "spend_limit": _limit,
    "rate_limit": _limit,
    "concurrency_limit": _limit,
}
_WORDS: Final = {
    "wallet_frozen": ("Thawing the wallet. More credits do not help while it is frozen.",),
    "account_frozen": ("Thawing the wallet. More credits do not help while it is frozen.",),
    "bad_key": (
        "A key that exists, is not revoked and has not expired. Compare its prefix and last four"
        " characters with the customer's keys.",
    ),
    "forbidden_model": ("A key, or a plan, that permits this model.",),
    "unknown_model": (
        "A model name that is configured, or this model added to the configuration with a price.",
    ),
    "not_found": ("A path that one of the configured routes serves.",),
    "method_not_allowed": ("The method that this route serves.",),
    "bad_request": ("A request body that can be read and bounded; the message names the field.",),
    "unprocessable": (
        "The same body as the first request with this Idempotency-Key, or a new key.",
    ),
    "conflict": ("Waiting until the first request with this Idempotency-Key has ended.",),
    "already_done": ("A new Idempotency-Key: the request with this one has been served.",),
    "repeated": ("A new Idempotency-Key, or waiting until the first request has ended.",),
    "too_large": ("A smaller request body, or a higher `listen.max_body_bytes`.",),
    "ledger_unavailable": (
        "A ledger that answers. Nothing was wrong with the request: the same one passes once the ledger"
        " is back.",
    ),
    "shard_frozen": (
        "A repaired ledger: the gate repairs this customer's shard from the store, or `creditgate ledger"
        " reopen` does.",
    ),
    "went_back": (
        "A repaired ledger: the gate restores what this customer's shard has lost, or `creditgate ledger"
        " reopen` does.",
    ),
    "outbox_full": (
        "A required store that takes events again: see *Stores and signals* for its lag.",
    ),
    "overloaded": ("A gate with less to do: more workers, or another try later.",),
    "shutting_down": ("Another try: this gate was stopping.",),
    "upstream_auth": ("A valid credential of the gate for this upstream, in the configuration.",),
    "upstream_busy": ("A free connection to the upstream: another try, or a larger pool.",),
}
