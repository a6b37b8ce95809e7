"""What is asked of the ledger for one request, and what it answers.

States and their only transitions: `pending → settled | released | expired`, and
`expired → settled_late`. Each transition writes exactly one event, whose id is
`reservation_id:outcome`.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.domain.limits import Limit

Outcome = Literal["settled", "released", "expired", "settled_late"]

DenyReason = Literal[
    "insufficient_credits",  # the balance cannot pay: 402
    "credit_held",  # the balance could pay, other holds block it: 429
    "spend_limit",
    "rate_limit",
    "concurrency_limit",
    "wallet_frozen",
    "wallet_killed",  # of a running answer: it is to be cut
    "stale_account",  # account_rev differs: reload the account and ask again
    "stale_windows",  # the limit rows' borders do not cover the ledger's clock: repack
    "unknown_account",
    "went_back",  # the shard lost a tail that this gate has seen: it is frozen until repaired
    "shard_frozen",
    "outbox_full",
    "already_ended",  # the reservation of this id has ended: a release overtook its reserve
    "exists_with_different_parameters",  # the id is taken by another request
]

TOMBSTONE_TTL_MS: Final = 3_600_000
SETTLE_MAX_AGE_MS: Final = TOMBSTONE_TTL_MS - 300_000


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a request is charged to, as the gate knows it. `account_rev` is checked by each reserve."""

    customer_id: str
    key_id: str
    shard: int
    account_rev: int
    project_id: str | None = None
    limits: tuple[Limit, ...] = ()
    models: frozenset[str] | None = None
    """The models this key may use; None is all."""
    livemode: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Key:
    """One API key: whose it is and what it narrows down."""

    key_id: str
    customer_id: str
    project_id: str | None = None
    limits: tuple[Limit, ...] = ()
    models: frozenset[str] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hold:
    """A granted reservation."""

    reservation_id: str
    held_nano: int
    available_nano: int
    """What the wallet could still reserve for this model, after this hold."""
    reserved_at_ms: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Denied:
    """A refused reservation; nothing was written."""

    reason: DenyReason
    estimate_nano: int = 0
    available_nano: int = 0
    balance_nano: int = 0
    limit: Limit | None = None
    """Which limit refused, for spend_limit, rate_limit and concurrency_limit."""
    limit_left: int = 0
    retry_after_ms: int | None = None
    """Until the window of that limit ends; None where time alone may not help."""
    account_rev: int | None = None
    """The ledger's revision, for stale_account."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The answer to settle and to release: what was done, by this call or an earlier one."""

    outcome: Outcome
    charged_nano: int
    """The whole charge of this reservation, or 0 if it was released."""
    balance_nano: int
    event_id: str
    replayed: bool
    """An earlier call had already done it; this one wrote nothing."""
    differs: bool = False
    """That earlier call charged other quantities than this one named; what it charged stands."""


@dataclass(frozen=True, slots=True)
class Extended:
    """The answer to extend. When `grown` is False the hold keeps its size; deadline and checkpoint moved."""

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
    """How much of a request its wallet can pay for now."""

    steps: int
    """Beyond the least; 0 also where `decision` is another than allow."""
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


def shard_of(customer_id: str, shard_count: int) -> int:
    """The shard a customer's records live in, for ever: CRC-32 of the id modulo the count."""
    return zlib.crc32(customer_id.encode()) % shard_count
