"""OpenAI image generation. Request: platform.openai.com/docs/api-reference/images/create.

Priced by image (`per_image`: those that the answer holds), or by tokens where the answer reports usage;
`max_output_tokens` of the model is then the most that one image has. What an image costs by size and
quality differs: models of other names may stand for them, each with its own price.
"""

from typing import Any, Final

import orjson

from gateway.dialects.base import (
    BadRequest,
    ForwardOptions,
    Meter,
    ReadOptions,
    RequestFacts,
)
from gateway.dialects.bounds import Prompt, text_tokens
from gateway.dialects.fields import (
    MAX_COUNT,
    check_fields,
    read_count,
    read_flag,
    read_model,
    scope_names,
)
from gateway.dialects.openai.answers import OpenAIDialect
from gateway.dialects.reading.meters import DocumentMeter
from gateway.dialects.reading.reader import ERROR_NAMES, AnswerReader
from gateway.dialects.reading.strict_json import parse_object
from gateway.dialects.reading.tables import OPENAI

_KNOWN: Final = frozenset(
    {
        "model",
        "prompt",
        "n",
        "size",
        "quality",
        "style",
        "background",
        "moderation",
        "output_compression",
        "output_format",
        "response_format",
        "user",
        "safety_identifier",
        "stream",
    }
)


class OpenAIImages(OpenAIDialect):
    """`POST /v1/images/generations`."""

    name = "openai_images"

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""
        document = parse_object(body, options.max_json_values)
        model = read_model(document)
        background = document.get("background")
        if background is not None and type(background) is not str:
            raise BadRequest("`background` must be a string.", param="background")
        check_fields(document, _KNOWN, options, own=frozenset({"background"}))
        if read_flag(document, "stream"):
            raise BadRequest(
                "Partial images are billed in addition to the image; omit it.", param="stream"
            )
        prompt = Prompt(options)
        if type(document.get("prompt")) is not str:
            raise BadRequest("`prompt` must be a string.", param="prompt")
        prompt.tokens += text_tokens(document["prompt"])
        prompt.add_extra(document)
        images = read_count(document, "n", MAX_COUNT) or 1
        return RequestFacts(
            model=model,
            stream=False,
            input_bound=prompt.tokens,
            output_bound=None,
            limits_output=False,
            choices=images,
            most={"image": images},
            certain={"image": images},
            document=document,
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse with the upstream's model name."""
        document = {**facts.document, "model": options.upstream_model}
        scope_names(document, options.customer_scope)
        return orjson.dumps(document)

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:  # noqa: ARG002 - never streams
        """A meter for the answer."""
        return DocumentMeter(ImagesReader)


class ImagesReader(AnswerReader):
    """A list of images; they have no text to count."""

    table = OPENAI
    contents = frozenset({"data"})
    complete = frozenset({"usage", "error", "detail"})
    kept = ERROR_NAMES | {"data", "model", "id"}

    def read_document(self, document: dict[str, Any]) -> None:
        """A complete answer."""
        self.note(document.get("id"), document.get("model"))
        data = document.get("data")
        if type(data) is list:
            self.facts.counted = {"image": len(data)}
        self.report(document.get("usage"), final=True)
