"""Requests to the ledger for one reservation, and its replies.

States and their only transitions: `pending → settled | released | expired`, and
`expired → settled_late`. Each transition writes exactly one event, whose id is
`reservation_id:outcome`.

All of these are treated as immutable. `Hold` and `Settled`, which every request creates, are not frozen
because a frozen dataclass takes three times as long to create.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.domain.customers import wallet_id
from gateway.domain.key_terms import Restrictions
from gateway.domain.limits import Limit
from gateway.domain.pricing import PriceTable

Outcome = Literal["settled", "released", "expired", "settled_late"]

DenyReason = Literal[
    "insufficient_credits",  # the balance cannot pay: 402
    "credit_held",  # the balance could pay, other holds block it: 429
    "spend_limit",
    "rate_limit",
    "concurrency_limit",
    "wallet_frozen",
    "wallet_killed",  # of a running answer: it is to be cut
    "repeated",  # a request with this Idempotency-Key runs, or has run
    "stale_account",  # account_rev differs: reload the account and ask again
    "stale_windows",  # the limit rows' windows do not cover the ledger's clock: repack
    "unknown_account",
    "went_back",  # the shard lost a tail that this gate has seen: it is frozen until repaired
    "shard_frozen",
    "outbox_full",
    "already_ended",  # the reservation of this id has ended: a release overtook its reserve
    "exists_with_different_parameters",  # the id is taken by another request
]

TOMBSTONE_TTL_MS: Final = 3_600_000
SETTLE_MAX_AGE_MS: Final = TOMBSTONE_TTL_MS - 300_000
MAX_USES: Final = 100
"""Most past uses rated in one call."""
IDEMPOTENCY_TTL_MS: Final = 86_400_000
"""How long an Idempotency-Key is remembered."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account that a request is charged to, as the gate knows it. Each reserve checks
    `account_rev`.

    customer_id:  the wallet's id (`gateway/domain/customers.py`)
    plan, prices: of a customer in the ledger: the plan, and its own prices by model
    restrictions: of the key, checked for every request; None for most
    suspended:    the customer is, so that nothing is admitted in any mode
    """

    customer_id: str
    key_id: str
    shard: int
    account_rev: int
    project_id: str | None = None
    limits: tuple[Limit, ...] = ()
    models: frozenset[str] | None = None
    """Models that this key may use; None means all."""
    livemode: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)
    plan: str | None = None
    prices: Mapping[str, PriceTable] = field(default_factory=dict)
    restrictions: Restrictions | None = None
    suspended: bool = False

    def holder(self, limit: Limit) -> str:
        """Return what a limit of this account counts: the customer, project, key or model."""
        if limit.scope == "model":
            return limit.model or ""
        if limit.scope == "project":
            return self.project_id or ""
        return self.key_id if limit.scope == "key" else self.customer_id


@dataclass(frozen=True, slots=True)
class Key:
    """One API key: its customer and its restrictions. test: it acts for the customer's test wallet."""

    key_id: str
    customer_id: str
    project_id: str | None = None
    limits: tuple[Limit, ...] = ()
    models: frozenset[str] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    test: bool = False
    restrictions: Restrictions | None = None

    @property
    def account_id(self) -> str:
        """The wallet that its requests are charged to."""
        return wallet_id(self.customer_id, "test" if self.test else "live")


@dataclass(slots=True)
class Hold:
    """A granted reservation."""

    reservation_id: str
    held_nano: int
    available_nano: int
    """What the wallet can still reserve for this model, after this hold."""
    reserved_at_ms: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An Idempotency-Key and its request's body; the ledger keeps only digests.

    key:   digest of customer, API key, route and the header's value, in hex
    body:  digest of the body, 16 bytes
    """

    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Repeated:
    """The earlier request with the same Idempotency-Key. same_body: whether it had the same body."""

    reservation_id: str
    same_body: bool


@dataclass(frozen=True, slots=True)
class Denied:
    """A refused reservation; nothing was written."""

    reason: DenyReason
    estimate_nano: int = 0
    available_nano: int = 0
    balance_nano: int = 0
    limit: Limit | None = None
    """Limit that refused, for spend_limit, rate_limit and concurrency_limit; of several, the one
    that blocks longest."""
    limit_left: int = 0
    retry_after_ms: int | None = None
    """Time until that limit would admit the request if no other ran: until its window ends, or
    enough usage has left it. 0 if only other holds are in the way; None if waiting does not
    help."""
    account_rev: int | None = None
    """The ledger's revision, for stale_account."""
    limit_of: str = ""
    """Owner of the limit: the id of the customer, project or key, or the model."""
    repeats: Repeated | None = None
    """For repeated."""


@dataclass(slots=True)
class Settled:
    """Reply to settle and release: what was done, by this call or an earlier one."""

    outcome: Outcome
    charged_nano: int
    """Total charge of this reservation, or 0 if it was released."""
    balance_nano: int
    event_id: str
    replayed: bool
    """An earlier call did it; this one wrote nothing."""
    differs: bool = False
    """The earlier call charged other quantities than this one named; its charge stays."""


@dataclass(frozen=True, slots=True)
class Extended:
    """Reply to extend. If `grown` is False, the hold keeps its size; deadline and checkpoint have
    moved."""

    grown: bool
    held_nano: int
    available_nano: int
    deadline_ms: int
    reason: DenyReason | None = None
    """Why it did not grow. None also when an earlier call with this number answered already."""
    account_rev: int = 0
    """The ledger's revision."""


@dataclass(frozen=True, slots=True)
class Affordable:
    """How much of a request the wallet can pay for now."""

    steps: int
    """Beyond the least; 0 also if `decision` is not allow."""
    open_reservations: int
    estimate_nano: int
    available_nano: int
    balance_nano: int
    decision: Literal["allow"] | DenyReason


@dataclass(frozen=True, slots=True)
class Quote:
    """What a reserve would hold now, and whether it would be granted."""

    estimate_nano: int
    available_nano: int
    balance_nano: int
    decision: Literal["allow"] | DenyReason


@dataclass(frozen=True, slots=True)
class Use:
    """A past use: when it was reserved, in Unix ms, and the vector of what it used."""

    reserved_at_ms: int
    used: bytes


@dataclass(frozen=True, slots=True)
class Rated:
    """What past uses come to, one number for each.

    charges_nano: below 0 where a volume step charges nothing and credits so much
    costs_nano:   0 where the price has no costs
    periods:      the period counters after them, for the next call
    """

    charges_nano: tuple[int, ...]
    costs_nano: tuple[int, ...]
    periods: bytes


def shard_of(customer_id: str, shard_count: int) -> int:
    """Return the shard of a customer's records, which never changes: CRC-32 of the id modulo the
    count."""
    return zlib.crc32(customer_id.encode()) % shard_count
