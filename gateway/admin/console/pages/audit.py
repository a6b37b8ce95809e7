"""The audit log: who changed what, when and why."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.rendering import PREFIX, page
from gateway.domain.stores import StoreMissing
from gateway.operations.audit import AuditEntry, AuditFilter, list_audit

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Viewer = Annotated[Session, Depends(require("audit.read"))]

PAGE: Final = 50
Short = Annotated[str, Field(max_length=200)]


class AuditForm(BaseModel):
    """The form. cursor: of the page before"""

    actor: Short = ""
    action: Short = ""
    customer: Short = ""
    cursor: Short = ""

    @property
    def narrowed(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.actor or self.action or self.customer)

    def query(self, **changes: str) -> str:
        """The form as a query string."""
        said = {**self.model_dump(), **changes}
        return urlencode({name: value for name, value in said.items() if value})


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a change has changed."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One line of the log."""

    entry: AuditEntry
    differences: Sequence[Difference]


@dataclass(frozen=True, slots=True)
class AuditView:
    """The page. problem: why the store cannot be read"""

    form: AuditForm
    rows: Sequence[EntryRow]
    more: str
    problem: str = ""
    section: str = "audit"


@router.get("/audit")
async def show(request: Request, session: Viewer, form: Annotated[AuditForm, Query()]) -> Response:
    """The page, the latest change first."""
    wanted = AuditFilter(
        actor=form.actor.strip() or None,
        action=form.action.strip() or None,
        customer_id=form.customer.strip() or None,
        cursor=form.cursor or None,
        limit=PAGE,
    )
    try:
        found = await asyncio.to_thread(list_audit, session.backend.store, wanted)
    except StoreMissing as missing:
        return page(request, session, "audit.html", AuditView(form, (), "", str(missing)))
    rows = [EntryRow(entry, _differences(entry)) for entry in found.entries]
    more = form.query(cursor=found.cursor) if found.cursor else ""
    return page(request, session, "audit.html", AuditView(form, rows, more))


def _differences(entry: AuditEntry) -> list[Difference]:
    before: Mapping[str, Any] = entry.before or {}
    after: Mapping[str, Any] = entry.after or {}
    return [
        Difference(name, _shown(before.get(name)), _shown(after.get(name)))
        for name in {**before, **after}
    ]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
