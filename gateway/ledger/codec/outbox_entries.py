"""Decodes the entries of the outbox: what the scripts wrote with each balance change, joined into events.

Invariant: decoding never fails. What cannot be decoded comes out as a dead letter at its place, so
that the numbering has no gaps. `lua/README.md` (stamp and facts) describes the layout of an entry; a
change there needs the same change in `decode_entry`.
"""

from collections.abc import Sequence
from typing import Final, get_args

import orjson
from msgpack import packb, unpackb
from msgpack.exceptions import UnpackException

from gateway.domain.delivery import DeadLetter
from gateway.domain.events import Event, EventKind
from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.domain.signals import read_signals
from gateway.domain.usage import UNIT_NAMES, without_tier

Entry = Event | DeadLetter

_KINDS: Final = frozenset(get_args(EventKind))


def decode(shard: int, raw: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Entry]:
    """Decode the entries of a reply of XRANGE or XREAD: ids, each with a flat list of fields."""
    return [decode_entry(shard, entry_id, fields) for entry_id, fields in raw]


def decode_entry(shard: int, entry_id: bytes, fields: Sequence[bytes]) -> Entry:
    """Join the stamp and the facts of one entry; a malformed one becomes a dead letter."""
    epoch, _, seq = entry_id.partition(b"-")
    event_id = None
    try:
        _, stamp, _, packed_facts = fields
        kind, event_id, at, amount, held, cost, balance, allocations, usage, *signals = unpackb(
            stamp
        )
        facts = unpackb(packed_facts)
        customer_id = facts.pop("customer_id")
        if not (
            kind in _KINDS
            and type(event_id) is type(customer_id) is str
            and type(at) is type(amount) is type(held) is type(balance) is int
            and (cost is False or type(cost) is int)
            and -MAX_AMOUNT_NANO <= amount <= MAX_AMOUNT_NANO
        ):
            raise ValueError("a field of the stamp has a wrong type or an unknown kind")
        units = iter(usage)
        grants = iter(allocations)
        return Event(
            kind,
            event_id,
            shard,
            int(epoch),
            int(seq),
            at,
            customer_id,
            amount,
            balance,
            held,
            None if cost is False else cost,  # a late settle's may be negative
            tuple(zip(grants, grants, strict=True)),
            {
                without_tier(UNIT_NAMES[unit]): quantity
                for unit, quantity in zip(units, units, strict=True)
            },
            facts.pop("price_version", None),
            facts,
            read_signals(*signals) if signals else (),
        )
    except Exception as error:  # whatever lies there: decoding must go on
        return undecodable(
            shard,
            entry_id,
            fields,
            event_id if isinstance(event_id, str) else None,
            f"unreadable: {type(error).__name__}: {error}",
        )


def undecodable(
    shard: int, entry_id: bytes, fields: Sequence[bytes], event_id: str | None, reason: str
) -> DeadLetter:
    """The dead letter of an entry, with all of its bytes."""
    epoch, _, seq = entry_id.partition(b"-")
    return DeadLetter(
        shard=shard,
        epoch=int(epoch),
        seq=int(seq),
        event_id=event_id,
        reason=reason[:200],
        payload=packb(fields),
    )


def customer_of(letter: DeadLetter) -> str | None:
    """Whose event a dead letter was; None where what was preserved does not say it. That is a row as JSON, or
    the fields of an entry as msgpack."""
    try:
        if letter.payload.startswith(b"{"):
            return str(orjson.loads(letter.payload)["customer_id"]) or None
        fields = unpackb(letter.payload)
        return str(unpackb(fields[fields.index(b"f") + 1])["customer_id"]) or None
    except (ValueError, TypeError, LookupError, AttributeError, UnpackException):
        return None
