"""Anthropic messages and count_tokens.

Request: docs.anthropic.com/en/api/messages. Anthropic refuses fields it does not know, so here
the top-level fields are an allow-list: what a new one does to the price, nobody knows yet.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.dialects.base import (
    BadRequest,
    Dialect,
    ForwardOptions,
    Meter,
    ReadOptions,
    Refusal,
    RefusalKind,
    RequestFacts,
)
from gateway.dialects.bounds import (
    PROVIDER_TOOL_TOKENS,
    TOOLS_PREAMBLE_TOKENS,
    Prompt,
    text_tokens,
)
from gateway.dialects.fields import (
    pin_service_tier,
    read_count,
    read_flag,
    read_list,
    read_model,
    read_output_bound,
    read_service_tier,
    refuse_fields,
    unknown_field,
)
from gateway.dialects.generic import NothingMeter
from gateway.dialects.messages_reader import MessagesReader
from gateway.dialects.reading.meters import DocumentMeter, EventMeter
from gateway.dialects.strict_json import parse_object, require_lower_case
from gateway.domain.usage import DEFAULT_TIER

MAX_TOOL_USES: Final = 1024

FREE_TOOLS: Final = frozenset({"bash", "text_editor", "computer", "memory"})
"""Families of tools that the caller runs itself and the provider describes."""

_DATE: Final = re.compile(r"_\d{8}$")

_COUNTED: Final = frozenset({"messages", "system", "tools"})
_UNPROMPTED: Final = frozenset(
    {
        "model",
        "stream",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "metadata",
        "service_tier",
        "cache_control",
    }
)
_RENDERED: Final = frozenset({"thinking", "tool_choice", "output_config", "output_format"})
_STANDARD: Final[Mapping[str, tuple[str, ...]]] = {
    "inference_geo": ("global",),
    "speed": ("standard",),
}
"""Fields that may say only what is priced: elsewhere and faster cost more."""
_KNOWN: Final = _COUNTED | _UNPROMPTED | _RENDERED


class AnthropicMessages(Dialect):
    """`POST /v1/messages`."""

    name = "anthropic_messages"

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""
        document = parse_object(body)
        model = read_model(document)
        _check_fields(document, options)
        prompt = Prompt(options)
        _read_prompt(document, prompt)
        calls = _read_tools(document, prompt, options)
        output_bound = read_output_bound(document, ("max_tokens",))
        input_bound = prompt.tokens
        if calls:
            # Each call's result is read, and with it all that came before, once more.
            each = options.reference_tokens
            input_bound = (calls + 1) * (input_bound + calls * each + (output_bound or 0))
        return RequestFacts(
            model=model,
            stream=read_flag(document, "stream"),
            input_bound=input_bound,
            output_bound=output_bound,
            audio=prompt.audio,
            images=prompt.images,
            tool_calls=calls,
            service_tier=read_service_tier(document),
            document=document,
            input_own=prompt.own,
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse with the upstream's model name and a maximum; streams report usage anyway."""
        document = {**facts.document, "model": options.upstream_model}
        if options.service_tier == DEFAULT_TIER:
            pin_service_tier(document, "standard_only")
        if options.fills(facts.output_bound):
            document["max_tokens"] = options.max_output
        return orjson.dumps(document)

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:  # noqa: ARG002 - the same for all
        """A meter for the answer."""
        return EventMeter(MessagesReader()) if streaming else DocumentMeter(MessagesReader())

    def refusal(self, refusal: Refusal) -> tuple[int, bytes]:
        """Status and JSON body of a refusal."""
        return refusal.status or _SHAPES[refusal.kind][0], orjson.dumps(_error_of(refusal))

    def error_frame(self, refusal: Refusal) -> bytes:
        """An `error` event, which ends a stream of messages."""
        return b"event: error\ndata: " + orjson.dumps(_error_of(refusal)) + b"\n\n"


