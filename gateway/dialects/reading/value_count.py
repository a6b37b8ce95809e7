"""How many values a JSON body has, counted before it is parsed.

A parser allocates an object for every value, so four mebibytes of `{},{},…` cost seconds where four
mebibytes of text cost milliseconds. What bounds the work is the number of values, not of bytes.

Every value but the first follows a comma or an opening bracket, so `1 + commas + brackets` is never
below their number. An empty object or list counts twice, which is about what it costs.
"""

from typing import Final

MAX_JSON_VALUES: Final = 100_000
"""Default for `listen.max_json_values`: parsing so many takes 20 ms at most."""

_CHUNK_BYTES: Final = 128 * 1024
"""Bytes examined between two points at which another thread may run."""


def has_more_values(body: bytes, most: int) -> bool:
    """Whether a body of JSON has more than this many values.

    Exact up to the first byte at which the body stops being JSON; a parser stops there, too.
    """
    # Nearly every body is shorter than the limit, and a value takes at least one byte.
    if len(body) < most or not _has_more_marks(body, most):
        return False
    # The marks may be inside strings: text has commas.
    return _has_more_outside(body, most)


def mark_count(body: bytes) -> int:
    """An upper bound on the values of a short body: marks inside strings count as well."""
    return 1 + body.count(b",") + body.count(b"[") + body.count(b"{")


def _has_more_marks(body: bytes, most: int) -> bool:
    marks = 0
    for at in range(0, len(body), _CHUNK_BYTES):
        marks += mark_count(body[at : at + _CHUNK_BYTES]) - 1
        if marks >= most:
            return True
    return False


def outside_strings(body: bytes) -> bytes:
    """A body of JSON without its strings: exact up to the first byte that is no JSON."""
    return b" ".join(_without_escapes(body).split(b'"')[::2])


def _has_more_outside(body: bytes, most: int) -> bool:
    body = _without_escapes(body)
    values = 1
    in_string = False
    for at in range(0, len(body), _CHUNK_BYTES):
        parts = body[at : at + _CHUNK_BYTES].split(b'"')
        values += mark_count(b"".join(parts[in_string::2])) - 1
        if values > most:
            return True
        in_string ^= len(parts) % 2 == 0
    return False


def _without_escapes(body: bytes) -> bytes:
    """The body without escaped backslashes and then without escaped quotes: each quote that is left
    begins or ends a string, for a run of backslashes always starts with one that escapes."""
    if body.find(b"\\") < 0:
        return body
    return body.replace(b"\\\\", b"").replace(b'\\"', b"")
