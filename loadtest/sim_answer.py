"""What every simulated answer shares: frames, token texts, usage and its faults. Pure.

Invariants: a frame says how many output tokens it carries, and the usage reported at the end is
the sum over the frames. A token's text is four bytes, so a reader that counts one token per
frame, or a quarter of the bytes, finds exactly what was produced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

ID_MARK: Final = "@@@@@@@@@@@@"
"""Placeholder in built answers for the twelve-digit number of each answer."""

CREATED_S: Final = 1_760_000_000
"""The creation time (Unix seconds) every answer carries, so that answers can be built once."""

_WORDS: Final = (" the", " sea", " was", " low", " and", " red", " fog", " lay", " far", " out")


_PIECE_CHARS: Final = 4
"""A token's text is four bytes, in arguments too."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool that the client runs. arguments: JSON, perhaps cut by the output maximum."""

    name: str
    arguments: str

    @property
    def tokens(self) -> int:
        """Output tokens of the call."""
        return max(1, -(-len(self.arguments) // _PIECE_CHARS))

    def cut(self, tokens: int) -> "Call":
        """As much of the call as these tokens hold."""
        return Call(self.name, self.arguments[: tokens * _PIECE_CHARS])

    def pieces(self) -> list[str]:
        """The arguments, a token at a time."""
        text = self.arguments
        return [text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS)] or [""]


@dataclass(frozen=True, slots=True)
class Made:
    """What the provider produced for one request; token counts are per choice, input in total.

    call: of a tool, which then is the output
    """

    output: int
    reasoning: int
    input: int
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    truncated: bool = False
    usage_fault: str = ""
    tier: str = ""
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes to send as one piece, and the output tokens they carry (hidden ones have no bytes)."""

    data: bytes
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Built:
    """A complete response. A JSON response is a single frame."""

    content_type: str
    frames: tuple[Frame, ...]


def token_text(index: int) -> str:
    """The text of the token at this place: four bytes of ASCII."""
    return _WORDS[index % len(_WORDS)]


def whole_text(count: int) -> str:
    """The text of this many tokens."""
    return "".join(map(token_text, range(count)))


def json_answer(document: Any, tokens: int) -> Built:
    """A JSON body that carries all its tokens at once."""
    return Built("application/json", (Frame(orjson.dumps(document), tokens),))


def sse(document: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = b"event: %b\n" % event.encode() if event else b""
    return b"%bdata: %b\n\n" % (name, orjson.dumps(document))


def broken(usage: Mapping[str, Any], fault: str) -> Any:
    """This usage with its fault: each number wrong in the same way, or None for `null`."""
    if fault == "null":
        return None
    return {name: _broken_value(value, fault) for name, value in usage.items()}


def _broken_value(value: Any, fault: str) -> Any:
    if isinstance(value, dict):
        return {name: _broken_value(part, fault) for name, part in value.items()}
    if not isinstance(value, int):
        return value
    if fault == "negative":
        return -value - 1
    if fault == "string":
        return str(value)
    if fault == "float":
        return value + 0.5
    if fault == "huge":
        return 1 << 62
    return value


def with_usage(
    document: dict[str, Any], usage: Mapping[str, Any], fault: str, name: str = "usage"
) -> dict[str, Any]:
    """The document with its usage, spoilt as the fault says; `missing` leaves it out."""
    if fault == "missing":
        return document
    return {**document, name: broken(usage, fault) if fault else usage}
