"""Parsers of command-line values, by the same types as the configuration.

A value that does not fit is a usage error: one sentence, exit code 2.
"""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from gateway.domain.billing_periods import billing_period
from gateway.domain.money import MoneyError, format_amount, parse_amount
from gateway.operations.idempotency import KEY_CHARS_MOST, is_idempotency_key
from gateway.settings.problems import Wrong
from gateway.settings.scalars import Id, MomentMs

Reason = Annotated[
    str | None, typer.Option("--reason", help="Why; kept in the audit log.", show_default=False)
]


def amount(text: str) -> int:
    """Credits as a decimal, more than 0; as nano-credits."""
    try:
        nano = parse_amount(text)
    except MoneyError as error:
        raise typer.BadParameter(f"{error}. Write credits as a decimal: 12.50") from None
    if nano == 0:
        raise typer.BadParameter(f"the amount must be more than 0, got {format_amount(nano)}")
    return nano


def zero_or_amount(text: str) -> int:
    """Credits as a decimal, 0 or more; as nano-credits."""
    try:
        return parse_amount(text)
    except MoneyError as error:
        raise typer.BadParameter(f"{error}. Write credits as a decimal: 12.50") from None


def signed_amount(text: str) -> int:
    """Credits as a decimal with or without a sign, not 0; as nano-credits."""
    try:
        nano = parse_amount(text, signed=True)
    except MoneyError as error:
        raise typer.BadParameter(f"{error}. Write credits as a decimal: 2.50 or -2.50") from None
    if nano == 0:
        raise typer.BadParameter("0 credits change nothing")
    return nano


def _by(kind: Any) -> Callable[[str], Any]:
    adapter = TypeAdapter(kind)

    def read(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError as invalid:
            wrong = invalid.errors()[0].get("ctx", {}).get("error")
            assert isinstance(wrong, Wrong), "the configuration's types say what is wrong"
            raise typer.BadParameter(f"{wrong.message}. {wrong.hint}".rstrip()) from None

    return read


moment_ms = _by(MomentMs)
"""A moment with its time zone, in ISO 8601; as Unix milliseconds."""
identifier = _by(Id)
"""A name as the configuration has them."""


def month(text: str) -> str:
    """A month, such as 2027-01."""
    try:
        billing_period(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def idempotency_key(text: str) -> str:
    """An idempotency key."""
    if not is_idempotency_key(text):
        raise typer.BadParameter(f"a key has 1 to {KEY_CHARS_MOST} printable ASCII characters")
    return text
