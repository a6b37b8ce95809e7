"""From a template and a view to a response, with what every page has in common.

Templates escape everything. A page gets one `view`, a frozen value that its page module has made.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote, unquote

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse, Response

from gateway.admin.auth.guard import Session
from gateway.admin.console import text
from gateway.admin.console.static_folder import static_version
from gateway.domain.money import format_amount
from gateway.operations.documents import usage_text
from gateway.operations.keys import shown_of_key

FOLDER: Final = Path(__file__).parent
PREFIX: Final = "/console"
THEME_COOKIE: Final = "creditgate_theme"
TOAST_COOKIE: Final = "creditgate_toast"

Tone = Literal["ok", "warn", "bad", ""]


@dataclass(frozen=True, slots=True)
class NavItem:
    """One entry of the navigation. operation: whoever may not do it does not see it"""

    section: str
    label: str
    path: str
    operation: str


NAV: Final = (
    NavItem("now", "Now", "", "overview.read"),
    NavItem("customers", "Customers", "/customers", "customers.read"),
    NavItem("usage", "Usage and margin", "/usage", "usage.read"),
    NavItem("events", "Requests", "/requests", "requests.read"),
    NavItem("prices", "Prices", "/prices", "prices.read"),
    NavItem("stores", "Stores and signals", "/stores", "signals.read"),
    NavItem("audit", "Audit", "/audit", "audit.read"),
)


@dataclass(frozen=True, slots=True)
class Toast:
    """The result of an action, shown once."""

    message: str
    tone: Tone = "ok"


def in_dialog(request: Request) -> bool:
    """Whether a script asked for the content of the dialog, not for a page."""
    return request.headers.get("hx-target") == "dialog-body"


def render(
    request: Request,
    name: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: object,
) -> HTMLResponse:
    """A template as a response, with the theme and the result of the last action."""
    toast = _toast(request)
    values.setdefault("session", None)
    values.setdefault("now_ms", time.time_ns() // 1_000_000)
    content = (
        environment()
        .get_template(name)
        .render(
            values,
            request=request,
            nav=NAV,
            toast=toast,
            dialog=in_dialog(request),
            theme=_theme(request),
        )
    )
    response = HTMLResponse(content, status, {"cache-control": "no-store", **(headers or {})})
    if toast is not None:
        response.delete_cookie(TOAST_COOKIE, path=PREFIX)
    return response


def page(
    request: Request, session: Session, template: str, view: object, *, status: int = 200
) -> HTMLResponse:
    """A page, or the same as the content of the dialog where a script asks for that."""
    return render(request, template, status=status, session=session, view=view)


def fragment(template: str, **values: object) -> str:
    """A part of a page by itself, for streams and replacements."""
    values.setdefault("now_ms", time.time_ns() // 1_000_000)
    return environment().get_template(template).render(values)


def done(request: Request, to: str, toast: Toast) -> Response:
    """An action has succeeded: go to a page and say so there."""
    if request.headers.get("hx-request"):
        response = Response(status_code=204, headers={"hx-redirect": PREFIX + to})
    else:
        response = Response(status_code=303, headers={"location": PREFIX + to})
    response.set_cookie(
        TOAST_COOKIE,
        quote(json.dumps([toast.message[:500], toast.tone])),
        max_age=30,
        path=PREFIX,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@cache
def environment() -> jinja2.Environment:
    """The templates."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Any] = {
        name: getattr(text, name)
        for name in (
            *("amount", "signed", "rounded", "count", "rate", "percent", "milliseconds"),
            *("duration", "moment", "iso", "when", "clock", "broken", "words"),
        )
    }
    made.filters.update(filters, plain=format_amount, usage_text=usage_text, shown_key=shown_of_key)
    made.globals.update(prefix=PREFIX, asset=asset)
    return made


def asset(name: str) -> str:
    """The URL of a static file; it changes when any of them does, so that modules may import others."""
    return f"{PREFIX}/static/{static_version()}/{name}"


def _theme(request: Request) -> str:
    theme = request.cookies.get(THEME_COOKIE, "")
    return theme if theme in ("light", "dark") else ""


def _toast(request: Request) -> Toast | None:
    kept = request.cookies.get(TOAST_COOKIE)
    if not kept:
        return None
    try:
        message, tone = json.loads(unquote(kept))
    except (ValueError, TypeError):
        return None
    known: Tone = tone if tone in ("ok", "warn", "bad") else ""
    return Toast(str(message), known)
