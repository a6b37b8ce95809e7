"""Reads what is typed on the command line by the same types as the configuration.

What does not fit is a usage error: one sentence, exit code 2.
"""

import secrets
from collections.abc import Callable
from typing import Any

import typer
from pydantic import TypeAdapter, ValidationError

from gateway.domain.money import MoneyError, format_amount, parse_amount
from gateway.settings.problems import Wrong
from gateway.settings.scalars import Id, MomentMs

MAX_KEY_CHARS = 64


def amount(text: str) -> int:
    """Credits as a decimal, more than nothing; as nano-credits."""
    try:
        nano = parse_amount(text)
    except MoneyError as error:
        raise typer.BadParameter(f"{error}. Write credits as a decimal: 12.50") from None
    if nano == 0:
        raise typer.BadParameter(f"{format_amount(nano)} credits are nothing to grant")
    return nano


def signed_amount(text: str) -> int:
    """Credits as a decimal with a sign or without, not nothing; as nano-credits."""
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


def idempotency_key(text: str) -> str:
    """What makes an operation happen once."""
    if not 0 < len(text) <= MAX_KEY_CHARS or not text.isascii() or not text.isprintable():
        raise typer.BadParameter(f"a key has 1 to {MAX_KEY_CHARS} printable ASCII characters")
    return text


def new_idempotency_key() -> str:
    """One that nobody has used."""
    return f"cli-{secrets.token_hex(8)}"
