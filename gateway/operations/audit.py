"""The audit log: who changed what, and why.

A change that moves a wallet says so in the facts of its own entry (`signed`), which the same step
writes. Every other change (a key, a price book, a customer's record) is made by several commands
that cannot be one step with an entry of the outbox. Its entry, of the kind `audit`, is written
*before* the change: a process that dies in between leaves an entry of a change that was not made,
which somebody can look into; the other order would leave a change of which nobody ever learns. A
change that fails writes a second entry, which names the first.

Both go out with the events, and `list_audit` reads both from the store, in one shape.
"""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from gateway.domain.event_rows import EventRow
from gateway.domain.money import format_amount
from gateway.domain.stores import ChangeFilter, ChangePlace, EventStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.operations.backend import Backend
from gateway.operations.documents import timestamp
from gateway.operations.errors import OperationError, OutcomeUnknown

ERROR_CHARS_MOST: Final = 500
PAGE_MOST: Final = 1000
_MOVING: Final = frozenset({"grant", "void", "adjust"})

Outcome = Literal["made", "failed", "unknown"]
"""made: or begun, if its gate died right after. unknown: the ledger's answer was lost."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A change to note.

    action:        what is done, `resource.verb`, such as `key.create`
    subject:       what it is done to: the id of a key, a customer, a price book
    customer_id:   whose; "" for nobody's in particular
    before, after: only what changes. Never a secret: entries go to every sink
    shard:         for a change of a shard itself; None for the customer's
    """

    action: str
    subject: str
    customer_id: str = ""
    reason: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    shard: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change, or the failure of one.

    event_id:    of the entry that has it
    actor:       `kind:name`, see `Actor`
    amount_nano: what it moved; None for what moves nothing
    change_id:   of a failed or unknown outcome: the entry that announced the change
    error:       of a failed or unknown outcome: why
    """

    event_id: str
    occurred_at_ms: int
    actor: str
    action: str
    subject: str
    customer_id: str
    reason: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    amount_nano: int | None
    outcome: Outcome
    change_id: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are wanted; what is None does not matter. Times are Unix ms.

    action: one action, or a resource with all its actions (`key`)
    cursor: of the page before
    """

    since_ms: int | None = None
    until_ms: int | None = None
    actor: str | None = None
    action: str | None = None
    customer_id: str | None = None
    cursor: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, newest first. cursor: for the next page; None where this is the last."""

    entries: tuple[AuditEntry, ...]
    cursor: str | None


def signed(backend: Backend, action: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    """Facts for the entry of a change that moves a wallet: who, what, why, and more of these.

    They stand first in an entry: stores find the first `actor` and `action` of its text.
    """
    facts = {"actor": str(backend.actor), "action": action, "reason": reason, **more}
    return {name: value for name, value in facts.items() if value is not None}


async def record(backend: Backend, noted: Noted) -> str:
    """Write the entry of a change that no wallet's entry shows; returns its event id.

    Raises LedgerUnavailable: then the change must not be made.
    """
    event_id = f"audit:{secrets.token_hex(12)}"
    await _write(backend, event_id, noted)
    return event_id


@asynccontextmanager
async def audited(backend: Backend, noted: Noted) -> AsyncIterator[None]:
    """Write the entry, then make the change in this block; what the block raises is noted, too.

    Check before it whatever can refuse the change. Raises LedgerUnavailable, and what the block raises.
    """
    event_id = await record(backend, noted)
    try:
        yield
    except Exception as error:
        # The ledger may be what failed; then the first entry stands alone, as if this had died here.
        with suppress(LedgerUnavailable):
            await _write(backend, f"{event_id}:failed", noted, _failure(event_id, error))
        raise


def list_audit(store: EventStore, wanted: AuditFilter) -> AuditPage:
    """A page of the log, newest first. Raises OperationError for a cursor that is none."""
    limit = max(1, min(wanted.limit, PAGE_MOST))
    rows = store.changes(
        ChangeFilter(
            wanted.since_ms,
            wanted.until_ms,
            wanted.customer_id,
            wanted.actor,
            wanted.action,
            _place(wanted.cursor),
            limit + 1,
        )
    )
    more = len(rows) > limit
    entries = tuple(_entry(row) for row in rows[:limit])
    return AuditPage(entries, _cursor(rows[limit - 1]) if more else None)


def audit_document(entry: AuditEntry) -> dict[str, Any]:
    """An entry as a JSON document."""
    return {
        "event_id": entry.event_id,
        "occurred_at": timestamp(entry.occurred_at_ms),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "customer_id": entry.customer_id or None,
        "reason": entry.reason,
        "before": entry.before,
        "after": entry.after,
        "amount": None if entry.amount_nano is None else format_amount(entry.amount_nano),
        "outcome": entry.outcome,
        "change_id": entry.change_id,
        "error": entry.error,
    }


async def _write(
    backend: Backend, event_id: str, noted: Noted, more: Mapping[str, Any] | None = None
) -> None:
    facts = signed(
        backend,
        noted.action,
        noted.reason,
        subject=noted.subject,
        before=noted.before,
        after=noted.after,
        **(more or {}),
    )
    await backend.notes.note(event_id, facts, noted.customer_id, noted.shard)


def _failure(event_id: str, error: Exception) -> dict[str, str]:
    unknown = isinstance(error, OutcomeUnknown) or (
        isinstance(error, LedgerUnavailable) and error.unknown
    )
    # The text of any other error may quote what it was given.
    told = isinstance(error, OperationError | LedgerUnavailable)
    return {
        "outcome": "unknown" if unknown else "failed",
        "change_id": event_id,
        "error": str(error)[:ERROR_CHARS_MOST] if told else type(error).__name__,
    }


def _entry(row: EventRow) -> AuditEntry:
    facts: Mapping[str, Any] = orjson.loads(row.facts)
    return AuditEntry(
        row.event_id,
        row.occurred_at_ms,
        str(facts["actor"]),
        facts.get("action", row.kind),
        facts.get("subject") or facts.get("corrects") or row.customer_id,
        row.customer_id,
        facts.get("reason"),
        facts.get("before"),
        facts.get("after"),
        row.amount_nano if row.kind in _MOVING else None,
        facts.get("outcome", "made"),
        facts.get("change_id"),
        facts.get("error"),
    )


def _cursor(row: EventRow) -> str:
    return f"{row.occurred_at_ms}.{row.shard}.{row.epoch}.{row.seq}"


def _place(cursor: str | None) -> ChangePlace | None:
    if cursor is None:
        return None
    try:
        occurred_at_ms, shard, epoch, seq = map(int, cursor.split("."))
    except ValueError:
        raise OperationError(
            f"{cursor!r} is not a cursor; take it from the page before, unchanged"
        ) from None
    return ChangePlace(occurred_at_ms, shard, epoch, seq)
