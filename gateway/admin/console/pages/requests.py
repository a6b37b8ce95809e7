"""Searching requests, served and refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.rendering import PREFIX, page
from gateway.admin.console.searching import Found, Search, search

router = APIRouter()
Viewer = Annotated[Session, Depends(require("requests.read"))]

PAGE: Final = 50
OUTCOMES: Final = ("settle", "release", "expire", "settle_late", "refused")
Short = Annotated[str, Query(max_length=200)]


@dataclass(frozen=True, slots=True)
class RequestsView:
    """The page. problem: why the search could not be made, "" if it could"""

    search: Search
    outcomes: Sequence[str]
    found: Found
    more: str
    section: str = "events"


def asked(
    customer: Short = "",
    key: Short = "",
    model: Short = "",
    outcome: Short = "",
    flag: Short = "",
    status: Annotated[str, Query(pattern=r"^([1-5][0-9]{2})?$")] = "",
    since: Annotated[str, Query(max_length=40)] = "",
    until: Annotated[str, Query(max_length=40)] = "",
    before: Annotated[str, Query(max_length=100)] = "",
) -> Search:
    """Read the form."""
    return Search(
        customer.strip(),
        key.strip(),
        model.strip(),
        outcome if outcome in OUTCOMES else "",
        flag.strip(),
        status,
        since,
        until,
        before,
    )


@router.get("/requests")
async def show(
    request: Request, session: Viewer, wanted: Annotated[Search, Depends(asked)], q: Short = ""
) -> Response:
    """The list; a request id leads to its story."""
    if q.strip():
        return RedirectResponse(f"{PREFIX}/requests/{quote(q.strip(), safe='')}", 303)
    found = await search(session.backend, wanted, PAGE)
    more = wanted.query(before=found.before) if found.before else ""
    return page(request, session, "requests.html", RequestsView(wanted, OUTCOMES, found, more))
