"""Instructions for the simulated provider: amounts, delays and faults of one answer.

Invariants: every control has one name, the same in each of the four places it can stand, later ones
winning: the command line (`--sim`), the body's `user` (without a gate, which prefixes it) or
`metadata.sim`, the last line `sim: tokens=5 cut=3` of the last message (passes through any gate), the
header `x-sim` (text or JSON). An unknown name or value raises: a misspelt fault must not pass for a good answer.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import orjson


class BadControl(Exception):
    """A control that the simulator does not know; the message names it."""


@dataclass(frozen=True, slots=True)
class Dist:
    """A number, or a distribution to draw it from.

    Written `20`, `uniform:LOW:HIGH`, `exp:MEAN` or `lognormal:MEDIAN:SIGMA`.
    """

    kind: str
    a: float
    b: float = 0.0

    def draw(self, rng: random.Random) -> float:
        """One value, never below zero."""
        if self.kind == "fixed":
            return self.a
        if self.kind == "uniform":
            return rng.uniform(self.a, self.b)
        if self.kind == "exp":
            return rng.expovariate(1.0 / self.a)
        return self.a * rng.lognormvariate(0.0, self.b)

    @property
    def fixed(self) -> bool:
        """Whether every draw is the same."""
        return self.kind == "fixed"


_DIST_ARGUMENTS: Final = {"uniform": 2, "exp": 1, "lognormal": 2}


def parse_dist(text: str) -> Dist:
    """Read a distribution. Raises ValueError."""
    kind, *arguments = text.split(":")
    if not arguments:
        value = float(kind)
        if not 0 <= value < 1e9:
            raise ValueError(text)
        return Dist("fixed", value)
    if _DIST_ARGUMENTS.get(kind) != len(arguments):
        raise ValueError(text)
    numbers = [float(argument) for argument in arguments]
    if min(numbers) < 0 or (kind == "exp" and numbers[0] == 0):
        raise ValueError(text)
    return Dist(kind, *numbers)


NO_DELAY: Final = Dist("fixed", 0)


@dataclass(frozen=True, slots=True)
class Controls:
    """What one answer shall be like.

    tokens:       visible output tokens of each choice; one token is one SSE frame
    reasoning:    hidden output tokens before the first visible one (Anthropic: shown as thinking)
    input:        input tokens to report; None counts them (a quarter of the text's bytes)
    cached, cache_write, cache_write_1h: the parts of the input that a cache served or took
    tier:         the service tier that the answer names
    tool, args:   call this tool, `*` for the first, with these arguments (JSON without spaces), if the
                  request offers it and does not bring a result already (`sim_tools.py`)
    ttft_ms, itl_ms: delay before the first token, and before each further one
    ignore_max:   produce `tokens` although the request allows fewer
    status, body, retry_after: answer this error instead, with this body or the provider's own shape
    hang:         before_head | after_head: never go on
    rst:          before_head | after_head: reset the connection there
    cut:          break off after this many token frames (a JSON answer: bytes of the body)
    cut_how:      rst | fin
    error_at:     send the provider's error event after this many token frames, and end
    usage:        missing | null | negative | string | float | huge: what is wrong with the usage
    length:       short | long: a content-length below or above what is sent (JSON answers)
    coding:       gzip | br | zstd: send the body so coded whatever the request accepts
    drip, drip_ms: send this many bytes at a time, with this pause between
    close:        say `connection: close` and close after the answer
    drop:         close after the answer without having said so, as llama.cpp does after a stream
    stale:        answer well, then reset the connection when the next request has arrived on it
    rate:         the share of requests that the faults above apply to
    tag:          noted in the ground truth's row
    """

    tokens: Dist = Dist("fixed", 16)
    reasoning: int = 0
    input: int | None = None
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    tier: str = ""
    tool: str = ""
    args: str = "{}"
    ttft_ms: Dist = NO_DELAY
    itl_ms: Dist = NO_DELAY
    ignore_max: bool = False
    status: int | None = None
    body: str | None = None
    retry_after: int | None = None
    hang: str = ""
    rst: str = ""
    cut: int | None = None
    cut_how: str = "rst"
    error_at: int | None = None
    usage: str = ""
    length: str = ""
    coding: str = ""
    drip: int = 0
    drip_ms: float = 0.0
    close: bool = False
    drop: bool = False
    stale: bool = False
    rate: float = 1.0
    tag: str = ""

    def healthy(self) -> "Controls":
        """The same amounts and delays without any fault: what `rate` spares."""
        return replace(self, **_NO_FAULTS)


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def _flag(text: str) -> bool:
    return {"1": True, "true": True, "True": True, "0": False, "false": False, "False": False}[text]


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return read


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def _json_object(text: str) -> str:
    if not isinstance(orjson.loads(text), dict):
        raise ValueError(text)
    return text


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "tokens": parse_dist,
    "reasoning": _whole,
    "input": _whole,
    "cached": _whole,
    "cache_write": _whole,
    "cache_write_1h": _whole,
    "tier": str,
    "tool": str,
    "args": _json_object,
    "ttft_ms": parse_dist,
    "itl_ms": parse_dist,
    "ignore_max": _flag,
    "status": _whole,
    "body": str,
    "retry_after": _whole,
    "hang": _one_of("", "before_head", "after_head"),
    "rst": _one_of("", "before_head", "after_head"),
    "cut": _whole,
    "cut_how": _one_of("rst", "fin"),
    "error_at": _whole,
    "usage": _one_of("", "missing", "null", "negative", "string", "float", "huge"),
    "length": _one_of("", "short", "long"),
    "coding": _one_of("", "gzip", "br", "zstd"),
    "drip": _whole,
    "drip_ms": float,
    "close": _flag,
    "drop": _flag,
    "stale": _flag,
    "rate": _share,
    "tag": str,
}

_FAULTS: Final = (
    *("status", "body", "retry_after", "hang", "rst", "cut", "cut_how", "error_at"),
    *("usage", "length", "coding", "drip", "drip_ms", "close", "drop", "stale"),
)
_NO_FAULTS: Final[Mapping[str, Any]] = {
    f.name: f.default for f in fields(Controls) if f.name in _FAULTS
}


def apply(controls: Controls, pairs: Iterable[tuple[str, Any]]) -> Controls:
    """Controls with these named values set. Raises BadControl."""
    changes: dict[str, Any] = {}
    for name, value in pairs:
        reader = _READERS.get(name)
        if reader is None:
            raise BadControl(f"the simulator knows no control {name!r}")
        try:
            changes[name] = reader(str(value))
        except (ValueError, KeyError):
            raise BadControl(f"the simulator cannot read {name}={value!r}") from None
    return replace(controls, **changes) if changes else controls


def parse_controls(controls: Controls, text: str) -> Controls:
    """Read a JSON object or `name=value …` on top of these controls. Raises BadControl."""
    if text.lstrip().startswith("{"):
        try:
            values = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise BadControl(f"the simulator's controls are not JSON: {error}") from None
        return apply(controls, values.items())
    pairs = []
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals:
            raise BadControl(f"the simulator expects name=value, not {word!r}")
        pairs.append((name, value))
    return apply(controls, pairs)


PREFIX: Final = "sim:"


def controls_of_document(
    controls: Controls, document: Mapping[str, Any], last_text: str
) -> Controls:
    """The controls that a request's body carries, on top of these. Raises BadControl.

    document:   the parsed body
    last_text:  text of its last message, prompt or input
    """
    user = document.get("user")
    if isinstance(user, str) and user.startswith(PREFIX):
        controls = parse_controls(controls, user[len(PREFIX) :])
    metadata = document.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("sim"), str):
        controls = parse_controls(controls, metadata["sim"])
    last_line = last_text.rstrip().rpartition("\n")[2]
    if last_line.startswith(PREFIX):
        controls = parse_controls(controls, last_line[len(PREFIX) :])
    return controls
