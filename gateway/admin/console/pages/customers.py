"""The list of customers."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.directory import CustomerList, customer_list
from gateway.admin.console.rendering import PREFIX, page

router = APIRouter()
Viewer = Annotated[Session, Depends(require("customers.read"))]


@dataclass(frozen=True, slots=True)
class CustomersView:
    """The page."""

    query: str
    list: CustomerList
    section: str = "customers"


@router.get("/customers")
async def show(
    request: Request,
    session: Viewer,
    q: Annotated[str, Query(max_length=200)] = "",
    after: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """The page; a query that is one customer's id leads to that customer with Enter."""
    query = q.strip()
    listed = await customer_list(session.backend, query, after)
    exact = [row for row in listed.rows if row.entry.customer_id == query]
    if exact and listed.total == 1 and not request.headers.get("hx-request"):
        return RedirectResponse(f"{PREFIX}/customers/{query}", 303)
    return page(request, session, "customers.html", CustomersView(query, listed))
