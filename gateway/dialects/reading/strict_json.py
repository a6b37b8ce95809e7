"""One strict reading of a JSON request body, so that every parser behind the gate reads the same.

RFC 8259 leaves duplicate names, number ranges and byte order marks to each parser. What parsers
answer differently is refused here, and what passes is written out again by the same library:
the bytes that go upstream have one reading.

What is refused, and what enforces it:

| refused                                        | by                                      |
|------------------------------------------------|-----------------------------------------|
| NaN, Infinity, 1e400, BOM, UTF-16/32, bad UTF-8,|                                        |
| lone surrogates, raw NUL, trailing data         | orjson's grammar                       |
| depth beyond what can be written out again      | orjson's own limits (read 1024, write 254) |
| a name twice in one object, at any depth        | counting colons                         |
| integers beyond 64 bits, endless numbers        | a run of 19 digits, then `_inspect`     |
| NUL in a name                                   | a pattern, on the output                |
| a name that some parser takes for a cost-bearing one | `_refuse_aliases`                  |
| more values than `listen.max_json_values`       | `has_more_values`, before parsing       |

Counting colons is sound: orjson keeps the last of two equal names, so each repeated member loses
at least one colon when the document is written out, and nothing adds one. Equal counts mean that
nothing was lost. `_inspect` costs some twenty times as much as all the rest: it runs only where
there is a long number, or to name what is refused anyway.
"""

import json
import re
from typing import Any, Final

import orjson

from gateway.dialects.base import BadRequest
from gateway.dialects.reading.value_count import (
    MAX_JSON_VALUES,
    has_more_values,
    mark_count,
    outside_strings,
)

MAX_INTEGER: Final = 2**64 - 1
MIN_INTEGER: Final = -(2**63)
MAX_NUMBER_CHARS: Final = 128
"""The longest number that is read: a double needs 17 digits, a decimal expansion some more."""

COST_BEARING: Final = frozenset(
    {
        "model",
        "messages",
        "prompt",
        "input",
        "system",
        "instructions",
        "suffix",
        "tools",
        "functions",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_new_tokens",
        "n_predict",
        "num_predict",
        "max_tool_calls",
        "n",
        "n_cmpl",
        "best_of",
        "service_tier",
        "background",
        "previous_response_id",
        "conversation",
        "store",
        "thinking",
        "api_base",
        "base_url",
        "fallbacks",
        "models",
    }
)
"""Top-level names that decide what is executed or what it costs, in any dialect."""

_SQUASHED: Final = {name.replace("_", ""): name for name in COST_BEARING}
_DIGITS_AS_ZERO: Final = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_LONG_RUN: Final = b"0" * 19
"""2^63 has 19 digits: an integer beyond 64 bits has at least as many, side by side."""
_NUL: Final = b"\\u0000"
_NUL_IN_NAME: Final = re.compile(rb'(?<!\\)"(?:[^"\\]++|\\(?!u0000).)*+\\u0000(?:[^"\\]++|\\.)*+":')
"""In a document as it is written out, a string with a NUL before a colon. No string begins behind a
backslash, so each byte is looked at twice at most."""
_MOST_INSPECTED: Final = 10_000
"""A name that stands twice is looked for in bodies of at most so many values."""


def parse_object(body: bytes, max_values: int = MAX_JSON_VALUES) -> dict[str, Any]:
    """Read a body that must be one JSON object of at most `max_values` values.

    Raises BadRequest, saying what is wrong and where.
    """
    return require_object(parse_document(body, max_values))


def require_object(document: Any) -> dict[str, Any]:
    """A parsed body that must be an object in which no name could be taken for another one.

    Raises BadRequest.
    """
    if type(document) is not dict:
        raise BadRequest('The body must be a JSON object, such as {"model": …}.')
    names = "".join(document)
    if not (names.isascii() and names == names.lower()):
        _refuse_aliases(document)
    return document


def parse_document(body: bytes, max_values: int = MAX_JSON_VALUES) -> Any:
    """Read a body of JSON, whatever its root, of at most `max_values` values.

    Raises BadRequest, saying what is wrong and where.
    """
    if len(body) > max_values and has_more_values(body, max_values):
        raise BadRequest(
            f"The body has more than {max_values} JSON values (objects, lists and what is in them),"
            " the limit of this gateway; send fewer values in one request.",
            code="too_many_values",
        )
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(_explain(body, error)) from None
    try:
        written = orjson.dumps(document)
    except orjson.JSONEncodeError:
        raise BadRequest("The body is nested deeper than 254 levels.") from None
    # What orjson writes has no repeated name and no long number: most clients send just that.
    if body != written:
        if _colons(body) != written.count(b":"):
            _refuse_repeated_name(body)
        if _has_long_number(body):
            _inspect(body)
    if written.find(_NUL) >= 0 and _NUL_IN_NAME.search(written):
        raise BadRequest("A name contains a NUL character.")
    return document


