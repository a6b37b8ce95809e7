"""Pack what the hot path asks of the ledger: key names and arguments of one script call.

The order and types of the arguments are those of the `ARGV` lines of the scripts' headers. Amounts
are nano-credits, times Unix ms by the ledger's clock. A *vector* is what `PriceTable.vector` packs:
quantities in the order of the price rows.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.domain.reservation import IdempotencyKey, Use
from gateway.ledger.codec.packed_account import PackedAccount

Arguments = tuple[tuple[bytes, ...], tuple[bytes, ...]]
"""KEYS and ARGV of one call."""
Times = tuple[int, int, int]
"""The clock (0: the ledger's) and the watermark of a shard: epoch, and one more than its highest seq."""

_RESERVE: Final = struct.Struct("<dddddddIBBHHH").pack
_EXTEND: Final = struct.Struct("<ddddddB").pack
_SETTLE: Final = struct.Struct("<dddddIB").pack
_RELEASE: Final = struct.Struct("<ddddB").pack
_EXPIRE: Final = struct.Struct("<dddB").pack
_QUOTE: Final = struct.Struct("<ddddIBB").pack
_AFFORD: Final = struct.Struct("<ddddIB").pack
_RATE: Final = struct.Struct("<BB").pack
_RESERVED_AT: Final = struct.Struct("<d").pack

_OWN_KEYS: Final = 5
"""Keys of a reservation's call before those of the scopes."""
_BOTH_SCOPES: Final = 3


class Prices(Protocol):
    """Packed price rows, as a PriceTable has them."""

    @property
    def rows(self) -> bytes:
        """Charges."""
        ...

    @property
    def cost_rows(self) -> bytes:
        """Costs, or empty when unknown."""
        ...


@dataclass(
    slots=True
)  # not frozen, as all of these: each request makes one, at a third of the cost
class ReserveCall:
    """What a reserve holds.

    estimate:    vector: upper bound of the charge
    checkpoint:  vector: what an expiry charges before the first extend
    facts:       msgpack, of the event that an expiry would write; with `customer_id`
    tokens:      how many the limits on tokens hold
    scope_bits:  model groups that this request's model is in; scoped grants pay for them
    model:       as limits on models name it
    idempotency: the client's Idempotency-Key
    """

    reservation_id: str
    prices: Prices
    estimate: bytes
    checkpoint: bytes
    facts: bytes
    tokens: int
    ttl_ms: int
    scope_bits: int = 0
    model: str | None = None
    idempotency: IdempotencyKey | None = None


@dataclass(slots=True)
class ExtendCall:
    """How a hold goes on.

    extend_no:  from 1, higher at each new call; a repeated one changes nothing
    estimate:   vector of the complete request by now; a smaller one never shrinks the hold
    checkpoint: vector of what an expiry charges from now on
    """

    reservation_id: str
    extend_no: int
    estimate: bytes
    checkpoint: bytes
    tokens: int
    ttl_ms: int


@dataclass(slots=True)
class SettleCall:
    """What a settle charges.

    prices:         those of the reserve
    used:           vector
    facts:          of the event, msgpack, with `customer_id`
    reserved_at_ms: as the hold says; without a hold it decides whether it is too late
    """

    reservation_id: str
    prices: Prices
    used: bytes
    facts: bytes
    tokens: int
    reserved_at_ms: int
    scope_bits: int = 0


@dataclass(slots=True)
class ReleaseCall:
    """What a release ends.

    reserved_at_ms: as the hold says; 0 when the reserve's outcome is unknown
    idempotency:    `IdempotencyKey.key` of the reserve, if it had one; it may be used again
    """

    reservation_id: str
    facts: bytes
    reserved_at_ms: int
    idempotency: str = ""


Answered = tuple[tuple[int, int], PackedAccount, SettleCall | ReleaseCall]
"""A call that the ledger has answered: its entry of the outbox, as `OutboxWatermark.marks` has it (epoch 0:
it has none), and what it takes to call again."""


@dataclass(slots=True)
class QuoteCall:
    """What a quote rates; see `ReserveCall`."""

    prices: Prices
    estimate: bytes
    tokens: int
    scope_bits: int = 0
    model: str | None = None


@dataclass(slots=True)
class AffordCall:
    """What `afford` searches: the vector `least`, and up to `steps` times the vector `step` more."""

    prices: Prices
    least: bytes
    step: bytes
    steps: int
    scope_bits: int = 0


def pack_reserve(
    account: PackedAccount, call: ReserveCall, times: Times, max_backlog: int
) -> Arguments:
    """Pack a reserve. max_backlog: entries of the outbox beyond which it is refused; 0 is any."""
    limits = account.rows if account.models is None else account.rows_for(call.model)
    prices, estimate, ids = call.prices, call.estimate, account.ids
    rows, cost_rows = prices.rows, prices.cost_rows
    rid = call.reservation_id.encode()
    now, epoch, count = times
    head = _RESERVE(
        now,
        epoch,
        count,
        max_backlog,
        account.account_rev,
        call.tokens,
        call.ttl_ms,
        call.scope_bits,
        limits.scopes,
        len(estimate) >> 3,
        len(rows),
        len(cost_rows),
        len(ids),
    )
    body = b"".join((estimate, call.checkpoint, rows, cost_rows, ids, call.facts))
    keys = (*account.head_keys, account.prefix + rid, *account.scopes)
    if call.idempotency is None:
        return keys, (head, rid, body, limits.packed)
    once = account.idempotency_key(call.idempotency.key)
    return (*keys, once), (head, rid, body, limits.packed, call.idempotency.body)


def pack_extend(account: PackedAccount, call: ExtendCall, times: Times) -> Arguments:
    """Pack an extend."""
    rid = call.reservation_id.encode()
    head = _EXTEND(*times, call.extend_no, call.tokens, call.ttl_ms, account.mask)
    keys = (*account.head_keys, account.prefix + rid, *account.scopes)
    return keys, (head, rid, call.estimate, call.checkpoint)


def pack_settle(account: PackedAccount, call: SettleCall, times: Times) -> Arguments:
    """Pack a settle."""
    prices, rid = call.prices, call.reservation_id.encode()
    now, epoch, count = times
    head = _SETTLE(
        now, epoch, count, call.tokens, call.reserved_at_ms, call.scope_bits, account.mask
    )
    keys = (*account.head_keys, account.prefix + rid, *account.scopes)
    return keys, (head, rid, call.used, prices.rows, prices.cost_rows, call.facts)


def pack_release(account: PackedAccount, call: ReleaseCall, times: Times) -> Arguments:
    """Pack a release."""
    rid = call.reservation_id.encode()
    head = _RELEASE(*times, call.reserved_at_ms, account.mask)
    keys = (*account.head_keys, account.prefix + rid, *account.scopes)
    if not call.idempotency:
        return keys, (head, rid, call.facts)
    return (*keys, account.idempotency_key(call.idempotency)), (head, rid, call.facts, b"")


def pack_expire(account: PackedAccount, reservation_id: str, times: Times) -> Arguments:
    """Pack an expire; its account has no limits."""
    rid = reservation_id.encode()
    return (*account.head_keys, account.prefix + rid), (_EXPIRE(*times, 0), rid)


def pack_quote(account: PackedAccount, call: QuoteCall, times: Times) -> Arguments:
    """Pack a quote."""
    limits, estimate = account.rows_for(call.model), call.estimate
    units = len(estimate) >> 3
    head = _QUOTE(*times, call.tokens, call.scope_bits, limits.scopes, units)
    keys = (account.meta, account.account_key, *account.scopes)
    return keys, (head, estimate, call.prices.rows, limits.packed)


def pack_afford(account: PackedAccount, call: AffordCall, times: Times) -> Arguments:
    """Pack an afford."""
    head = _AFFORD(*times, call.steps, call.scope_bits, len(call.least) >> 3)
    keys = (account.meta, account.account_key)
    return keys, (head, call.least, call.step, call.prices.rows)


def pack_rate(prices: Prices, uses: Sequence[Use], billing_day: int, periods: bytes) -> Arguments:
    """Pack a rate; uses in the order of their reserves."""
    units = len(uses[0].used) >> 3 if uses else 0
    packed = b"".join(_RESERVED_AT(use.reserved_at_ms) + use.used for use in uses)
    rows, costs = (prices.rows, prices.cost_rows) if uses else (b"", b"")
    return (), (_RATE(billing_day, units), rows, costs, periods, packed)


def with_hold_scopes(account: PackedAccount, arguments: Arguments, ids: bytes) -> Arguments:
    """The same call with the scopes that the hold's limits count in, which are not the account's now.

    ids: of the hold: customer, key and project, separated by NUL
    """
    keys, (head, *args) = arguments
    customer_id, key_id, project_id = ids.decode().split("\0")
    scopes = account.names.scope_keys(account.shard, customer_id, project_id, key_id)
    behind = keys[_OWN_KEYS + len(account.scopes) :]
    mask = bytes([_BOTH_SCOPES])  # the mask is the last byte of these heads
    return (*keys[:_OWN_KEYS], *scopes, *behind), (head[:-1] + mask, *args)
