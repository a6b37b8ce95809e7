"""The application: every router of the admin process is listed here."""

from typing import Final

from fastapi import APIRouter, FastAPI

from gateway import __version__
from gateway.admin import answers
from gateway.admin.api import (
    audit,
    corrections,
    customers,
    docs,
    events,
    exports,
    freezes,
    gates,
    grants,
    holds,
    keys,
    limits,
    modes,
    own_prices,
    payments,
    prices,
    requests,
    statements,
    tokens,
    usage,
    wallets,
)
from gateway.admin.auth import oidc, sign_in
from gateway.admin.boundary import Boundary
from gateway.admin.console import routes
from gateway.admin.console.static_folder import StaticFolder
from gateway.admin.context import AdminContext
from gateway.admin.webhooks import router as webhooks

API: Final[tuple[APIRouter, ...]] = (
    customers.router,
    keys.router,
    limits.router,
    wallets.router,
    grants.router,
    payments.router,
    freezes.router,
    corrections.router,
    holds.router,
    requests.router,
    events.router,
    usage.router,
    prices.router,
    own_prices.router,
    statements.router,
    exports.router,
    modes.router,
    gates.router,
    audit.router,
    tokens.router,
)
PAGES: Final[tuple[APIRouter, ...]] = (sign_in.router, oidc.router, *routes.ROUTERS)
"""Routers of the console. Their paths begin with /console."""
WEBHOOKS: Final[tuple[APIRouter, ...]] = (webhooks.router,)
"""Routers for other systems: signatures open them, no tokens."""
DESCRIPTION: Final = (
    "Customers, their money, and what happened to their requests. Amounts are decimal strings of"
    " credits, times RFC 3339. Every write takes an `Idempotency-Key`."
)


def create_app(context: AdminContext) -> FastAPI:
    """The application on this context. A reload replaces `app.state.context`."""
    app = bare_app()
    app.state.context = context
    return app


def bare_app() -> FastAPI:
    """The application without a context: it describes itself, and serves nothing else."""
    app = FastAPI(
        title="creditgate admin API",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.api_routers = API
    answers.install(app)
    for router in (*API, docs.router, *PAGES, *WEBHOOKS):
        app.include_router(router)
    app.mount("/console/static", StaticFolder(), name="static")
    app.add_middleware(Boundary)
    return app