def _colons(body: bytes) -> int:
    """Colons of a body as it is written out again: those of members, and all in strings."""
    # `find`: `in` first tries whether the operand is a number, and discards an exception.
    if body.find(b"\\u003") >= 0:
        # Once escaped backslashes are gone, no other backslash can be one that is escaped.
        body = body.replace(b"\\\\", b"")
        return body.count(b":") + body.count(b"\\u003a") + body.count(b"\\u003A")
    return body.count(b":")


def _has_long_number(body: bytes) -> bool:
    """Whether there may be a number outside of strings that needs a look."""
    if body.translate(_DIGITS_AS_ZERO).find(_LONG_RUN) < 0:
        return False
    return outside_strings(body).translate(_DIGITS_AS_ZERO).find(_LONG_RUN) >= 0


def _refuse_repeated_name(body: bytes) -> None:
    """Say which name an object has twice. Raises BadRequest."""
    if mark_count(body) <= _MOST_INSPECTED:
        _inspect(body)
    raise BadRequest("One of the body's objects has the same name twice.")


def require_lower_case(members: dict[str, Any], where: str) -> None:
    """Refuse names that are not plain lower case in an object whose members decide the cost.

    Some parsers match names whatever their case (Go's encoding/json), some fold Unicode.
    Raises BadRequest.
    """
    names = "".join(members)
    if not (names.isascii() and names == names.lower()):
        name = next(n for n in members if not n.isascii() or n != n.lower())
        raise BadRequest(
            f"The name {name!r} is not understood alike everywhere; write it in lower case.",
            param=f"{where}.{name}",
        )


def _refuse_aliases(document: dict[str, Any]) -> None:
    """Refuse two names equal but for case, and misspelt cost-bearing ones (`Model`, `maxTokens`)."""
    seen: dict[str, str] = {}
    for name in document:
        folded = name.casefold()
        if folded in seen:
            raise BadRequest(
                f"The names {seen[folded]!r} and {name!r} differ only in case; send one of them.",
                param=name,
            )
        seen[folded] = name
        meant = _SQUASHED.get(folded.replace("_", "").replace("-", ""))
        if meant is not None and name != meant:
            raise BadRequest(
                f"The name {name!r} could be taken for {meant!r}; send {meant!r}.", param=name
            )


class _Flaw:
    """Marks the place of a refused value in the parsed document, from which its path follows."""

    def __init__(self, message: str, name: str | None = None) -> None:
        self.message = message
        self.name = name


def _inspect(body: bytes) -> None:
    """Parse slowly, with every object and every number in hand.

    Raises BadRequest with the path of a repeated name or a number that is too long.
    """
    # Safe from RecursionError: orjson has already bounded the depth at 254.
    document = json.loads(
        body,
        object_pairs_hook=_members,
        parse_int=_integer,
        parse_float=_float,
    )
    # Only containers are listed, with their paths as links: most values are neither.
    todo: list[tuple[Any, _Path]] = [([document], None)]
    while todo:
        container, path = todo.pop()
        members = container.items() if type(container) is dict else enumerate(container)
        for name, value in members:
            kind = type(value)
            if kind is dict or kind is list:
                todo.append((value, (path, name)))
            elif kind is _Flaw:
                raise BadRequest(value.message, param=_path((path, name), value.name) or None)


_Path = tuple[Any, str | int] | None
"""A member's name or index, behind the path of its container; the document is item 0 of the root."""


def _path(path: _Path, last: str | None) -> str:
    """A path as errors show it: `messages[2].content`."""
    names: list[str | int] = [] if last is None else [last]
    while path is not None and path[0] is not None:
        names.append(path[1])
        path = path[0]
    shown = ""
    for name in reversed(names):
        shown += f"[{name}]" if type(name) is int else f".{name}" if shown else str(name)
    return shown


def _members(pairs: list[tuple[str, Any]]) -> Any:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                return _Flaw(f"The name {_shown(name)} stands twice in one object.", _shown(name))
            seen.add(name)
    return members


def _integer(text: str) -> Any:
    if len(text) > 20 or not MIN_INTEGER <= int(text) <= MAX_INTEGER:
        return _Flaw("An integer is beyond 64 bits.")
    return int(text)


def _float(text: str) -> Any:
    if len(text) > MAX_NUMBER_CHARS:
        return _Flaw(f"A number is longer than {MAX_NUMBER_CHARS} characters.")
    return float(text)


def _shown(name: str) -> str:
    return name if len(name) <= 64 else name[:61] + "…"


_ENCODING_MARKS: Final = re.compile(rb"^(\xff\xfe|\xfe\xff|\x00|.\x00)", re.DOTALL)


def _explain(body: bytes, error: orjson.JSONDecodeError) -> str:
    if not body:
        return "The body is empty; send a JSON object."
    if body.startswith(b"\xef\xbb\xbf"):
        return "The body starts with a byte order mark; send UTF-8 without one."
    if _ENCODING_MARKS.match(body):
        return "The body is not UTF-8 (it looks like UTF-16 or UTF-32); send UTF-8."
    return f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
