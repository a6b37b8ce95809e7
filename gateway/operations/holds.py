"""Open holds: list them, or give one back by hand.

Invariants: a hold that an operator releases returns all of its credit at once, and yet a request that
still runs is charged in full when it settles. The ledger's `release` does only the first: a
settlement after it finds the reservation ended and charges nothing. So the hold is ended as the
sweeper ends one: expired, with an empty checkpoint. A later settlement is then the late settlement
that can follow any expiry.
"""

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.money import format_amount
from gateway.domain.reservation import Account, Settled
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.calls import ExtendCall
from gateway.ledger.codec.reservation_records import DueReservation, Ended, Reservation
from gateway.ledger.codec.usage_facts import read_facts
from gateway.ledger.hold_reader import OpenHold
from gateway.ledger.reservations import Reservations
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend
from gateway.operations.customers import wallet_of
from gateway.operations.documents import timestamp
from gateway.operations.errors import NotFound

_TRIES: Final = 20
_TTL_MS: Final = 1


@dataclass(frozen=True, slots=True)
class OpenHolds:
    """Open holds, the next to expire first. now_ms: the ledger's clock, Unix ms."""

    now_ms: int
    holds: Sequence[OpenHold]


@dataclass(frozen=True, slots=True)
class HoldEnded:
    """How a reservation ended. given_back_nano: what this call returned, 0 where it had ended."""

    reservation_id: str
    outcome: str
    charged_nano: int
    given_back_nano: int


async def list_holds(backend: Backend, customer_id: str | None = None) -> OpenHolds:
    """Open holds of one customer or of all. Raises NotFound, Conflict, LedgerUnavailable."""
    if customer_id is not None:
        await wallet_of(backend, customer_id)
    accounts = backend.accounts
    return OpenHolds(await accounts.now_ms(), await accounts.holds.open_holds(customer_id))


async def release_hold(
    backend: Backend, reservation_id: str, reason: str | None = None
) -> HoldEnded:
    """Return a hold's credit now and charge nothing yet. Releasing it again changes nothing.

    Raises NotFound, LedgerUnavailable.
    """
    found = await backend.audit.find_reservation(reservation_id)
    if found is None:
        raise NotFound(
            f"the ledger has no request {reservation_id}: it never held anything, or it ended more"
            " than an hour ago"
        )
    shard, record = found
    if isinstance(record, Ended):
        return HoldEnded(reservation_id, record.outcome, record.charged_nano, 0)
    noted = Noted("hold.release", reservation_id, record.customer_id, reason)
    async with audited(backend, noted):
        ended = await release_by_hand(backend.reservations, shard, reservation_id, record)
    if ended is None:
        raise NotFound(f"the ledger has no request {reservation_id} any more")
    given_back_nano = 0 if ended.replayed else record.held_nano
    return HoldEnded(reservation_id, ended.outcome, ended.charged_nano, given_back_nano)


async def release_by_hand(
    ledger: Reservations, shard: int, reservation_id: str, hold: Reservation
) -> Settled | None:
    """Return a hold's credit now and charge nothing; returns how it ended, by this call or before it.

    None when the ledger does not have the reservation any more. Raises LedgerUnavailable, also when
    the hold's worker keeps extending it in between.
    """
    account = Account(hold.customer_id, hold.key_id, shard, 0, hold.project_id)
    packed = ledger.shards.pack(account)
    vector = struct.Struct(f"<{len(hold.units)}d")
    estimate = vector.pack(*(hold.estimate.get(unit, 0) for unit in hold.units))
    nothing = vector.pack(*[0] * len(hold.units))
    for extend_no in range(hold.extend_no + 1, hold.extend_no + 1 + _TRIES):
        call = ExtendCall(reservation_id, extend_no, estimate, nothing, hold.tokens, _TTL_MS)
        answer = await ledger.extend(packed, call)
        if answer is None or isinstance(answer, Settled):
            return answer
        await asyncio.sleep(2 * _TTL_MS / 1000)
        ended = await ledger.expire(DueReservation(shard, reservation_id, account))
        if ended is not None:
            return ended
    raise LedgerUnavailable(f"the hold of {reservation_id} was renewed while being released; retry")


def hold_document(reservation_id: str, hold: Reservation) -> dict[str, Any]:
    """One open hold. `estimate` is what it covers, `checkpoint` what its expiry would charge."""
    facts = read_facts(hold.facts)
    return {
        "reservation_id": reservation_id,
        "customer_id": hold.customer_id,
        "project_id": hold.project_id,
        "key_id": hold.key_id,
        "route": facts.get("route"),
        "model": facts.get("model"),
        "held": format_amount(hold.held_nano),
        "reserved_at": timestamp(hold.reserved_at_ms),
        "deadline": timestamp(hold.deadline_ms),
        "extended": hold.extend_no,
        "estimate": hold.estimate,
        "checkpoint": hold.checkpoint,
    }


def hold_ended_document(ended: HoldEnded) -> dict[str, Any]:
    """A released hold as a JSON document."""
    return {
        "reservation_id": ended.reservation_id,
        "outcome": ended.outcome,
        "charged": format_amount(ended.charged_nano),
        "given_back": format_amount(ended.given_back_nano),
    }
