"""Reading forms: each mistake at its field, and an idempotency key that makes a second click harmless."""

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session
from gateway.admin.console.rendering import page
from gateway.domain.money import MoneyError, parse_amount
from gateway.operations.errors import OperationError, OutcomeUnknown

REASON_MOST: Final = 300
KEY_FIELD: Final = "idempotency_key"


@dataclass(frozen=True, slots=True)
class FormView:
    """A form to show. action, back: paths under the console's prefix

    values:   what was entered, by field; problems: what is wrong with it; `form` for the form itself
    subject:  what the form is about, for its template
    """

    section: str
    title: str
    action: str
    back: str
    values: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    subject: Any = None
    key: str = field(default_factory=lambda: f"console-{secrets.token_hex(8)}")

    def value(self, name: str) -> str:
        """What was entered into a field."""
        return self.values.get(name, "")

    def problem(self, name: str) -> str:
        """What is wrong with it."""
        return self.problems.get(name, "")


@dataclass(slots=True)
class Entered:
    """A submitted form, being read: `problems` fills as fields turn out wrong."""

    values: dict[str, str]
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The idempotency key of this form; it is new each time the form is shown."""
        return self.values.get(KEY_FIELD) or f"console-{secrets.token_hex(8)}"

    def text(self, name: str, most: int = 200) -> str:
        """A field's text, which may be empty."""
        value = self.values.get(name, "").strip()
        if len(value) > most:
            self.problems[name] = f"At most {most} characters, got {len(value)}."
        return value

    def reason(self) -> str:
        """Why it is done; every change requires one."""
        value = self.text("reason", REASON_MOST)
        if not value:
            self.problems["reason"] = "Say why: the reason is kept in the audit log."
        return value

    def amount_nano(self, name: str) -> int:
        """A positive amount of credits."""
        value = self.values.get(name, "").strip().replace(",", "")
        try:
            nano = parse_amount(value)
        except MoneyError:
            self.problems[name] = f"Enter credits as a decimal such as 12.50, got {value!r}."
            return 0
        if nano <= 0:
            self.problems[name] = "Enter an amount above zero."
        return nano

    def optional_amount_nano(self, name: str) -> int | None:
        """An amount of credits, or None where the field is empty."""
        value = self.values.get(name, "").strip().replace(",", "")
        if not value:
            return None
        try:
            return parse_amount(value)
        except MoneyError:
            self.problems[name] = f"Enter credits as a decimal such as 12.50, got {value!r}."
            return None

    def names(self, name: str) -> tuple[str, ...]:
        """Names with commas, spaces or line ends between them."""
        return tuple(dict.fromkeys(self.values.get(name, "").replace(",", " ").split()))

    def pairs(self, name: str) -> dict[str, str]:
        """Lines of the form `name = value`."""
        found: dict[str, str] = {}
        for line in self.values.get(name, "").splitlines():
            key, equals, value = map(str.strip, line.partition("="))
            if not key and not value:
                continue
            if not (key and equals and value):
                self.problems[name] = f"Write `name = value` on each line, got {line.strip()!r}."
            elif key in found:
                self.problems[name] = f"{key!r} is there twice."
            found[key] = value
        return found

    def chosen(self, name: str, options: Collection[str], problem: str) -> str:
        """One of the options of a selection."""
        value = self.values.get(name, "")
        if value not in options:
            self.problems[name] = problem
        return value

    def whole(self, name: str, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self.values.get(name, "").strip()
        if not value.isdecimal() or not least <= int(value) <= most:
            self.problems[name] = f"Enter a whole number from {least} to {most}, got {value!r}."
            return least
        return int(value)


async def entered(request: Request) -> Entered:
    """The fields of a submitted form; files are left out."""
    form = await request.form()
    return Entered({name: value for name, value in form.items() if isinstance(value, str)})


def refused(
    request: Request, session: Session, template: str, view: FormView, entry: Entered
) -> Response:
    """The form again, with what was entered and what is wrong with it."""
    again = FormView(
        view.section,
        view.title,
        view.action,
        view.back,
        entry.values,
        entry.problems,
        view.subject,
        entry.key,
    )
    return page(request, session, template, again, status=422)


def explain(entry: Entered, error: OperationError) -> None:
    """Note why an operation was not carried out."""
    entry.problems["form"] = str(error)
    if isinstance(error, OutcomeUnknown):
        entry.problems["form"] += ". Sending this form again is safe: it has the same key."
