"""Searching requests, served and refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.rendering import PREFIX, page
from gateway.admin.console.searching import Found, Search, search
from gateway.admin.context import context_of

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Viewer = Annotated[Session, Depends(require("requests.read"))]

PAGE: Final = 50
OUTCOMES: Final = ("settle", "release", "expire", "settle_late", "refused")
Short = Annotated[str, Field(max_length=200)]


@dataclass(frozen=True, slots=True)
class RequestsView:
    """The page. problem: why the search could not be made, "" if it could"""

    search: Search
    outcomes: Sequence[str]
    found: Found
    more: str
    section: str = "events"


class SearchForm(BaseModel):
    """The form."""

    q: Short = ""
    customer: Short = ""
    key: Short = ""
    model: Short = ""
    outcome: Literal["", "settle", "release", "expire", "settle_late", "refused"] = ""
    flag: Short = ""
    status: Annotated[str, Field(pattern=r"^([1-5][0-9]{2})?$")] = ""
    since: Short = ""
    until: Short = ""
    before: Short = ""

    def search(self) -> Search:
        """What it asks for."""
        fields = self.model_dump(exclude={"q"})
        return Search(**{name: value.strip() for name, value in fields.items()})


@router.get("/requests")
async def show(request: Request, session: Viewer, form: Annotated[SearchForm, Query()]) -> Response:
    """The list; a request id leads to its story."""
    if form.q.strip():
        return RedirectResponse(f"{PREFIX}/requests/{quote(form.q.strip(), safe='')}", 303)
    wanted = form.search()
    found = await search(context_of(request), wanted, PAGE)
    more = wanted.query(before=found.before) if found.before else ""
    return page(request, session, "requests.html", RequestsView(wanted, OUTCOMES, found, more))
