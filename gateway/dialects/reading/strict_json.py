"""One strict reading of a JSON request body, so that every parser behind the gate reads the same.

RFC 8259 leaves duplicate names, number ranges and byte order marks to each parser. What parsers
answer differently is refused here, and what passes is written out again by the same library:
the bytes that go upstream have one reading.

The law, and what enforces it:

| refused                                        | by                                      |
|------------------------------------------------|-----------------------------------------|
| NaN, Infinity, 1e400, BOM, UTF-16/32, bad UTF-8,|                                        |
| lone surrogates, raw NUL, trailing data         | orjson's grammar                       |
| depth beyond what can be written out again      | orjson's own limits (read 1024, write 254) |
| a name twice in one object, at any depth        | counting colons, else `_inspect`        |
| integers beyond 64 bits, endless numbers        | a run of 19 digits, then `_inspect`     |
| NUL in a name                                   | `\\u0000` in the output, then `_inspect` |
| a name that some parser takes for a cost-bearing one | `_refuse_aliases`                  |

Counting colons is sound: orjson keeps the last of two equal names, so each repeated member loses
at least its own colon when the document is written out, and nothing adds a colon except an
escaped one (`\\u003a`), for which the slow way is taken. Equal counts mean that nothing was lost.
"""

import json
import re
from typing import Any, Final

import orjson

from gateway.dialects.base import BadRequest

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
_ESCAPED_COLON: Final = (b"\\u003a", b"\\u003A")


def parse_object(body: bytes) -> dict[str, Any]:
    """Read a body that must be one JSON object. Raises BadRequest, saying what is wrong and where."""
    document = parse_document(body)
    if type(document) is not dict:
        raise BadRequest('The body must be a JSON object, such as {"model": …}.')
    names = "".join(document)
    if not (names.isascii() and names == names.lower()):
        _refuse_aliases(document)
    return document


def parse_document(body: bytes) -> Any:
    """Read a body of JSON, whatever its root. Raises BadRequest, saying what is wrong and where."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(_explain(body, error)) from None
    try:
        written = orjson.dumps(document)
    except orjson.JSONEncodeError:
        raise BadRequest("The body is nested deeper than 254 levels.") from None
    # `find`, for `in` tries first whether what is looked for is a number, and throws an exception away.
    escapes = body.find(b"\\") >= 0
    if (
        body.count(b":") != written.count(b":")
        or body.translate(_DIGITS_AS_ZERO).find(_LONG_RUN) >= 0
        or (escapes and (any(e in body for e in _ESCAPED_COLON) or b"\\u0000" in written))
    ):
        _inspect(body)
    return document


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
    """Stands in the parsed document at the place of what is refused, so that its path is known."""

    def __init__(self, message: str, name: str | None = None) -> None:
        self.message = message
        self.name = name


def _inspect(body: bytes) -> None:
    """The slow, exact way: parse with every member and number in hand. Raises BadRequest."""
    # Safe from RecursionError: orjson has already bounded the depth at 254.
    document = json.loads(body, object_pairs_hook=_members, parse_int=_integer, parse_float=_float)
    todo: list[tuple[Any, str]] = [(document, "")]
    while todo:
        value, path = todo.pop()
        if type(value) is _Flaw:
            at = path if value.name is None else f"{path}.{value.name}" if path else value.name
            raise BadRequest(value.message, param=at or None)
        if type(value) is dict:
            todo.extend((v, f"{path}.{k}" if path else k) for k, v in value.items())
        elif type(value) is list:
            todo.extend((v, f"{path}[{at}]") for at, v in enumerate(value))


def _members(pairs: list[tuple[str, Any]]) -> Any:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                return _Flaw(f"The name {_shown(name)} stands twice in one object.", _shown(name))
            seen.add(name)
    for name in members:
        if "\0" in name:
            return _Flaw("A name contains a NUL character.")
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
