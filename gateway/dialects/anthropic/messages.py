"""Anthropic messages and count_tokens.

Request: docs.anthropic.com/en/api/messages. Anthropic refuses fields it does not know, so here
the top-level fields are an allow-list: the effect of a new one on the price is unknown.
"""

from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

import orjson

from gateway.dialects.anthropic.complete_message import read_message
from gateway.dialects.anthropic.reader import MessagesReader
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
    TOOLS_PREAMBLE_TOKENS,
    Prompt,
    refuse_stored,
    text_tokens,
)
from gateway.dialects.fields import (
    check_fields,
    pin_service_tier,
    read_count,
    read_flag,
    read_list,
    read_model,
    read_output_bound,
    read_service_tier,
    scoped,
    unknown_field,
)
from gateway.dialects.generic import NothingMeter
from gateway.dialects.reading.meters import DocumentMeter, EventMeter
from gateway.dialects.reading.strict_json import parse_object, require_lower_case
from gateway.dialects.tools import Families, default_calls, judge_tools, named_tools
from gateway.domain.usage import DEFAULT_TIER

MAX_TOOL_USES: Final = 1024

TOOLS: Final = Families(
    own=frozenset({"custom"}),
    described=frozenset(
        {"bash", "text_editor", "computer", "memory", "computer_toolset", "browser_toolset"}
    ),
    untyped=True,
)

_CLEARING: Final = ("clear_tool_uses_", "clear_thinking_")
"""How edits of the context begin that only make it shorter."""

_USER_ID_CHARS: Final = 256
"""The most of `metadata.user_id` that Anthropic takes."""

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
        "context_management",
        "diagnostics",
    }
)
_RENDERED: Final = frozenset({"thinking", "tool_choice", "output_config", "output_format"})
_STANDARD: Final[Mapping[str, tuple[str, ...]]] = {
    "inference_geo": ("global",),
    "speed": ("standard",),
}
"""Fields that may say only what is priced: elsewhere and faster cost more."""
_KNOWN: Final = _COUNTED | _UNPROMPTED | _RENDERED | frozenset({*_STANDARD, "container"})
_OWN: Final = frozenset({"context_management", "speed"})
"""Fields that are checked here by what they say."""


class AnthropicMessages(Dialect):
    """`POST /v1/messages`."""

    name = "anthropic_messages"

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""
        document = parse_object(body, options.max_json_values)
        model = read_model(document)
        _check_fields(document, options)
        prompt = Prompt(options)
        _read_prompt(document, prompt)
        calls = _read_tools(document, prompt)
        output_bound = read_output_bound(document, ("max_tokens",))
        input_bound = prompt.tokens
        if calls:
            # The model reads everything so far again with the result of each call.
            each = options.result_tokens
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
            unmeasured=prompt.unmeasured,
            readings=1 + calls,
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse with the upstream's model name and a maximum; streams report usage anyway."""
        document = {**facts.document, "model": options.upstream_model}
        _scope_user(document, options.customer_scope)
        if options.service_tier == DEFAULT_TIER:
            pin_service_tier(document, "standard_only")
        if options.fills(facts.output_bound):
            document["max_tokens"] = options.max_output
        return orjson.dumps(document)

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:  # noqa: ARG002 - the same for all
        """A meter for the answer."""
        if streaming:
            return EventMeter(MessagesReader())
        return DocumentMeter(MessagesReader, read_message)

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
        document = parse_object(body, options.max_json_values)
        model = read_model(document)
        _check_fields(document, options)
        prompt = Prompt(options)
        _read_prompt(document, prompt)
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
    check_fields(document, _KNOWN, options, _OWN)
    for name, allowed in _STANDARD.items():
        if document.get(name) not in (None, *allowed):
            raise BadRequest(
                f"`{name}` selects a rate that is not configured here; omit it.", param=name
            )
    if document.get("service_tier") not in (None, "auto", "standard_only"):
        raise BadRequest('`service_tier` must be "auto" or "standard_only".', param="service_tier")
    _check_edits(document.get("context_management"))
    refuse_stored(document.get("diagnostics"), "diagnostics", options)
    metadata = document.get("metadata")
    if metadata is not None:
        if type(metadata) is not dict:
            raise BadRequest("`metadata` must be an object.", param="metadata")
        require_lower_case(metadata, "metadata")
        if type(metadata.get("user_id")) not in (str, NoneType):
            raise BadRequest("`user_id` must be a string.", param="metadata.user_id")


def _check_edits(management: Any) -> None:
    """Let pass edits that only clear: they make the prompt shorter. Raises BadRequest."""
    if management is None:
        return
    where = "context_management"
    if type(management) is not dict or type(management.get("edits", [])) is not list:
        raise BadRequest(f"`{where}` must be an object with a list of `edits`.", param=where)
    for name in management:
        if name != "edits":
            raise unknown_field(name, f"{where}.{name}")
    for at, edit in enumerate(management.get("edits", [])):
        kind = edit.get("type") if type(edit) is dict else None
        if type(kind) is not str or not kind.startswith(_CLEARING):
            raise BadRequest(
                f"The edit `{str(kind)[:64]}` is not allowed here: what the provider adds or"
                " summarises is not in the body. Only edits that clear tool uses or thinking pass.",
                param=f"{where}.edits[{at}].type",
                code="unsupported_parameter",
            )
        require_lower_case(edit, f"{where}.edits[{at}]")


def _scope_user(document: dict[str, Any], scope: str | None) -> None:
    """Put the customer's scope in front of the end user's id."""
    metadata = document.get("metadata")
    if scope is not None and metadata and metadata.get("user_id"):
        user_id = scoped(metadata["user_id"], scope, _USER_ID_CHARS)
        document["metadata"] = {**metadata, "user_id": user_id}


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
            raise BadRequest("`role` must be a string.", param=f"messages[{at}].role")
        prompt.tokens += len(role)
        if len(message) > 2:
            for name, value in message.items():
                if name not in ("role", "content"):
                    prompt.add_structure(value)
    prompt.add_extra(document)
    for name in _RENDERED:
        if document.get(name) is not None:
            prompt.add_structure(document[name])


def _read_tools(document: dict[str, Any], prompt: Prompt) -> int:
    """Check the tools; return how many hosted calls are allowed. Raises BadRequest."""
    tools = read_list(document, "tools")
    for tool in tools:
        prompt.add_structure(tool)
    if tools or prompt.tools:
        prompt.add_room(TOOLS_PREAMBLE_TOKENS)
    calls = 0
    for hosted in judge_tools([*named_tools(tools, "tools"), *prompt.tools], TOOLS, prompt):
        uses = read_count(hosted.tool, "max_uses", MAX_TOOL_USES)
        if uses is None:
            uses = default_calls("max_uses", f"{hosted.where}.max_uses", prompt.options)
            hosted.tool["max_uses"] = uses
        calls += uses
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
    "overloaded": (503, "overloaded_error"),
    "shutting_down": (503, "overloaded_error"),
    "upstream_unreachable": (502, "api_error"),
    "upstream_auth": (502, "api_error"),
    "upstream_timeout": (504, "timeout_error"),
    "internal": (500, "api_error"),
}
"""Kind → status, `type` (docs.anthropic.com/en/api/errors)."""


def _error_of(refusal: Refusal) -> dict[str, Any]:
    error: dict[str, Any] = {"type": _SHAPES[refusal.kind][1], "message": refusal.message}
    if refusal.detail:
        error["metadata"] = dict(refusal.detail)
    return {"type": "error", "error": error, "request_id": refusal.request_id}
