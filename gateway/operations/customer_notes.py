"""What the audit log says of changes to customers. Personal data stays out: it could not be erased there."""

from typing import Any, Final

from gateway.domain.customers import CustomerRecord, CustomerStatus
from gateway.operations.audit import Noted
from gateway.operations.customers import record_document

_NOTED: Final = frozenset(
    ["plan", "credit_limit", "billing_day", "models", "limits", "projects", "prices", "status"]
)
"""Fields of a customer whose values go into the audit log."""


def status_noted(
    action: str, record: CustomerRecord, status: CustomerStatus, reason: str | None
) -> Noted:
    """A change of a customer's status."""
    customer_id = record.customer_id
    was, becomes = {"status": record.status}, {"status": status}
    return Noted(action, customer_id, customer_id, reason, was, becomes)


def shown_of(record: CustomerRecord) -> dict[str, Any]:
    """What the log says of a record."""
    document = record_document(record)
    return {name: document[name] for name in sorted(_NOTED) if document[name] not in (None, {}, [])}


def difference(
    before: CustomerRecord, after: CustomerRecord
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that change, before and after; of personal ones only the names."""
    was, becomes = record_document(before), record_document(after)
    changed = [name for name in was if was[name] != becomes[name]]
    shown = [name for name in changed if name in _NOTED]
    hidden = sorted(set(changed) - set(shown))
    also = {"erasable_fields": hidden} if hidden else {}
    return {name: was[name] for name in shown}, {**{name: becomes[name] for name in shown}, **also}
