"""Typed values out of the JSON of a webhook. Every function raises Malformed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

_ID: Final = re.compile(r"[!-~]{1,128}")
_MINOR_MOST: Final = 2**53


class Malformed(Exception):
    """A signed body is not what its sender documents; the message says where."""


def document(body: bytes) -> Mapping[str, Any]:
    """The body: one JSON object."""
    try:
        return section(orjson.loads(body), "body")
    except orjson.JSONDecodeError as error:
        raise Malformed("the body is not JSON") from error


def section(value: Any, name: str) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise Malformed(f"{name} must be an object")
    return value


def items(value: Any) -> Sequence[Any]:
    """A list, or Stripe's list object; empty for anything else."""
    if isinstance(value, dict):
        value = value.get("data")
    return value if isinstance(value, list) else ()


def text(within: Mapping[str, Any], name: str) -> str:
    """A string."""
    value = within.get(name)
    if not isinstance(value, str):
        raise Malformed(f"{name} must be a string")
    return value


def id_of(within: Mapping[str, Any], name: str) -> str:
    """An id, of 1 to 128 printable ASCII characters without spaces."""
    found = optional_id(within, name)
    if found is None:
        raise Malformed(f"{name} is missing")
    return found


def optional_id(within: Mapping[str, Any], name: str) -> str | None:
    """An id, or that of an expanded object; None where it is null, empty or missing."""
    value = within.get(name)
    if isinstance(value, dict):
        value = value.get("id")
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise Malformed(f"{name} must be 1 to 128 printable ASCII characters")
    return value


def minor(within: Mapping[str, Any], name: str) -> int:
    """An amount in a minor unit: a whole number, 0 or more."""
    value = within.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MINOR_MOST:
        raise Malformed(f"{name} must be a whole number, 0 or more")
    return value
