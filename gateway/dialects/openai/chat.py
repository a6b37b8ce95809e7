"""OpenAI chat completions, as OpenAI and the servers that copy its API speak them.

Request: platform.openai.com/docs/api-reference/chat. Besides OpenAI's own names of the output
maximum those that vLLM, SGLang, TGI and llama.cpp obey on this endpoint are read: the hold is for
the largest. The fields at the top of the body are an allow-list: the effect of a new one on
the price is unknown.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Literal

import orjson

from gateway.dialects.base import (
    BadRequest,
    ForwardOptions,
    Meter,
    ReadOptions,
    Refusal,
    RequestFacts,
)
from gateway.dialects.bounds import TOOLS_PREAMBLE_TOKENS, Prompt, refuse_stored, text_tokens
from gateway.dialects.fields import (
    MAX_COUNT,
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
from gateway.dialects.openai.answers import OpenAIDialect, end_chunk_stream
from gateway.dialects.openai.chat_completion import read_completion
from gateway.dialects.openai.chat_reader import ChatReader
from gateway.dialects.openai.plain_request import read_plain
from gateway.dialects.reading.meters import DocumentMeter, EventMeter
from gateway.dialects.reading.strict_json import parse_document, require_lower_case, require_object
from gateway.dialects.tools import Families, judge_tools, named_tools, pass_unknown

OUTPUT_MAXIMA: Final = (
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "n_predict",
    "num_predict",
)
OUTPUT_COUNTS: Final = ("n", "best_of", "n_cmpl")
_COUNTS: Final = frozenset(OUTPUT_COUNTS)

TOOLS: Final = Families(own=frozenset({"function", "custom"}), untyped=True, priced=False)

UNPROMPTED: Final = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "user",
        "metadata",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "service_tier",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "cache_salt",
        "parallel_tool_calls",
        "reasoning_effort",
        "verbosity",
        "modalities",
        "audio",
        "web_search_options",
        *OUTPUT_MAXIMA,
        *OUTPUT_COUNTS,
    }
)
"""Fields that never reach the prompt. Any other that passes is counted."""

KNOWN: Final = (
    UNPROMPTED
    | SAMPLING
    | {"background", "function_call", "functions", "response_format", "tool_choice", "tools"}
)
"""Fields that do not change the price, or whose price is known here."""


class OpenAIChat(OpenAIDialect):
    """`POST /v1/chat/completions`."""

    name = "openai_chat"
    usage_in_chunks = True

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""
        parsed = parse_document(body, options.max_json_values)
        return read_plain(parsed, options) or read_any(require_object(parsed), options)

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse with the upstream's model name, the usage asked for, a maximum set."""
        return orjson.dumps(forwarded_document(facts, options, options.max_output_field))

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:
        """A meter for the answer."""
        return chat_meter(facts, streaming=streaming)

    def error_frame(self, refusal: Refusal) -> bytes:
        """An error chunk and the end of the stream."""
        return end_chunk_stream(refusal, "chat.completion.chunk", {"delta": {}})


def read_any(document: dict[str, Any], options: ReadOptions) -> RequestFacts:
    """The facts of any chat request. Raises BadRequest."""
    model = read_model(document)
    check_fields(document, KNOWN, options)
    stream = read_flag(document, "stream")
    wants_usage = False
    if "stream_options" in document and (given := read_stream_options(document)):
        wants_usage = read_flag(given, "include_usage", "stream_options.include_usage")
    prompt = Prompt(options)
    _read_messages(document, prompt)
    if not UNPROMPTED.issuperset(document):
        for name in document.keys() - UNPROMPTED:
            prompt.add_structure(document[name])
    tool_calls = 0
    if "tools" in document or "functions" in document:
        _read_tools(document, prompt)
    if document.get("web_search_options") is not None:
        if options.priced_tools & {"web_search", "web_search_options"}:
            tool_calls = 1
            prompt.add_room(options.result_tokens)
        else:
            pass_unknown("web_search", "web_search_options", prompt)
    modalities = document.get("modalities")
    return RequestFacts(
        model=model,
        stream=stream,
        input_bound=prompt.tokens,
        output_bound=read_output_bound(document, OUTPUT_MAXIMA),
        choices=read_choices(document),
        audio=prompt.audio
        or bool(document.get("audio"))
        or (modalities is not None and modalities != ["text"]),
        images=prompt.images,
        wants_usage=wants_usage,
        tool_calls=tool_calls,
        service_tier=read_service_tier(document),
        document=document,
        input_own=prompt.own,
        unmeasured=prompt.unmeasured,
        readings=1 + tool_calls,
    )


