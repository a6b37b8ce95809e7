"""An answer as a list of steps: what to send when, and where it goes wrong. Pure.

Invariants: the steps of one answer say everything that happens on its connection, so that the
player in `provider.py` knows no fault by name; `once` gives the same bytes in one piece when
nothing delays or spoils them.
"""

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import brotli
import orjson
import zstandard

from loadtest.faults import NO_DELAY, BadControl, Controls
from loadtest.sim_answer import ID_MARK, Built, Made, sse
from loadtest.sim_anthropic import build_count, build_message
from loadtest.sim_gemini import PREFIX as GEMINI
from loadtest.sim_gemini import build_gemini, gemini_error
from loadtest.sim_openai import build_embeddings, build_text
from loadtest.sim_request import ANTHROPIC_KINDS, Ask
from loadtest.sim_responses import build_response
from loadtest.sim_tools import choose

REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    529: b"Overloaded",
}

_ANTHROPIC_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass(frozen=True, slots=True)
class Step:
    """Wait, send, count, and perhaps end there.

    then: "" goes on | rst | fin | hang
    """

    delay_s: float = 0.0
    data: bytes = b""
    tokens: int = 0
    then: str = ""


def produce(ask: Ask, controls: Controls, rng: random.Random) -> Made:
    """Decide how much this answer holds: what was asked to simulate, within what the request allows."""
    given = ask.input_tokens if controls.input is None else controls.input
    cached = min(controls.cached, given)
    written = min(controls.cache_write, given - cached)
    written_1h = min(controls.cache_write_1h, given - cached - written)
    wanted = round(controls.tokens.draw(rng))
    call = None
    if controls.tool and not ask.brings_result:
        call = choose(controls.tool, controls.args, ask.tools)
    if call is not None:
        wanted = call.tokens
    reasoning = controls.reasoning
    if ask.kind in ("embeddings", "count_tokens", f"{GEMINI}_count"):
        wanted = reasoning = 0
    truncated = False
    most = ask.max_output
    if most is not None and not controls.ignore_max and wanted + reasoning > most:
        truncated = True
        reasoning = min(reasoning, most)
        wanted = most - reasoning
    return Made(
        wanted,
        reasoning,
        given,
        cached,
        written,
        written_1h,
        truncated,
        controls.usage,
        controls.tier,
        call.cut(wanted) if call else None,
    )


@lru_cache(maxsize=512)
def build(ask: Ask, made: Made) -> Built:
    """The answer to this request; kept, since load repeats itself."""
    if ask.kind in ("chat", "completions"):
        return build_text(ask, made)
    if ask.kind == "responses":
        return build_response(ask, made)
    if ask.kind == "messages":
        return build_message(ask, made)
    if ask.kind.startswith(GEMINI):
        return build_gemini(ask, made)
    return build_embeddings(ask, made) if ask.kind == "embeddings" else build_count(made)


def head(
    status: int,
    content_type: str,
    length: int | None,
    *,
    anthropic: bool = False,
    extra: bytes = b"",
    close: bool = False,
) -> bytes:
    """Status line and header fields; length None means chunked. The id's mark is still in it."""
    name = b"request-id" if anthropic else b"x-request-id"
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%b: req_%b\r\n"
        b"x-ratelimit-remaining-requests: 9999\r\n%b%b%b\r\n\r\n"
    ) % (
        status,
        REASONS.get(status, b"Simulated"),
        content_type.encode(),
        name,
        ID_MARK.encode(),
        extra,
        b"connection: close\r\n" if close else b"",
        framing,
    )


def error_body(kind: str, status: int, message: str) -> bytes:
    """An error as this endpoint's provider writes it."""
    if kind in ANTHROPIC_KINDS:
        error = {"type": _ANTHROPIC_ERRORS.get(status, "api_error"), "message": message}
        return orjson.dumps({"type": "error", "error": error, "request_id": "req_" + ID_MARK})
    if kind.startswith(GEMINI):
        return orjson.dumps(gemini_error(status, message))
    word = "server_error" if status >= 500 else "invalid_request_error"
    return orjson.dumps({"error": {"message": message, "type": word, "param": None, "code": None}})


def error_answer(kind: str, status: int, message: str) -> bytes:
    """A complete error response, head and body."""
    body = error_body(kind, status, message)
    return head(status, "application/json", len(body), anthropic=kind in ANTHROPIC_KINDS) + body


_END: Final = b"0\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def once(ask: Ask, built: Built) -> bytes:
    """The complete response in one piece, one chunk per frame; it still contains the id's placeholder."""
    anthropic = ask.kind in ANTHROPIC_KINDS
    if not ask.stream:
        body = built.frames[0].data
        return head(200, built.content_type, len(body), anthropic=anthropic) + body
    chunks = b"".join(_chunk(frame.data) for frame in built.frames if frame.data)
    return head(200, built.content_type, None, anthropic=anthropic) + chunks + _END


def steps(
    ask: Ask, built: Built, controls: Controls, rng: random.Random, number: bytes
) -> Iterator[Step]:
    """The answer piece by piece, with its delays and faults.

    number: twelve digits, for the places the id's mark holds
    Raises BadControl when the controls do not fit the request.
    """
    if controls.error_at is not None and not ask.stream:
        raise BadControl("error_at needs a stream")
    script = _Script(ask, controls, rng, number)
    if controls.status:
        plain = script.error(controls.status)
    else:
        plain = script.stream(built) if ask.stream else script.body(built)
    return _dripped(plain, controls) if controls.drip else plain


