"""The OpenAI Responses API. Request: platform.openai.com/docs/api-reference/responses.

Stateless only: what refers to something stored at the provider is refused, unless the route
allows it. So is `store: true`; and as OpenAI stores by default, `store: false` is written where
the caller says nothing, for the store belongs to the operator's key, not to the customer.
"""

from typing import Any, Final

import orjson

from gateway.dialects.base import (
    BadRequest,
    ForwardOptions,
    Meter,
    ReadOptions,
    Refusal,
    RequestFacts,
)
from gateway.dialects.bounds import (
    MEDIA_KINDS,
    TOOLS_PREAMBLE_TOKENS,
    Prompt,
    refuse_stored,
    text_tokens,
)
from gateway.dialects.fields import (
    SAMPLING,
    check_fields,
    pin_service_tier,
    read_count,
    read_flag,
    read_list,
    read_model,
    read_output_bound,
    read_service_tier,
    read_stream_options,
    scope_names,
)
from gateway.dialects.openai.answers import OpenAIDialect, error_of
from gateway.dialects.openai.chat import OUTPUT_COUNTS, OUTPUT_MAXIMA, read_choices
from gateway.dialects.openai.responses_reader import ResponsesReader
from gateway.dialects.reading.meters import DocumentMeter, EventMeter
from gateway.dialects.reading.strict_json import parse_object, require_lower_case
from gateway.dialects.tools import Families, default_calls, judge_tools, named_tools

MAX_TOOL_CALLS: Final = 1024

TOOLS: Final = Families(
    own=frozenset({"function", "custom", "local_shell", "apply_patch"}),
    described=frozenset({"computer", "computer_use_preview"}),
)

UNPROMPTED: Final = frozenset(
    {
        "model",
        "input",
        "instructions",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_logprobs",
        "user",
        "metadata",
        "include",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "cache_salt",
        "client_metadata",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "truncation",
        "max_tool_calls",
        "background",
        *OUTPUT_MAXIMA,  # servers that turn a response into a chat obey its names too
        *OUTPUT_COUNTS,
    }
)

KNOWN: Final = (
    UNPROMPTED
    | SAMPLING
    | {"conversation", "previous_response_id", "prompt", "text", "tool_choice", "tools"}
)
"""Fields that do not change the price, or whose price is known here."""

_STORED: Final = ("conversation", "previous_response_id", "prompt")
"""Names of something that the provider keeps, which no byte of the body bounds."""


