"""Every page of the console, and its static files."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, FastAPI, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from gateway.admin.console.pages import (
    audit,
    customer,
    customer_actions,
    customers,
    now,
    prices,
    request,
    requests,
    stores,
    usage,
)
from gateway.admin.console.rendering import FOLDER, PREFIX, THEME_COOKIE

_YEAR_S: Final = 31_536_000

router = APIRouter(prefix=PREFIX, include_in_schema=False)
for _page in (
    now,
    customers,
    customer,
    customer_actions,
    requests,
    request,
    prices,
    stores,
    usage,
    audit,
):
    router.include_router(_page.router)


class CachedFiles(StaticFiles):
    """Static files, kept by browsers: their URLs change with their content."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """One file."""
        response = await super().get_response(path, scope)
        if response.status_code == 200:
            response.headers["cache-control"] = f"public, max-age={_YEAR_S}, immutable"
        return response


def mount_console(app: FastAPI) -> None:
    """Add the console to the admin application."""
    app.mount(f"{PREFIX}/static", CachedFiles(directory=FOLDER / "static"), "console-static")
    app.include_router(router)


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