class AnthropicCountTokens(AnthropicMessages):
    """`POST /v1/messages/count_tokens`: free, but read as strictly; nothing is generated."""

    name = "anthropic_count_tokens"

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Facts of a request that costs nothing. Raises BadRequest."""
        document = parse_object(body)
        model = read_model(document)
        _check_fields(document, options)
        _read_prompt(document, Prompt(options))
        return RequestFacts(
            model=model,
            stream=False,
            input_bound=0,
            output_bound=0,
            choices=0,
            document=document,
        )

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:  # noqa: ARG002 - free
        """A meter that finds nothing: the tokens it tells were counted, not used."""
        return NothingMeter()


def _check_fields(document: dict[str, Any], options: ReadOptions) -> None:
    refuse_fields(document, options)
    for name, value in document.items():
        if name in _KNOWN or value is None or value is False:
            continue
        if name in _STANDARD:
            if value not in _STANDARD[name]:
                raise BadRequest(f"This `{name}` has a price of its own; leave it out.", param=name)
        elif name != "container" or not options.allow_stateful_ids:
            raise unknown_field(name)
    if document.get("service_tier") not in (None, "auto", "standard_only"):
        raise BadRequest('`service_tier` must be "auto" or "standard_only".', param="service_tier")


def _read_prompt(document: dict[str, Any], prompt: Prompt) -> None:
    overhead = prompt.options.template_overhead_tokens
    system = document.get("system")
    if system is not None:
        prompt.tokens += overhead
        prompt.add_content(system, "system")
    messages = document.get("messages")
    if type(messages) is not list or not messages:
        raise BadRequest("`messages` must be a list with at least one message.", param="messages")
    prompt.tokens += overhead * len(messages)
    for at, message in enumerate(messages):
        if type(message) is not dict:
            raise BadRequest("A message must be an object.", param=f"messages[{at}]")
        require_lower_case(message, f"messages[{at}]")
        content = message.get("content")
        if type(content) is str:
            prompt.tokens += text_tokens(content)
        else:
            prompt.add_content(content, f"messages[{at}].content")
        role = message.get("role")
        if type(role) is not str:
            raise BadRequest("`role` must be a text.", param=f"messages[{at}].role")
        prompt.tokens += len(role)
        if len(message) > 2:
            for name, value in message.items():
                if name not in ("role", "content"):
                    prompt.add_structure(value)
    for name in _RENDERED:
        if document.get(name) is not None:
            prompt.add_structure(document[name])


def _read_tools(document: dict[str, Any], prompt: Prompt, options: ReadOptions) -> int:
    """Check the tools; return how many hosted calls are allowed. Raises BadRequest."""
    tools = read_list(document, "tools")
    calls = 0
    for at, tool in enumerate(tools):
        where = f"tools[{at}]"
        if type(tool) is not dict:
            raise BadRequest("A tool must be an object.", param=where)
        require_lower_case(tool, where)
        prompt.add_structure(tool)
        kind = tool.get("type")
        if kind is None or kind == "custom":
            continue
        family = _DATE.sub("", kind) if type(kind) is str else ""
        prompt.add_room(PROVIDER_TOOL_TOKENS)
        if family in FREE_TOOLS:
            continue
        if not {kind, family} & options.priced_tools:
            raise BadRequest(
                f"Tools of the type {kind!r} are run by the provider, at a price that is not known"
                " here; leave them out.",
                param=f"{where}.type",
                code="unsupported_tool",
            )
        uses = read_count(tool, "max_uses", MAX_TOOL_USES)
        if uses is None:
            raise BadRequest(
                "Hosted tools bill by the call; say how many at most with `max_uses`.",
                param=f"{where}.max_uses",
            )
        calls += uses
    if tools:
        prompt.add_room(TOOLS_PREAMBLE_TOKENS)
    return calls


_SHAPES: Final[Mapping[RefusalKind, tuple[int, str]]] = {
    "no_credit": (402, "billing_error"),
    "account_frozen": (402, "billing_error"),
    "credit_held": (429, "rate_limit_error"),
    "rate_limited": (429, "rate_limit_error"),
    "bad_key": (401, "authentication_error"),
    "forbidden_model": (403, "not_found_error"),
    "unknown_model": (404, "not_found_error"),
    "not_found": (404, "not_found_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "bad_request": (400, "invalid_request_error"),
    "conflict": (409, "invalid_request_error"),
    "already_done": (409, "invalid_request_error"),
    "timeout": (408, "invalid_request_error"),
    "too_large": (413, "request_too_large"),
    "unsupported_media": (415, "invalid_request_error"),
    "unprocessable": (422, "invalid_request_error"),
    "ledger_unavailable": (503, "overloaded_error"),
    "shutting_down": (503, "overloaded_error"),
    "upstream_unreachable": (502, "api_error"),
    "upstream_timeout": (504, "timeout_error"),
    "internal": (500, "api_error"),
}
"""Kind → status, `type` (docs.anthropic.com/en/api/errors)."""


def _error_of(refusal: Refusal) -> dict[str, Any]:
    error: dict[str, Any] = {"type": _SHAPES[refusal.kind][1], "message": refusal.message}
    if refusal.detail:
        error["metadata"] = dict(refusal.detail)
    return {"type": "error", "error": error, "request_id": refusal.request_id}
