"""A customer's record: `{cg:N}:c:CUSTOMER`, a msgpack map of what differs from the defaults.

A field that this release does not know is ignored; it is lost when this release changes the record.
"""

from dataclasses import fields
from typing import Any, Final

from msgpack import packb, unpackb

from gateway.domain.customers import CustomerRecord
from gateway.ledger.codec.limit_fields import limit_fields, read_limits

_NAMES: Final = tuple(each.name for each in fields(CustomerRecord) if each.name != "customer_id")


def pack_customer(record: CustomerRecord) -> bytes:
    """All but the id, which is in the key's name. Equal records have equal bytes."""
    values: dict[str, Any] = {name: getattr(record, name) for name in _NAMES}
    if record.status == "active":
        del values["status"]
    if record.models is not None:
        values["models"] = sorted(record.models)
    values["limits"] = limit_fields(record.limits)
    values["projects"] = {name: limit_fields(own) for name, own in sorted(record.projects.items())}
    for name in ("external_ids", "tags", "prices"):
        values[name] = dict(sorted(values[name].items()))
    kept = {name: value for name, value in values.items() if value or value == 0}
    if record.models is not None:
        kept["models"] = values["models"]
    packed: bytes = packb(kept)
    return packed


def read_customer(customer_id: str, packed: bytes) -> CustomerRecord:
    """A record by its key's name and value."""
    kept: dict[str, Any] = unpackb(packed)
    values = {name: kept[name] for name in _NAMES if name in kept}
    if "models" in values:
        values["models"] = frozenset(values["models"])
    values["limits"] = read_limits(values.get("limits", ()))
    values["projects"] = {
        name: read_limits(own) for name, own in values.get("projects", {}).items()
    }
    return CustomerRecord(customer_id, **values)
