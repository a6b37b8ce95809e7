"""What one answer costs: a dialect, a request, the bytes of an answer and how they ended, without
sockets and ledger. The charge is worked out here from the usage that would be settled, in integers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import orjson

from gateway.dialects import DIALECTS
from gateway.dialects.base import Answered, Asked, ReadOptions, form_of, may_be_events
from gateway.domain.pricing import compile_prices
from gateway.domain.usage import Usage
from gateway.flow.catalog import Model
from gateway.flow.estimate import Estimate, estimate_request
from gateway.flow.reservation.ended import Ended, Outcome
from gateway.flow.reservation.outcome import decide
from gateway.flow.reservation.progress import Stage
from gateway.settings.policy import PRESETS, PolicySection, Preset

PRICES = {"input": 3_000_000, "cache_read": 300_000, "cache_write": 3_750_000, "output": 15_000_000}
"""Pico-credits a token: 3.00, 0.30, 3.75 and 15.00 credits a million."""
CREDIT = 1_000_000_000

USAGE = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
DONE = b"data: [DONE]"

PATHS = {
    "openai_chat": "/v1/chat/completions",
    "openai_completions": "/v1/completions",
    "openai_embeddings": "/v1/embeddings",
    "openai_responses": "/v1/responses",
    "openai_images": "/v1/images/generations",
    "anthropic_messages": "/v1/messages",
    "gemini_generate": "/v1beta/models/m:generateContent",
}

How = Literal["whole", "left", "killed", "broken", "cut"]
_STAGES: dict[How, Stage] = {
    "whole": "complete",
    "left": "left",
    "killed": "killed",
    "broken": "sent",
    "cut": "cut",
}


@dataclass(frozen=True)
class Case:
    """A request and how it is priced. body is completed by the least that its dialect needs."""

    dialect: str = "openai_chat"
    body: dict[str, Any] = field(default_factory=dict)
    stream: bool = False
    prices: dict[str, int] = field(default_factory=lambda: dict(PRICES))
    preset: Preset = "balanced"
    policy: dict[str, Any] = field(default_factory=dict)
    tools: frozenset[str] = frozenset()
    max_output_tokens: int = 8192
    label: str = ""


@dataclass(frozen=True)
class Charge:
    """What was decided, and what it costs."""

    outcome: Outcome
    amount_nano: int
    held_nano: int

    @property
    def flags(self) -> set[str]:
        return set(self.outcome.flags)


def asked_of(case: Case) -> Asked:
    """The request as it came."""
    prompt = "hello"
    body: dict[str, Any] = {"model": "m"}
    path, query = PATHS.get(case.dialect, "/v1/x"), ""
    match case.dialect:
        case "openai_chat":
            body["messages"] = [{"role": "user", "content": prompt}]
        case "openai_completions" | "openai_images":
            body["prompt"] = prompt
        case "openai_embeddings" | "openai_responses":
            body["input"] = prompt
        case "anthropic_messages":
            body["messages"] = [{"role": "user", "content": prompt}]
            body["max_tokens"] = case.max_output_tokens
        case "gemini_generate":
            body = {"contents": [{"parts": [{"text": prompt}]}]}
    if case.dialect == "gemini_generate":
        if case.stream:
            path = path.replace("generateContent", "streamGenerateContent")
            query = "alt=json" if case.label == "array" else "alt=sse"
    elif case.stream:
        body["stream"] = True
    return Asked("POST", path, query, (), orjson.dumps({**body, **case.body}))


def charge(case: Case, pieces: Sequence[bytes], how: How = "whole", status: int = 200) -> Charge:
    """Feed an answer, end it, and work out the charge."""
    knobs = PolicySection(**case.policy).resolve(PRESETS[case.preset]).flow()
    model: Any = Model(
        name="m",
        upstream=None,  # type: ignore[arg-type]
        forwarding=None,  # type: ignore[arg-type]
        forward=None,  # type: ignore[arg-type]
        prices=compile_prices(case.prices),
        max_output_tokens=case.max_output_tokens,
        context_tokens=None,
        hidden_output=False,
    )
    dialect = DIALECTS[case.dialect]
    facts = dialect.read(asked_of(case), ReadOptions(priced_tools=case.tools))
    bound = estimate_request(facts, model, knobs)
    labels = {"array": "application/json", "": ""}
    label = labels.get(case.label, case.label) or (
        "text/event-stream" if form_of(b"".join(pieces[:9])) == "events" else "application/json"
    )
    start, rest = b"", list(pieces)
    if not label.startswith("text/event-stream"):
        while rest and may_be_events(start):
            start += rest.pop(0)
    streaming = status < 400 and dialect.streams(facts, label, start)
    fields = [(b"content-type", label.encode())]
    meter = dialect.meter_answer(facts, Answered(status, fields, 0.0, start), streaming=streaming)
    for piece in [start, *rest]:
        meter.feed(piece)
    meter.finish(broken=how != "whole")
    ended = Ended(
        stage=_STAGES[how],
        status=status,
        streaming=streaming,
        facts=meter.facts,
        estimate=bound,
        model=model,
        policy=knobs,
        passed_output=float("inf"),
        learned_output=lambda: None,
    )
    outcome = decide(ended)
    return Charge(outcome, rate(case, outcome.usage), held_nano(case, bound, model))


def rate(case: Case, usage: Usage) -> int:
    """The charge of this usage, rounded up once."""
    prices = compile_prices(case.prices)
    quantities = prices.unpack_vector(prices.vector(usage))
    pico = sum(case.prices[unit] * quantity for unit, quantity in quantities.items())
    return -(-pico // 1000)


def held_nano(case: Case, bound: Estimate, model: Model) -> int:
    """What the hold of this request costs."""
    return rate(case, bound.held_usage(model))


def sse(*events: Any, end: bytes = b"\n\n") -> bytes:
    """Events of a stream; bytes stand for themselves, everything else is JSON."""
    frames = [e if isinstance(e, bytes) else b"data: " + orjson.dumps(e) for e in events]
    return b"".join(frame + end for frame in frames)


def chunk(text: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a chat completion."""
    choice: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": None}
    if text is not None:
        choice["delta"]["content"] = text
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [choice], **more}


def cut_up(data: bytes, size: int) -> list[bytes]:
    """Bytes in pieces of this size."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def chat(text: str | None = "words and words", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "model": "m", "choices": [choice], **more}


def gemini(
    *parts: dict[str, Any], usage: Any = None, reason: str | None = "STOP"
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts)}, "finishReason": reason}
    document: dict[str, Any] = {"candidates": [candidate]}
    return document if usage is None else {**document, "usageMetadata": usage}


def expect_cost(
    case: Case, answer: Any, price: str, how: How = "whole", status: int = 200
) -> Charge:
    """Charge an answer in one piece and in several; all must cost this."""
    data = answer if isinstance(answer, bytes) else orjson.dumps(answer)
    sizes = [len(data) or 1, *((1, 7, 100) if len(data) < 20_000 else (65_536,))]
    found = [charge(case, cut_up(data, size), how, status) for size in sizes]
    assert {str(each.outcome) for each in found} == {str(found[0].outcome)}
    assert Decimal(found[0].amount_nano) / CREDIT == Decimal(price)
    return found[0]
