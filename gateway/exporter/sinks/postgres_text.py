"""Texts that Postgres can hold: it has no NUL character, neither in text nor in jsonb."""

import re
from typing import Any, Final, TypeVar

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_ESCAPED_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""In JSON text: not of a backslash that is itself escaped."""

Row = TypeVar("Row", bound=tuple[Any, ...])


def storable(row: Row) -> Row:
    """The row with U+FFFD in each text where there was a NUL, as it is or escaped in JSON, or half of a
    surrogate pair. The same row where there was none."""
    values = [_cleaned(value) if type(value) is str else value for value in row]
    if all(new is old for new, old in zip(values, row, strict=True)):
        return row
    return type(row)._make(values) if hasattr(row, "_make") else type(row)(values)


def _cleaned(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", _REPLACEMENT)
    if "\\u0000" in text:
        text = _ESCAPED_NUL.sub(rf"\1{_REPLACEMENT}", text)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
