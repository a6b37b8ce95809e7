"""OpenAI embeddings. Request: platform.openai.com/docs/api-reference/embeddings.

Nothing is generated: the output bound is 0. Embeddings never stream.
"""

from typing import Final

import orjson

from gateway.dialects.base import (
    BadRequest,
    ForwardOptions,
    Meter,
    ReadOptions,
    RequestFacts,
)
from gateway.dialects.bounds import Prompt, prompt_texts
from gateway.dialects.fields import (
    check_fields,
    pin_service_tier,
    read_flag,
    read_model,
    read_service_tier,
    scope_names,
)
from gateway.dialects.openai.answers import OpenAIDialect
from gateway.dialects.openai.chat_reader import EmbeddingsReader
from gateway.dialects.reading.meters import DocumentMeter
from gateway.dialects.reading.strict_json import parse_object

TOKENS_PER_TEXT: Final = 4
"""Begin, end and separators that an embedding model puts around each text."""

_COUNTED: Final = frozenset(
    {"model", "input", "dimensions", "encoding_format", "user", "stream", "service_tier"}
)
_KNOWN: Final = _COUNTED | {
    "add_special_tokens",
    "input_type",
    "instruction",
    "normalize",
    "normalized",
    "safety_identifier",
    "task",
    "truncate",
    "truncate_prompt_tokens",
}
"""OpenAI's, and those of servers that copy its API which do not change the price."""


class OpenAIEmbeddings(OpenAIDialect):
    """`POST /v1/embeddings`."""

    name = "openai_embeddings"

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""
        document = parse_object(body, options.max_json_values)
        model = read_model(document)
        check_fields(document, _KNOWN, options)
        if read_flag(document, "stream"):
            raise BadRequest("Embeddings cannot be streamed.", param="stream")
        if "input" not in document:
            raise BadRequest("`input` is missing.", param="input")
        prompt = Prompt(options)
        texts = prompt_texts(document["input"], "input", prompt, per_text=TOKENS_PER_TEXT)
        for name in document:
            if name not in _COUNTED:  # such as an instruction that is put before each text
                prompt.tokens += texts * 2 * len(orjson.dumps(document[name]))
        return RequestFacts(
            model=model,
            stream=False,
            input_bound=prompt.tokens,
            output_bound=0,
            audio=prompt.audio,
            images=prompt.images,
            service_tier=read_service_tier(document),
            document=document,
            unmeasured=prompt.unmeasured,
            readings=texts,
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse with the upstream's model name."""
        document = {**facts.document, "model": options.upstream_model}
        pin_service_tier(document, options.service_tier)
        scope_names(document, options.customer_scope)
        return orjson.dumps(document)

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:  # noqa: ARG002 - never streams
        """A meter for the answer."""
        return DocumentMeter(EmbeddingsReader)
