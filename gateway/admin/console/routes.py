"""Every page of the console."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.admin.console.pages import (
    audit,
    customer,
    customer_actions,
    customer_keys,
    customer_records,
    customers,
    modes,
    now,
    prices,
    request,
    requests,
    stores,
    usage,
)
from gateway.admin.console.rendering import PREFIX, THEME_COOKIE

_YEAR_S: Final = 31_536_000

router = APIRouter(prefix=PREFIX, include_in_schema=False)
ROUTERS: Final = (
    router,
    now.router,
    customers.router,
    customer.router,
    customer_actions.router,
    customer_records.router,
    customer_keys.router,
    modes.router,
    requests.router,
    request.router,
    prices.router,
    stores.router,
    usage.router,
    audit.router,
)
"""One for each page."""


@router.get("/theme")
async def theme(
    to: Literal["light", "dark"], back: Annotated[str, Query(max_length=500)] = ""
) -> Response:
    """Choose light or dark without scripts."""
    here = back if back.startswith(PREFIX + "/") and "//" not in back else PREFIX + "/"
    response = RedirectResponse(here, 303)
    response.set_cookie(THEME_COOKIE, to, max_age=_YEAR_S, path=PREFIX, samesite="strict")
    return response


@router.get("", include_in_schema=False)
async def without_slash(asked: Request) -> Response:
    """The page *Now* has one URL."""
    return RedirectResponse(asked.url.replace(path=f"{PREFIX}/"), 303)
