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
    PROVIDER_TOOL_TOKENS,
    TOOLS_PREAMBLE_TOKENS,
    Prompt,
    refuse_stored,
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
    read_stream_options,
    refuse_fields,
)
from gateway.dialects.openai_answers import OpenAIDialect, error_of
from gateway.dialects.openai_chat import OUTPUT_COUNTS, OUTPUT_MAXIMA, read_choices
from gateway.dialects.reading.meters import DocumentMeter, EventMeter
from gateway.dialects.responses_reader import ResponsesReader
from gateway.dialects.strict_json import parse_object, require_lower_case

MAX_TOOL_CALLS: Final = 1024

FREE_TOOLS: Final = frozenset({"function", "custom", "local_shell", "apply_patch"})
"""Tools that the caller runs itself, described in the body."""
PROVIDER_TOOLS: Final = frozenset({"computer", "computer_use_preview"})
"""Tools that the caller runs itself, described by the provider."""

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
        "prompt_cache_retention",
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


class OpenAIResponses(OpenAIDialect):
    """`POST /v1/responses`."""

    name = "openai_responses"

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""
        document = parse_object(body)
        model = read_model(document)
        refuse_fields(document, options)
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
                if (
                    name == "prompt"
                    and document[name] is not None
                    and not options.allow_stateful_ids
                ):
                    raise BadRequest(
                        "`prompt` names a prompt stored at the provider, whose length is unknown;"
                        " send its text.",
                        param="prompt",
                    )
                prompt.add_structure(document[name])
        tool_calls = _read_tools(document, prompt, options)
        input_bound = prompt.tokens
        if tool_calls:
            # Each call's result is read, and with it all that came before, once more.
            each = options.reference_tokens
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
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse with the upstream's model name and a maximum; streams report usage anyway."""
        document = {**facts.document, "model": options.upstream_model}
        pin_service_tier(document, options.service_tier)
        if options.fills(facts.output_bound):
            document["max_output_tokens"] = options.max_output
        return orjson.dumps(document)

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:  # noqa: ARG002 - the same for all
        """A meter for the answer."""
        return EventMeter(ResponsesReader()) if streaming else DocumentMeter(ResponsesReader())

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


def _read_input(given: Any, prompt: Prompt) -> None:
    overhead = prompt.options.template_overhead_tokens
    if type(given) is str:
        prompt.tokens += text_tokens(given) + overhead
        return
    if type(given) is not list or not given:
        raise BadRequest("`input` must be a text or a list of items.", param="input")
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
        for name, value in item.items():
            if name == "content" and kind in (None, "message"):
                prompt.add_content(value, f"{where}.content")
            elif name == "output" and type(value) is list:
                prompt.add_content(value, f"{where}.output")
            elif name in ("output", "arguments", "input") and type(value) is str:
                prompt.tokens += text_tokens(value)
            elif type(value) in (dict, list):
                refuse_stored(value, f"{where}.{name}", prompt.options)
                _add_item_member(value, prompt)
            else:
                prompt.add_structure(value)


def _add_item_member(value: Any, prompt: Prompt) -> None:
    if type(value) is dict and value.get("type") == "computer_screenshot":
        prompt.images = True
        prompt.tokens += prompt.options.reference_tokens
    else:
        prompt.add_structure(value)


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
    if kind in ("compaction_trigger", "mcp_list_tools", "mcp_call", "additional_tools"):
        raise BadRequest(
            f"Items of the type {kind!r} make the provider do work that is not priced here.",
            param=where,
        )


def _read_tools(document: dict[str, Any], prompt: Prompt, options: ReadOptions) -> int:
    """Check the tools; return how many hosted calls are allowed. Raises BadRequest."""
    tools = read_list(document, "tools")
    if not tools:
        return 0
    prompt.add_room(TOOLS_PREAMBLE_TOKENS)
    hosted = False
    for at, tool in enumerate(tools):
        where = f"tools[{at}]"
        if type(tool) is not dict:
            raise BadRequest("A tool must be an object.", param=where)
        require_lower_case(tool, where)
        kind = tool.get("type")
        if kind in FREE_TOOLS:
            continue
        if kind in PROVIDER_TOOLS:
            prompt.add_room(PROVIDER_TOOL_TOKENS)
        elif type(kind) is str and kind in options.priced_tools:
            refuse_stored(tool, where, options)
            prompt.add_room(PROVIDER_TOOL_TOKENS)
            hosted = True
        else:
            raise BadRequest(
                f"Tools of the type {kind!r} are run by the provider, at a price that is not known"
                " here; leave them out.",
                param=f"{where}.type",
                code="unsupported_tool",
            )
    if not hosted:
        return 0
    calls = read_count(document, "max_tool_calls", MAX_TOOL_CALLS)
    if calls is None:
        raise BadRequest(
            "Hosted tools bill by the call; say how many at most with `max_tool_calls`.",
            param="max_tool_calls",
        )
    return calls
