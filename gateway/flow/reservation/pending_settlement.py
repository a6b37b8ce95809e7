"""How a reservation ends, as a value: sent to the ledger, or written to the journal and sent later.

A settle carries all that the ledger needs to charge even if the hold is gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.domain.reservation import Account, Settled
from gateway.flow.reservation.outcome import Verb
from gateway.ledger.codec.calls import ReleaseCall, SettleCall
from gateway.ledger.codec.packed_account import PackedAccount
from gateway.ledger.reservations import Reservations


@dataclass(slots=True)  # not frozen: each request makes one, and that would make it dearer
class PendingSettlement:
    """A settle or a release, ready to send; idempotent by reservation id. Never changed.

    rows, cost_rows:  the price at which the reservation was made, packed
    used:             vector of quantities in the rows' order
    tokens:           of limits that count tokens
    facts:            the event's facts, msgpack
    scope_bits:       model groups, for what a charge takes beyond its hold
    idempotency:      `IdempotencyKey.key` of the request, if it has one: a release frees it
    packed:           the account in packed form, where it is at hand
    """

    verb: Verb
    reservation_id: str
    account: Account
    rows: bytes
    cost_rows: bytes
    used: bytes
    tokens: int
    reserved_at_ms: int
    facts: bytes
    scope_bits: int = 0
    idempotency: str = ""
    packed: PackedAccount | None = None

    async def send(self, ledger: Reservations) -> Settled:
        """Carry it out. Raises LedgerUnavailable."""
        packed = self.packed or ledger.shards.pack(self.account)
        if self.verb == "release":
            return await ledger.release(
                packed,
                ReleaseCall(self.reservation_id, self.facts, self.reserved_at_ms, self.idempotency),
            )
        return await ledger.settle(
            packed,
            SettleCall(
                self.reservation_id,
                self,
                self.used,
                self.facts,
                self.tokens,
                self.reserved_at_ms,
                self.scope_bits,
            ),
        )

    def as_record(self) -> dict[str, Any]:
        """What the journal keeps."""
        account = self.account
        return {
            "verb": self.verb,
            "reservation_id": self.reservation_id,
            "customer_id": account.customer_id,
            "key_id": account.key_id,
            "project_id": account.project_id,
            "shard": account.shard,
            "rows": self.rows,
            "cost_rows": self.cost_rows,
            "used": self.used,
            "tokens": self.tokens,
            "reserved_at_ms": self.reserved_at_ms,
            "facts": self.facts,
            "scope_bits": self.scope_bits,
            "once": self.idempotency,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "PendingSettlement":
        """Read back what `as_record` gave. Raises KeyError for a record of another kind."""
        account = Account(
            customer_id=record["customer_id"],
            key_id=record["key_id"],
            project_id=record["project_id"],
            shard=record["shard"],
            account_rev=0,  # endings are taken whatever has become of the account
        )
        fields = ("verb", "reservation_id", "rows", "cost_rows", "used", "tokens", "facts")
        return cls(
            account=account,
            reserved_at_ms=record["reserved_at_ms"],
            scope_bits=record["scope_bits"],
            idempotency=record["once"],
            **{name: record[name] for name in fields},
        )
