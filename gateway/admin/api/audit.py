"""The audit log: who changed what, and why."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from pydantic import Field

from gateway.admin.api.models import (
    Amount,
    Line,
    ListOf,
    Model,
    Moment,
    MomentMs,
    PlacePaging,
    RecordId,
)
from gateway.admin.api.routing import api_router
from gateway.admin.auth.guard import Session, require
from gateway.operations.audit import AuditFilter, audit_document, list_audit

router = api_router("Audit")


class AuditEntry(Model):
    """One change, or the failure of one."""

    object: Literal["audit_entry"] = "audit_entry"
    id: Annotated[str, Field(description="Of the event that has it.")]
    occurred_at: Moment
    actor: Annotated[str, Field(examples=["token:tok_5f0c8a1e9b2d7c43"])]
    action: Annotated[str, Field(examples=["key.create"])]
    subject: str
    customer_id: str | None
    reason: str | None
    before: Annotated[Mapping[str, Any] | None, Field(description="Only what changed.")]
    after: Mapping[str, Any] | None
    amount: Amount | None
    outcome: Annotated[
        Literal["made", "failed", "unknown"],
        Field(description="A failed or unknown outcome is an entry apart from the change's."),
    ]
    change_id: Annotated[str | None, Field(description="The entry that announced the change.")]
    error: str | None


class AuditQuery(PlacePaging):
    """Which entries are wanted."""

    since: MomentMs | None = None
    until: MomentMs | None = None
    actor: Line | None = None
    action: Annotated[Line | None, Field(description="An action, or a resource (`key`).")] = None
    customer_id: RecordId | None = None


@router.get("/audit", summary="List changes, the latest first")
async def list_audit_entries(
    query: Annotated[AuditQuery, Query()],
    session: Annotated[Session, Depends(require("audit.read"))],
) -> ListOf[AuditEntry]:
    wanted = AuditFilter(
        query.since,
        query.until,
        query.actor,
        query.action,
        query.customer_id,
        query.starting_after,
        query.limit,
    )
    page = await asyncio.to_thread(list_audit, session.backend.store, wanted)
    entries = [AuditEntry(**audit_document(each), id=each.event_id) for each in page.entries]
    return ListOf[AuditEntry](
        data=entries, has_more=page.cursor is not None, next_cursor=page.cursor
    )
