"""Reads the records of operations that were done: the values of a customer's `ops` hash."""

import struct
from dataclasses import dataclass
from typing import Any, Final

from msgpack import unpackb

from gateway.ledger.codec.operations import GrantTerms

_GRANT: Final = struct.Struct("<BBIddd")
_NUMBER: Final = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class DoneOperation:
    """What an operation did. terms: as it was asked for, packed. number: of the grant that it made."""

    verb: str
    terms: bytes
    number: int
    _facts: bytes

    @property
    def name(self) -> str | None:
        """The name that its caller gave it."""
        name: str | None = unpackb(self._facts).get("name") if self._facts else None
        return name

    @property
    def grant_terms(self) -> GrantTerms:
        """Of a grant."""
        category, priority, bits, _, _, expires_at = _GRANT.unpack(self.terms)
        return GrantTerms(category, priority, bits, int(expires_at))

    @property
    def voided_grant(self) -> int:
        """Of a void: the number of the grant."""
        return int(_NUMBER.unpack(self.terms)[0])

    @property
    def refund_nano(self) -> int:
        """Of a refund: how much."""
        return int(_NUMBER.unpack_from(self.terms)[0])


def read_done(packed: bytes) -> DoneOperation:
    """One value of the hash, of an operation."""
    verb, terms, number, *rest = unpackb(packed, raw=True)
    facts: Any = rest[-1] if rest else b""
    return DoneOperation(verb.decode(), terms, int(number), facts)


def read_refunded(packed: bytes) -> int:
    """One value of the hash, of `refunded:EVENT_ID`: the sum of an event's refunds, in nano-credits."""
    return int(unpackb(packed)[2])
