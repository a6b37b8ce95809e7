"""`--limit`: a ceiling in one word, such as `requests/day=100` or `key:tokens/rolling-day=50000`."""

import re
from dataclasses import dataclass
from typing import Any, Final, get_args

import typer
from pydantic import ValidationError

from gateway.domain.limits import Limit, Measure, Scope, Window
from gateway.settings.customers import LimitSection
from gateway.settings.explaining import explain

LIMIT: Final = "[SCOPE:]MEASURE/WINDOW=CEILING"
_FORM: Final = re.compile(
    r"(?:(?P<scope>[^:]*)(?::(?P<name>.+))?:)?(?P<measure>[^:/=]+)(?:/(?P<window>[^:/=]+))?"
    r"=(?P<ceiling>[^=]+)"
)
_EXAMPLES: Final = (
    "spend/month=25.00, requests/day=100, concurrent=5 or model:NAME:tokens/minute=1000"
)
_ROLLS: Final = {"rolling-": "true", "calendar-": "false"}


def limit(text: str) -> Limit:
    """A limit of a customer unless another scope is given: customer, project, key or model:NAME."""
    return _limit(text, "customer")


def key_limit(text: str) -> Limit:
    """A limit of one key."""
    return _own(text, "key")


@dataclass(frozen=True, slots=True)
class ProjectLimit:
    """A limit of one project."""

    project: str
    limit: Limit


def project_limit(text: str) -> ProjectLimit:
    """Read `PROJECT:MEASURE/WINDOW=CEILING`."""
    project, colon, rest = text.rpartition(":")
    if not colon or not project:
        raise typer.BadParameter(f"{text!r} names no project. Write NAME:spend/month=25.00")
    return ProjectLimit(project, _own(rest, "project"))


def _own(text: str, scope: Scope) -> Limit:
    found = _limit(text, scope)
    if found.scope != scope:
        raise typer.BadParameter(f"{text!r} must have the scope `{scope}`: leave the scope out")
    return found


def _limit(text: str, scope: Scope) -> Limit:
    form = _FORM.fullmatch(text)
    if form is None:
        raise typer.BadParameter(f"{text!r} is not a limit. Write {_EXAMPLES}")
    window, section = form["window"], dict[str, Any](measure=form["measure"])
    for prefix, rolling in _ROLLS.items():
        if window is not None and window.startswith(prefix):
            window, section["rolling"] = window.removeprefix(prefix), rolling
    named = form["scope"] or scope
    for what, value, known in (
        ("scope", named, get_args(Scope)),
        ("measure", form["measure"], get_args(Measure)),
        ("window", window or "total", get_args(Window)),
    ):
        if value not in known:
            raise typer.BadParameter(f"{value!r} is not a {what}: use one of {', '.join(known)}")
    if form["name"] is not None:
        section["model"] = form["name"]
    try:
        [found] = LimitSection.model_validate(
            {**section, "scope": named, "window": window, "ceiling": form["ceiling"]}
        ).compiled()
    except ValidationError as invalid:
        finding = explain(invalid.errors(include_url=False)[0], LimitSection)
        where = ".".join(str(step) for step in finding.path)
        said = f"{text!r}: {where and f'`{where}` '}{finding.message}. {finding.hint}"
        raise typer.BadParameter(said.rstrip()) from None
    return found
