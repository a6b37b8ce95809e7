"""How a reservation ends, as a value: sent to the ledger, or written to the journal and sent later.

A settle carries all that the ledger needs to charge even if the hold is gone.
"""

from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

from gateway.domain.reservation import Account, Settled
from gateway.flow.reservation.ended import Verb
from gateway.ledger.codec.calls import ReleaseCall, SettleCall
from gateway.ledger.codec.packed_account import PackedAccount
from gateway.ledger.reservations import Reservations


class PackedPrices(NamedTuple):
    """The price at which a reservation was made, as a journal keeps it. See `Prices`."""

    rows: bytes
    cost_rows: bytes


class PendingSettlement:
    """A settle or a release, ready to send; idempotent by reservation id. Never changed.

    packed: the account in packed form, where it is at hand
    """

    __slots__ = ("account", "call", "packed")

    def __init__(
        self,
        account: Account,
        call: SettleCall | ReleaseCall,
        packed: PackedAccount | None = None,
    ) -> None:
        self.account = account
        self.call = call
        self.packed = packed

    @property
    def verb(self) -> Verb:
        """What the ledger is asked to do."""
        return "settle" if isinstance(self.call, SettleCall) else "release"

    def send(self, ledger: Reservations) -> Coroutine[Any, Any, Settled]:
        """Carry it out. Raises LedgerUnavailable."""
        packed, call = self.packed or ledger.shards.pack(self.account), self.call
        if isinstance(call, SettleCall):
            return ledger.settle(packed, call)
        return ledger.release(packed, call)

    def as_record(self) -> dict[str, Any]:
        """What the journal keeps."""
        account, call = self.account, self.call
        record: dict[str, Any] = {
            "verb": self.verb,
            "reservation_id": call.reservation_id,
            "customer_id": account.customer_id,
            "key_id": account.key_id,
            "project_id": account.project_id,
            "shard": account.shard,
            "reserved_at_ms": call.reserved_at_ms,
            "facts": call.facts,
        }
        if isinstance(call, ReleaseCall):
            charged: dict[str, Any] = {"rows": b"", "cost_rows": b"", "used": b"", "tokens": 0}
            return record | charged | {"scope_bits": 0, "once": call.idempotency}
        charged = {
            "rows": call.prices.rows,
            "cost_rows": call.prices.cost_rows,
            "used": call.used,
            "tokens": call.tokens,
        }
        return record | charged | {"scope_bits": call.scope_bits, "once": ""}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "PendingSettlement":
        """Read back what `as_record` gave. Raises KeyError or ValueError for a record of another
        kind."""
        account = Account(
            customer_id=record["customer_id"],
            key_id=record["key_id"],
            project_id=record["project_id"],
            shard=record["shard"],
            account_rev=0,  # endings are taken whatever has become of the account
        )
        reservation_id, reserved_at_ms = record["reservation_id"], record["reserved_at_ms"]
        facts = record["facts"]
        call: SettleCall | ReleaseCall
        if record["verb"] == "release":
            call = ReleaseCall(reservation_id, facts, reserved_at_ms, record["once"])
        elif record["verb"] == "settle":
            prices = PackedPrices(record["rows"], record["cost_rows"])
            call = SettleCall(
                reservation_id,
                prices,
                record["used"],
                facts,
                record["tokens"],
                reserved_at_ms,
                record["scope_bits"],
            )
        else:
            raise ValueError(f"a journal has no verb {record['verb']!r}")
        return cls(account, call)
