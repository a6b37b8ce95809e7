"""What is known about one request so far: the flow fills it in, and every step reads it."""

import os
import time
from typing import TYPE_CHECKING, Final

from gateway.dialects.base import Asked, Dialect, RequestFacts
from gateway.domain.reservation import Account, Denied
from gateway.domain.usage_facts import UsageFacts
from gateway.flow.catalog import Route
from gateway.flow.estimate import Estimate
from gateway.flow.plan import Plan
from gateway.flow.refusals import Refused
from gateway.flow.retries import Attempt
from gateway.http.interface import Exchange, UpstreamError

if TYPE_CHECKING:
    from gateway.flow.request_trace import RequestTrace

_RANDOM_HEX: Final = 20
_RANDOM_AT_ONCE: Final = 256
_random: list[str] = []


def new_request_id() -> str:
    """32 hex digits that sort by time: 48 bits of Unix ms, 80 random bits."""
    if not _random:  # one call of the kernel for many ids
        drawn = os.urandom(_RANDOM_AT_ONCE * _RANDOM_HEX // 2).hex()
        _random.extend(drawn[at : at + _RANDOM_HEX] for at in range(0, len(drawn), _RANDOM_HEX))
    return f"{time.time_ns() // 1_000_000:012x}{_random.pop()}"


class RequestContext:
    """One request, from its head to its log line.

    started_at:     by the monotonic clock, in seconds
    dialect:        the dialect in which the gate's own responses are written
    route, account: of the request; `account` is None until it is known, `route_path` until
                    `route` is set
    asked, facts:   the request with its body, and what the dialect read in it
    name:           the client's Idempotency-Key, None when it gives none
    attempt:        see `gateway/flow/retries.py`; None while nothing has to be compared
    plan, estimate: how this account's requests for this model run, and the most this one can cost
    model_name:     as the client named it, at most 200 characters
    event:          what the usage event says, as far as it is known
    held_nano:      what was reserved at first
    admitted:       the gate has decided to forward it; what fails later is no denial
    denied:         the ledger's last answer, when it was a refusal
    decision:       `allow`, `deny`, `replay` for a recorded response, `bypass`; `would_deny` for what
                    runs in shadow mode alone
    objection:      what would have refused it in `enforce`, in shadow mode
    reason:         why it was denied or ended early; "" when neither
    tried:          places in the model's spread of the upstreams that it was sent to, or that could
                    not be reached
    probe:          its number, while its end decides whether the upstream's breaker closes; else 0
    counted_failed: the upstream's breaker has counted its failure to serve this request
    upstream:       the name of the upstream that answered or failed last; None before that
    sent_at:        when the request went upstream, by the monotonic clock
    broken:         the failure that ended a stream early; its client has got an error frame
    upstream_s:     from the forwarded request to the head of its response
    upstream_error: what failed at the upstream, in the gate's own words; "" when nothing did
    trace:          of a gate that traces requests; see `tracing.py`
    """

    # Defaults of the class, not of the instance: most requests change few of them.
    asked: Asked
    facts: RequestFacts
    plan: Plan
    estimate: Estimate
    event: UsageFacts
    route: Route
    route_path: str | None = None
    name: str | None = None
    retry_count: str | None = None
    attempt: Attempt | None = None
    account: Account | None = None
    model_name: str | None = None
    held_nano: int = 0
    admitted: bool = False
    denied: Denied | None = None
    decision: str = "allow"
    reason: str = ""
    tried: tuple[int, ...] = ()
    probe: int = 0
    counted_failed: bool = False
    upstream: str | None = None
    sent_at: float = 0.0
    upstream_s: float = 0.0
    broken: UpstreamError | None = None
    objection: Refused | None = None
    upstream_error: str = ""
    trace: "RequestTrace | None" = None

    def __init__(self, exchange: Exchange, dialect: Dialect) -> None:
        self.exchange = exchange
        self.dialect = dialect
        self.request_id = new_request_id()
        self.started_at = time.monotonic()

    # For retries: see `Retryable`

    @property
    def named(self) -> bool:
        """Whether the client named its request by an Idempotency-Key."""
        return self.name is not None

    @property
    def owner(self) -> str:
        """Customer and key."""
        account = self.plan.account
        return f"{account.customer_id}\0{account.key_id}"

    @property
    def endpoint(self) -> str:
        """The route's path."""
        return self.route.path

    def fingerprint(self) -> bytes:
        """What makes two requests the same: everything that is priced or executed."""
        return self.route.dialect.fingerprint(self.asked, self.facts)
