"""Open holds as documents, and giving one back by hand.

Invariants: a hold that an operator releases gives all of its credit back at once, and yet a request that
still runs is charged in full when it settles. The ledger's own `release` does only the first:
what settles after it is taken for ended and charges nothing. So the hold is ended as the sweeper
ends one: expired, with a checkpoint of nothing. A settle that comes later is then the late settle
that follows any expiry.
"""

import asyncio
import struct
from typing import Any, Final

from msgpack import unpackb

from gateway.domain.money import format_amount
from gateway.domain.reservation import Account, Settled
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.calls import ExtendCall
from gateway.ledger.codec.records import DueReservation, Reservation
from gateway.ledger.reservations import Reservations
from gateway.operations.documents import timestamp

_TRIES: Final = 20
_TTL_MS: Final = 1


async def release_by_hand(
    ledger: Reservations, shard: int, reservation_id: str, hold: Reservation
) -> Settled | None:
    """Give a hold back now, charging nothing. Answers how it ended, by this call or before it.

    None when the ledger does not know the reservation any more. Raises LedgerUnavailable, also
    when the hold's worker extends it again and again in between.
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
    raise LedgerUnavailable(
        f"the hold of {reservation_id} is extended as fast as it is ended; try again"
    )


def hold_document(reservation_id: str, hold: Reservation) -> dict[str, Any]:
    """One open hold. `estimate` is what it covers, `checkpoint` what its expiry would charge."""
    facts = unpackb(hold.facts) if hold.facts else {}
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
