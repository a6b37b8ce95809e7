"""Requests for the load generator, as the bytes that go on the wire. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson


@dataclass(frozen=True, slots=True)
class Shot:
    """One request to send.

    data:               head and body
    request_id:         its `x-request-id`, "" when it carries none
    leave_after_bytes:  abort the connection once so much of the answer's body has come; None stays
    frames:             the answer is a stream whose frames are timed
    """

    data: bytes
    request_id: str = ""
    leave_after_bytes: int | None = None
    frames: bool = False


Source = Callable[[int], Shot | None]
"""The n-th request, from 0; None ends the load."""

CHAT_PATH: Final = "/v1/chat/completions"

CLIENT_HEADERS: Final[Mapping[str, str]] = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "content-type": "application/json",
    "user-agent": "OpenAI/Python 2.7.1",
    "x-stainless-arch": "x64",
    "x-stainless-lang": "python",
    "x-stainless-os": "Linux",
    "x-stainless-runtime": "CPython",
}
"""What an official SDK sends in addition to host, length and credential: eleven fields in all."""

FILLER: Final = (
    "The tide went out in the night and left the boats leaning on the mud, and the old man "
    "walked between them with his lamp, reading the names that nobody had painted for years. "
)


def http_request(
    path: str, body: bytes, headers: Mapping[str, str], *, host: str = "localhost"
) -> bytes:
    """A POST on the wire."""
    fields = {"host": host, **headers, "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def chat_body(
    model: str, *, stream: bool, size_bytes: int = 950, max_tokens: int = 1024, line: str = ""
) -> bytes:
    """A chat request of about this size; `line` ends its message (the simulator's controls)."""
    text = FILLER * (size_bytes // len(FILLER) + 1)
    document: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a terse keeper of harbours."},
            {"role": "user", "content": ""},
        ],
        "max_tokens": max_tokens,
        "temperature": 0.7,
    }
    if stream:
        document["stream"] = True
        document["stream_options"] = {"include_usage": True}
    room = max(0, size_bytes - len(orjson.dumps(document)) - len(line) - 2)
    document["messages"][1]["content"] = text[:room] + (f"\n{line}" if line else "")
    return orjson.dumps(document)


def same(shot: Shot) -> Source:
    """A source that repeats the same request."""
    return lambda _n: shot


def in_turn(shots: Sequence[Shot]) -> Source:
    """A source that sends each of these once."""
    return lambda n: shots[n] if n < len(shots) else None
