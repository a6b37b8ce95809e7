"""What a request asks of the simulated provider, for every endpoint it offers. Pure.

Invariants: input tokens are counted the same way everywhere, a quarter of the text's UTF-8 bytes
rounded up, at least one: never more than a token per byte, so a bound made from bytes holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loadtest.sim_tools import brings_result, offered_tools

KIND_OF_PATH: Final[Mapping[str, str]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
}
"""The simulated endpoints; each is answered in its provider's own shape."""

ANTHROPIC_KINDS: Final = frozenset({"messages", "count_tokens"})


class BadAsk(Exception):
    """A body that the provider would answer with 400; the message says why."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as the simulated provider reads it.

    max_output:  most output tokens of each choice, reasoning included; None when unlimited
    inputs:      how many prompts or texts were given in one request
    tools:       names of the functions that are offered
    brings_result: of a call, which is to be answered with text
    """

    kind: str
    model: str
    stream: bool
    input_tokens: int
    max_output: int | None
    choices: int = 1
    inputs: int = 1
    include_usage: bool = False
    continuous_usage: bool = False
    dimensions: int = 8
    base64: bool = False
    tools: tuple[str, ...] = ()
    brings_result: bool = False


def _texts(value: Any) -> Iterator[str]:
    """Every text in a message list, prompt or content block, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, dict):
        for name in ("text", "content", "input", "arguments"):
            if name in value:
                yield from _texts(value[name])


def _token_ids(value: Any) -> int:
    """How many tokens are given as bare numbers, as completions and embeddings allow."""
    if isinstance(value, list):
        return sum(1 if isinstance(part, int) else _token_ids(part) for part in value)
    return 0


def _prompt(kind: str, document: Mapping[str, Any]) -> list[Any]:
    if kind in ("chat", "messages", "count_tokens"):
        messages = document.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadAsk("messages: at least one message is required")
        return [document.get("system"), messages]
    name = "prompt" if kind == "completions" else "input"
    if name not in document:
        raise BadAsk(f"{name}: field required")
    return [document.get("instructions"), document[name]]


def _max_output(document: Mapping[str, Any]) -> int | None:
    limits = [
        document[name]
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")
        if document.get(name) is not None
    ]
    for limit in limits:
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise BadAsk("max_tokens: must be a positive integer")
    return max(limits, default=None)


def read_ask(kind: str, document: Mapping[str, Any]) -> tuple[Ask, str]:
    """What this body asks for, and the text of its last message. Raises BadAsk."""
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise BadAsk("model: field required")
    if kind == "messages" and document.get("max_tokens") is None:
        raise BadAsk("max_tokens: field required")
    texts = list(_texts(_prompt(kind, document)))
    length_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    prompts = document.get("prompt" if kind == "completions" else "input")
    inputs = 1
    if kind in ("completions", "embeddings") and isinstance(prompts, list) and prompts:
        inputs = 1 if isinstance(prompts[0], int) else len(prompts)
    bare_ids = _token_ids(prompts) if kind in ("completions", "embeddings") else 0
    options = document.get("stream_options") or {}
    choices = document.get("n") or 1
    if kind == "completions":
        choices = max(choices, document.get("best_of") or 1) * inputs
    ask = Ask(
        kind=kind,
        model=model,
        stream=document.get("stream") is True and kind not in ("embeddings", "count_tokens"),
        input_tokens=max(1, -(-length_bytes // 4) + bare_ids),
        max_output=_max_output(document),
        choices=choices,
        inputs=inputs,
        include_usage=options.get("include_usage") is True,
        continuous_usage=options.get("continuous_usage_stats") is True,
        dimensions=document.get("dimensions") or 8,
        base64=document.get("encoding_format") == "base64",
        tools=offered_tools(document),
        brings_result=brings_result(document),
    )
    return ask, texts[-1] if texts else ""