class _Script:
    def __init__(self, ask: Ask, controls: Controls, rng: random.Random, number: bytes) -> None:
        self._ask = ask
        self._controls = controls
        self._rng = rng
        self._number = number

    def _head(
        self, status: int, content_type: str, length: int | None, extra: bytes = b""
    ) -> bytes:
        if self._controls.coding and status == 200:
            extra += b"content-encoding: %b\r\n" % self._controls.coding.encode()
        anthropic = self._ask.kind in ANTHROPIC_KINDS
        close = self._controls.close
        start = head(status, content_type, length, anthropic=anthropic, extra=extra, close=close)
        return self._numbered(start)

    def _numbered(self, data: bytes) -> bytes:
        return data.replace(ID_MARK.encode(), self._number)

    def _stop(self, place: str) -> Iterator[Step]:
        if self._controls.hang == place:
            yield Step(then="hang")
        if self._controls.rst == place:
            yield Step(then="rst")

    def error(self, status: int) -> Iterator[Step]:
        """An error answer instead of the one asked for."""
        controls = self._controls
        body = error_body(self._ask.kind, status, f"simulated {status}")
        body = self._numbered(body) if controls.body is None else controls.body.encode()
        extra = b""
        if controls.retry_after is not None:
            extra = b"retry-after: %d\r\n" % controls.retry_after
        yield from self._stop("before_head")
        start = self._head(status, "application/json", len(body), extra)
        then = "fin" if controls.close or controls.drop else ""
        yield Step(controls.ttft_ms.draw(self._rng) / 1e3, start + body, then=then)

    def body(self, built: Built) -> Iterator[Step]:
        """A JSON answer."""
        controls = self._controls
        frame = built.frames[0]
        wait_s = controls.ttft_ms.draw(self._rng) / 1e3
        if controls.itl_ms != NO_DELAY:
            wait_s += sum(controls.itl_ms.draw(self._rng) for _ in range(frame.tokens)) / 1e3
        data = _encoder(controls.coding)(self._numbered(frame.data), True)
        length = len(data) + {"": 0, "short": -min(10, len(data)), "long": 10}[controls.length]
        yield from self._stop("before_head")
        start = self._head(200, built.content_type, length)
        if controls.cut is not None:
            yield Step(wait_s, start + data[: controls.cut], then=controls.cut_how)
        elif "after_head" in (controls.hang, controls.rst):
            yield Step(wait_s, start)
            yield from self._stop("after_head")
        else:
            ends = controls.close or controls.drop or controls.length
            yield Step(wait_s, start + data, frame.tokens, "fin" if ends else "")

    def stream(self, built: Built) -> Iterator[Step]:
        """A response as server-sent events, one chunk per event."""
        controls = self._controls
        yield from self._stop("before_head")
        encode = _encoder(controls.coding)
        yield Step(
            controls.ttft_ms.draw(self._rng) / 1e3, self._head(200, built.content_type, None)
        )
        yield from self._stop("after_head")
        sent = 0
        for frame in built.frames:
            delay_s = 0.0
            if frame.tokens:
                if sent == controls.cut:
                    break
                if sent == controls.error_at:
                    yield Step(data=_chunk(encode(_error_frame(self._ask), True)) + _END)
                    return
                if sent:
                    delay_s = controls.itl_ms.draw(self._rng) / 1e3
                sent += 1
            data = _chunk(encode(self._numbered(frame.data), False)) if frame.data else b""
            yield Step(delay_s, data, frame.tokens)
        if controls.cut is not None:
            yield Step(then=controls.cut_how)
            return
        rest = encode(b"", True)
        then = "fin" if controls.close or controls.drop else ""
        yield Step(data=(_chunk(rest) if rest else b"") + _END, then=then)


def _error_frame(ask: Ask) -> bytes:
    message = "simulated failure in the stream"
    if ask.kind == "messages":
        error = {"type": "overloaded_error", "message": message}
        return sse({"type": "error", "error": error}, "error")
    if ask.kind == "responses":
        event = {"type": "error", "code": "server_error", "message": message, "param": None}
        return sse({**event, "sequence_number": 0}, "error")
    if ask.kind.startswith(GEMINI):
        return sse(gemini_error(503, message))
    return sse({"error": {"message": message, "type": "server_error", "code": None}})


def _dripped(plain: Iterator[Step], controls: Controls) -> Iterator[Step]:
    for step in plain:
        pieces = range(0, len(step.data), controls.drip)
        if not pieces:
            yield step
        for start in pieces:
            last = start + controls.drip >= len(step.data)
            yield Step(
                step.delay_s if start == 0 else controls.drip_ms / 1e3,
                step.data[start : start + controls.drip],
                step.tokens if last else 0,
                step.then if last else "",
            )


def _encoder(coding: str) -> Callable[[bytes, bool], bytes]:
    """A function (data, last) → coded bytes, flushed at each call so that frames stay frames."""
    if coding == "gzip":
        gzip = zlib.compressobj(wbits=31)
        return lambda data, last: (
            gzip.compress(data) + gzip.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        )
    if coding == "br":
        br: Any = brotli.Compressor(quality=3)
        return lambda data, last: br.process(data) + (br.finish() if last else br.flush())
    if coding == "zstd":
        zstd = zstandard.ZstdCompressor().compressobj()
        return lambda data, last: (
            zstd.compress(data)
            + zstd.flush(
                zstandard.COMPRESSOBJ_FLUSH_FINISH if last else zstandard.COMPRESSOBJ_FLUSH_BLOCK
            )
        )
    return lambda data, _last: data
