"""OpenAI (legacy) completions, as OpenAI and the servers that copy its API speak them.

Request: platform.openai.com/docs/api-reference/completions. A prompt may be a list: each entry
is generated for, and token ids count one token each.
"""

from typing import Final

import orjson

from gateway.dialects.base import (
    BadRequest,
    ForwardOptions,
    Meter,
    ReadOptions,
    Refusal,
    RequestFacts,
)
from gateway.dialects.bounds import Prompt, prompt_texts, text_tokens
from gateway.dialects.fields import (
    SAMPLING,
    check_fields,
    read_flag,
    read_model,
    read_output_bound,
    read_service_tier,
    read_stream_options,
)
from gateway.dialects.openai.answers import OpenAIDialect, end_chunk_stream
from gateway.dialects.openai.chat import (
    OUTPUT_MAXIMA,
    UNPROMPTED,
    chat_meter,
    forwarded_document,
    read_choices,
)
from gateway.dialects.reading.strict_json import parse_object

_COUNTED: Final = UNPROMPTED - {"messages"} | {"prompt", "suffix", "echo", "logprobs"}
_KNOWN: Final = _COUNTED | SAMPLING | {"background", "response_format"}


class OpenAICompletions(OpenAIDialect):
    """`POST /v1/completions`."""

    name = "openai_completions"
    usage_in_chunks = True

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""
        document = parse_object(body, options.max_json_values)
        model = read_model(document)
        check_fields(document, _KNOWN, options)
        stream_options = read_stream_options(document) or {}
        if "prompt" not in document:
            raise BadRequest("`prompt` is missing.", param="prompt")
        prompt = Prompt(options)
        prompts = prompt_texts(
            document["prompt"], "prompt", prompt, per_text=options.template_overhead_tokens
        )
        suffix = document.get("suffix")
        if suffix is not None:
            if type(suffix) is not str:
                raise BadRequest("`suffix` must be a string.", param="suffix")
            prompt.tokens += text_tokens(suffix) * prompts
        for name in document:
            if name not in _COUNTED:
                prompt.tokens += prompts * 2 * len(orjson.dumps(document[name]))
        return RequestFacts(
            model=model,
            stream=read_flag(document, "stream"),
            input_bound=prompt.tokens,
            output_bound=read_output_bound(document, OUTPUT_MAXIMA),
            choices=read_choices(document) * prompts,
            audio=prompt.audio,
            images=prompt.images,
            wants_usage=read_flag(stream_options, "include_usage", "stream_options.include_usage"),
            service_tier=read_service_tier(document),
            document=document,
            unmeasured=prompt.unmeasured,
            readings=prompts,
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse with the upstream's model name, the usage asked for, a maximum set."""
        return orjson.dumps(forwarded_document(facts, options, "max_tokens"))

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:
        """A meter for the answer."""
        return chat_meter(facts, streaming=streaming)

    def error_frame(self, refusal: Refusal) -> bytes:
        """An error chunk and the end of the stream."""
        return end_chunk_stream(refusal, "text_completion", {"text": ""})
