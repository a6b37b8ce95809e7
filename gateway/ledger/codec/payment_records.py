"""The record of a payment."""

from dataclasses import asdict
from typing import Any

from msgpack import packb, unpackb

from gateway.domain.payments import Dispute, Done, Money, Named, Payment, Refund, Seen


def pack_payment(payment: Payment) -> bytes:
    """The record, with names: later releases may add fields."""
    packed: bytes = packb(asdict(payment))
    return packed


def read_payment(packed: bytes) -> Payment:
    """Read the record."""
    raw: dict[str, Any] = unpackb(packed)
    seen, paid = raw["seen"], raw["seen"]["paid"]
    return Payment(
        Seen(
            **seen
            | {
                "named": tuple(Named(**each) for each in seen["named"]),
                "paid": None if paid is None else Money(**paid),
                "refunds": {name: Refund(**each) for name, each in seen["refunds"].items()},
                "disputes": {name: Dispute(**each) for name, each in seen["disputes"].items()},
            }
        ),
        raw["seen_at_ms"],
        Done(**raw["done"]),
    )
