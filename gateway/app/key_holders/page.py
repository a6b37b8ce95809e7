"""The page of key holders as HTML. Every value is escaped; the page needs no script and loads nothing."""

import base64
import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.app.key_holders.holder import Holder
from gateway.domain.money import format_amount

_PACKAGE: Final = "gateway.app.key_holders"
_REASONS: Final[Mapping[str, str]] = {
    "insufficient_credits": "Not enough credits",
    "credit_held": "Credits held by running requests",
    "spend_limit": "Spend limit",
    "rate_limit": "Limit on requests or tokens",
    "concurrency_limit": "Limit on concurrent requests",
    "wallet_frozen": "Account frozen",
    "account_frozen": "Account frozen",
    "unknown_model": "Unknown model",
    "forbidden_model": "Model not allowed for the key",
    "bad_request": "Invalid request",
}


@dataclass(frozen=True, slots=True)
class _Bar:
    label: str
    charged_nano: int
    height: int
    """Of 100."""


class AccountPages:
    """Renders the pages."""

    def __init__(self, session_minutes: int) -> None:
        self._minutes = session_minutes
        self._css = files(_PACKAGE).joinpath("page.css").read_text()
        digest = base64.b64encode(hashlib.sha256(self._css.encode()).digest()).decode()
        self.policy = (
            f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none';"
            " frame-ancestors 'none'"
        )
        """The Content-Security-Policy that the pages need."""

    def account(self, holder: Holder, top_up_url: str | None) -> bytes:
        """A customer's page."""
        bars = _bars(holder)
        return self._render(
            "account.html",
            holder=holder,
            days=bars,
            highest_nano=max((each.charged_nano for each in bars), default=0),
            top_up_url=top_up_url,
        )

    def sign_in(self, problem: str = "") -> bytes:
        """The form that asks for a key."""
        return self._render("sign_in.html", problem=problem, session_minutes=self._minutes)

    def enter(self) -> bytes:
        """What follows a link. A redirect would still count as coming from the page with the link, and
        browsers would keep back a `SameSite=Strict` cookie."""
        return self._render("enter.html")

    def _render(self, name: str, **values: object) -> bytes:
        text = _environment().get_template(name).render(css=self._css, **values)
        return text.encode()


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=PackageLoader(_PACKAGE),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "amount": format_amount,
        "count": lambda number: f"{number:,}",
        "day": lambda ms: "–" if ms is None else f"{_moment(ms):%Y-%m-%d}",
        "moment": lambda ms: "–" if ms is None else f"{_moment(ms):%Y-%m-%d %H:%M} UTC",
        "quantities": _quantities,
        "reason": lambda word: _REASONS.get(word, word.replace("_", " ").capitalize()),
    }
    return environment


def _bars(holder: Holder) -> list[_Bar]:
    question = holder.by_day.question
    first, last = (_moment(ms).date() for ms in (question.since_ms, max(0, question.until_ms - 1)))
    charged = {each.label: each.charged_nano for each in holder.by_day.sums}
    days = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
    highest = max(1, *charged.values()) if charged else 1
    return [
        _Bar(label, nano, max(1, 100 * nano // highest) if nano > 0 else 0)
        for label, nano in ((day.isoformat(), charged.get(day.isoformat(), 0)) for day in days)
    ]


def _quantities(usage: Mapping[str, int]) -> str:
    return ", ".join(f"{quantity:,} {unit.replace('_', ' ')}" for unit, quantity in usage.items())


def _moment(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)
