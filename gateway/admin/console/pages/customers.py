"""The list of customers."""

from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.rendering import PREFIX, page
from gateway.operations.customers import CustomerList, count_customers, list_customers

router = APIRouter(prefix=PREFIX, include_in_schema=False)
PAGE: Final = 50
Viewer = Annotated[Session, Depends(require("customers.read"))]


@dataclass(frozen=True, slots=True)
class CustomersView:
    """The page. total: of all customers"""

    query: str
    list: CustomerList
    total: int
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
    listed = await list_customers(session.backend, after=after, limit=PAGE, prefix=query)
    found = [view.record.customer_id for view in listed.customers]
    if found == [query] and not request.headers.get("hx-request"):
        return RedirectResponse(f"{PREFIX}/customers/{quote(query, safe='')}", 303)
    total = await count_customers(session.backend)
    return page(request, session, "customers.html", CustomersView(query, listed, total))