class OpenAIResponses(OpenAIDialect):
    """`POST /v1/responses`."""

    name = "openai_responses"

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""
        document = parse_object(body, options.max_json_values)
        model = read_model(document)
        check_fields(document, KNOWN, options)
        _read_reasoning(document.get("reasoning"), "reasoning")
        read_stream_options(document)
        if not options.allow_stateful_ids:
            document.setdefault("store", False)
            if document["store"] is None:
                document["store"] = False
        output_bound = read_output_bound(document, OUTPUT_MAXIMA)
        prompt = Prompt(options)
        instructions = document.get("instructions")
        if instructions is not None:
            prompt.tokens += options.template_overhead_tokens
            prompt.add_content(instructions, "instructions")
        _read_input(document.get("input"), prompt)
        for name in document:
            if name not in UNPROMPTED:
                prompt.add_structure(document[name])
        _read_stored(document, prompt)
        tool_calls = _read_tools(document, prompt)
        input_bound = prompt.tokens
        if tool_calls:
            # The model reads everything so far again with the result of each call.
            each = options.result_tokens
            input_bound = (tool_calls + 1) * (input_bound + tool_calls * each + (output_bound or 0))
        return RequestFacts(
            model=model,
            stream=read_flag(document, "stream"),
            input_bound=input_bound,
            output_bound=output_bound,
            choices=read_choices(document),
            audio=prompt.audio,
            images=prompt.images,
            tool_calls=tool_calls,
            service_tier=read_service_tier(document),
            document=document,
            input_own=prompt.own,
            unmeasured=prompt.unmeasured,
            readings=1 + tool_calls,
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse with the upstream's model name and a maximum; streams report usage anyway."""
        document = {**facts.document, "model": options.upstream_model}
        pin_service_tier(document, options.service_tier)
        scope_names(document, options.customer_scope)
        if options.fills(facts.output_bound):
            document["max_output_tokens"] = options.max_output
        return orjson.dumps(document)

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:  # noqa: ARG002 - the same for all
        """A meter for the answer."""
        return EventMeter(ResponsesReader()) if streaming else DocumentMeter(ResponsesReader)

    def error_frame(self, refusal: Refusal) -> bytes:
        """An `error` event, which ends a Responses stream.

        It carries the documented members (code, message, param) and, as OpenAI's SDKs raise on
        a member `error` only, that one too.
        """
        error = error_of(refusal)
        event = {
            "type": "error",
            "code": error["code"],
            "message": error["message"],
            "param": error["param"],
            "sequence_number": 0,
            "error": error,
        }
        return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"


def _read_reasoning(reasoning: Any, where: str) -> None:
    """Refuse modes of reasoning that run the model more than once. Raises BadRequest."""
    if type(reasoning) is not dict:
        return
    require_lower_case(reasoning, where)
    if reasoning.get("mode") not in (None, "standard"):
        raise BadRequest(
            "`reasoning.mode` selects a way to run the model that has no price here; omit it.",
            param=f"{where}.mode",
            code="unsupported_parameter",
        )


def _read_stored(document: dict[str, Any], prompt: Prompt) -> None:
    """What the provider keeps may be read only on routes that own their credential. Raises BadRequest."""
    refuse_stored(document.get("prompt_cache_options"), "prompt_cache_options", prompt.options)
    if document.get("prompt") is not None and not prompt.options.allow_stateful_ids:
        raise BadRequest(
            "`prompt` names a prompt stored at the provider, whose length is unknown; send its text.",
            param="prompt",
        )
    for name in _STORED:
        if document.get(name):
            prompt.add_stored(name)


_ANSWERS: Final = ("function_call_output", "custom_tool_call_output")
"""Items whose `output` may be a content, as a message has."""


def _read_input(given: Any, prompt: Prompt) -> None:
    overhead = prompt.options.template_overhead_tokens
    if type(given) is str:
        prompt.tokens += text_tokens(given) + overhead
        return
    if type(given) is not list or not given:
        raise BadRequest("`input` must be a string or a list of items.", param="input")
    prompt.tokens += overhead * len(given)
    for at, item in enumerate(given):
        where = f"input[{at}]"
        if type(item) is not dict:
            raise BadRequest("An item of the input must be an object.", param=where)
        require_lower_case(item, where)
        kind = item.get("type")
        if kind is None and "role" not in item and "id" in item:
            kind = "item_reference"  # its type may be left out
        _refuse_reference(kind, item, where, prompt)
        if kind in MEDIA_KINDS:
            prompt.add_part(item, where)
            continue
        _read_reasoning(item.get("reasoning"), f"{where}.reasoning")
        for name, value in item.items():
            if name == "tools" and type(value) is list:
                # Tools that come later, or that a search of the caller's own has found.
                prompt.tools.extend(named_tools(value, f"{where}.tools"))
                prompt.add_structure(value)
            elif name == "content" and kind in (None, "message"):
                prompt.add_content(value, f"{where}.content")
            elif name == "output" and kind in _ANSWERS and type(value) is list:
                prompt.add_content(value, f"{where}.output")
            elif name in ("output", "arguments", "input") and type(value) is str:
                prompt.tokens += text_tokens(value)
            else:
                prompt.add_structure(value)
                if type(value) in (dict, list):
                    refuse_stored(value, f"{where}.{name}", prompt.options)
                    prompt.look_inside(value, f"{where}.{name}")


def _refuse_reference(kind: Any, item: dict[str, Any], where: str, prompt: Prompt) -> None:
    if prompt.options.allow_stateful_ids:
        return
    if kind == "item_reference":
        raise BadRequest(
            "An item reference names something stored at the provider; send the item itself.",
            param=where,
        )
    if kind == "reasoning" and not item.get("encrypted_content") and not item.get("content"):
        raise BadRequest(
            "A reasoning item without `encrypted_content` names something stored at the provider;"
            ' ask for `"include": ["reasoning.encrypted_content"]` and send that back.',
            param=where,
        )
    if kind in ("compaction_trigger", "mcp_list_tools", "mcp_call"):
        raise BadRequest(
            f"Items of the type {kind!r} make the provider do work that is not priced here.",
            param=where,
        )


def _read_tools(document: dict[str, Any], prompt: Prompt) -> int:
    """Check the tools; return how many hosted calls are allowed. Raises BadRequest."""
    tools = [*named_tools(read_list(document, "tools"), "tools"), *prompt.tools]
    if tools:
        prompt.add_room(TOOLS_PREAMBLE_TOKENS)
    if not list(judge_tools(tools, TOOLS, prompt)):
        return 0
    calls = read_count(document, "max_tool_calls", MAX_TOOL_CALLS)
    if calls is None:
        calls = default_calls("max_tool_calls", "max_tool_calls", prompt.options)
        document["max_tool_calls"] = calls
    return calls
