"""The API's own documentation: pages that need no script, and no sign-in either: they show no data."""

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.answers import DOCS_PATH
from gateway.admin.api.description import Description, describe
from gateway.admin.api.errors import ERRORS
from gateway.admin.auth.roles import OPERATIONS
from gateway.admin.console.rendering import render
from gateway.domain.access import ROLES

router = APIRouter(include_in_schema=False)

PATH: Final = "/api/docs"


@router.get(PATH)
async def api_docs(request: Request) -> Response:
    """Every operation and object."""
    return render(request, "api_docs.html", api=_description(request))


@router.get(DOCS_PATH)
async def error_docs(request: Request) -> Response:
    """Every code, and what each role may do."""
    return render(request, "api_errors.html", errors=ERRORS, operations=OPERATIONS, roles=ROLES)


def _description(request: Request) -> Description:
    state = request.app.state
    known: Description | None = getattr(state, "api_description", None)
    if known is None:
        known = state.api_description = describe(request.app)
    return known