def chat_meter(facts: RequestFacts, *, streaming: bool) -> Meter:
    """A meter of chat completions and completions."""
    if streaming:
        reader = ChatReader(choices=facts.choices, searches=facts.tool_calls > 0)
        return EventMeter(reader, hides=facts.stream and not facts.wants_usage)
    if facts.tool_calls > 0:
        return DocumentMeter(partial(ChatReader, choices=facts.choices, searches=True))
    return DocumentMeter(ChatReader, read_completion)


def read_choices(document: Mapping[str, Any]) -> int:
    """How many outputs each prompt gets. Raises BadRequest."""
    choices = 1
    if not _COUNTS.isdisjoint(document):
        for name in OUTPUT_COUNTS:
            choices = max(choices, read_count(document, name, MAX_COUNT) or 1)
    return choices


def forwarded_document(
    facts: RequestFacts,
    options: ForwardOptions,
    max_output_field: Literal["max_tokens", "max_completion_tokens", "max_output_tokens"],
) -> dict[str, Any]:
    """The document as an OpenAI-like upstream wants it."""
    document = {**facts.document, "model": options.upstream_model}
    if options.service_tier is not None:
        pin_service_tier(document, options.service_tier)
    if options.customer_scope is not None:
        scope_names(document, options.customer_scope)
    if facts.stream and (options.inject_usage or options.continuous_usage_stats):
        stream_options = dict(document.get("stream_options") or {})
        stream_options["include_usage"] = True
        if options.continuous_usage_stats:
            stream_options["continuous_usage_stats"] = True
        document["stream_options"] = stream_options
    if options.max_output is not None and options.fills(facts.output_bound):
        given = [name for name in OUTPUT_MAXIMA if document.get(name) is not None]
        for name in given or [max_output_field]:
            document[name] = options.max_output
    return document


def _read_tools(document: dict[str, Any], prompt: Prompt) -> None:
    """Let pass only tools that the caller runs. Raises BadRequest."""
    tools = read_list(document, "tools")
    for _ in judge_tools(named_tools(tools, "tools"), TOOLS, prompt):
        raise AssertionError("chat prices no tools")
    if tools or read_list(document, "functions"):
        prompt.add_room(TOOLS_PREAMBLE_TOKENS)


def _read_messages(document: dict[str, Any], prompt: Prompt) -> None:
    messages = document.get("messages")
    if type(messages) is not list or not messages:
        raise BadRequest("`messages` must be a list with at least one message.", param="messages")
    tokens = prompt.options.template_overhead_tokens * len(messages)
    for at, message in enumerate(messages):
        if type(message) is not dict:
            raise BadRequest("A message must be an object.", param=f"messages[{at}]")
        content, role = message.get("content"), message.get("role")
        if type(content) is str and type(role) is str and len(message) == 2:
            tokens += text_tokens(content) + text_tokens(role)
        else:
            _read_message(message, f"messages[{at}]", prompt)
    prompt.tokens += tokens


def _read_message(message: dict[str, Any], where: str, prompt: Prompt) -> None:
    """A message that is more than a role and a text. Raises BadRequest."""
    prompt.add_content(message.get("content"), f"{where}.content")
    role = message.get("role")
    if type(role) is not str:
        raise BadRequest("`role` must be a string.", param=f"{where}.role")
    prompt.tokens += text_tokens(role)
    if len(message) > 2 or "content" not in message:
        _read_extras(message, where, prompt)


def _read_extras(message: dict[str, Any], where: str, prompt: Prompt) -> None:
    require_lower_case(message, where)
    for name, value in message.items():
        if name in ("role", "content") or value is None:
            continue
        if name == "audio" and type(value) is dict and value.get("id"):
            if not prompt.options.allow_stateful_ids:
                raise BadRequest(
                    "`audio.id` refers to an answer stored at the provider; send its transcript.",
                    param=f"{where}.audio.id",
                )
            prompt.add_media("audio", f"{where}.audio.id")
            continue
        if name != "tool_calls":
            refuse_stored({name: value}, where, prompt.options)
        prompt.add_structure(value)
