"""OpenAI transcriptions and translations of sound. Request: platform.openai.com/docs/api-reference/audio.

The request is a form with one file. Priced by the second as the answer reports them, or by tokens. The
bound is the file's size at the fewest bytes that a second of sound can have (`min_audio_bytes_per_second`
of the route); an answer that reports nothing (`text`, `srt`, `vtt`) is charged at it.
"""

from functools import partial
from typing import Any, Final

import orjson

from gateway.dialects.base import (
    Asked,
    BadRequest,
    ForwardOptions,
    Meter,
    ReadOptions,
    Refusal,
    RequestFacts,
)
from gateway.dialects.bounds import Prompt, text_tokens
from gateway.dialects.fields import read_model, unknown_field
from gateway.dialects.openai.answers import OpenAIDialect, error_of
from gateway.dialects.reading.meters import DocumentMeter, EventMeter
from gateway.dialects.reading.multipart_form import (
    Part,
    is_form,
    new_boundary,
    read_form,
    write_form,
)
from gateway.dialects.reading.numbers import BadUsage
from gateway.dialects.reading.reader import ERROR_NAMES, AnswerReader
from gateway.dialects.reading.tables import OPENAI_NAMES, openai_pools
from gateway.dialects.reading.text import text_bytes
from gateway.dialects.reading.usage import SECONDS, Figures, Pools, UsageTable

TOKENS_PER_SECOND: Final = 10
"""OpenAI counts a token of sound for 100 ms."""
MAX_REPORTED_FACTOR: Final = 100
"""More seconds than this many times the bound are a fault of the upstream."""

_FILE: Final = "file"
_TEXTS: Final = frozenset(
    {"model", "language", "prompt", "response_format", "temperature", "stream", "chunking_strategy"}
)
_LISTS: Final = frozenset(
    {
        "include[]",
        "timestamp_granularities[]",
        "known_speaker_names[]",
        "include",
        "timestamp_granularities",
    }
)
_PARTS: Final = "parts"
_BOUNDARY: Final = "boundary"


class OpenAITranscriptions(OpenAIDialect):
    """`POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

    name = "openai_transcriptions"
    wanted_type = "Send a form, with `Content-Type: multipart/form-data`."

    def accepts(self, media_type: str) -> bool:
        """Forms alone."""
        return is_form(media_type)

    def read(self, asked: Asked, options: ReadOptions) -> RequestFacts:
        """Read a form strictly. Raises BadRequest, TooLarge."""
        parts = read_form(asked.body, asked.values("content-type"))
        values: dict[str, str] = {}
        file: Part | None = None
        for part in parts:
            if part.name in values or (part.name == _FILE and file is not None):
                raise BadRequest(f"`{part.name}` stands twice.", param=part.name)
            if part.name == _FILE:
                if part.filename is None:
                    raise BadRequest("`file` must be a file with a name.", param=_FILE)
                file = part
            elif part.name in _TEXTS:
                values[part.name] = part.text
            elif part.name in _LISTS or part.name in options.extra_fields:
                part.text  # noqa: B018 - a text, or it is refused
            else:
                raise unknown_field(part.name)
        model = read_model(values)
        if file is None or not file.data:
            raise BadRequest("`file` is missing or empty.", param=_FILE)
        stream = values.get("stream", "false")
        if stream not in ("true", "false"):
            raise BadRequest("`stream` must be true or false.", param="stream")
        seconds = -(-len(file.data) // options.min_audio_bytes_per_second)
        prompt = Prompt(options)
        prompt.tokens += text_tokens(values.get("prompt", "")) + seconds * TOKENS_PER_SECOND
        return RequestFacts(
            model=model,
            stream=stream == "true",
            input_bound=prompt.tokens,
            output_bound=None,
            limits_output=False,
            audio=True,
            most={"second": seconds},
            certain={"second": seconds},
            document={_PARTS: tuple(parts), _BOUNDARY: new_boundary(parts)},
        )

    def fingerprint(self, asked: Asked, facts: RequestFacts) -> bytes:
        """The form without its boundary, which clients choose again for a retry."""
        return asked.path.encode() + write_form(facts.document[_PARTS], "-")

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:  # noqa: ARG002
        """Raises BadRequest: without its content type a form cannot be read."""
        raise BadRequest(self.wanted_type)

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The form written again, with the upstream's model name."""
        parts = [
            Part("model", options.upstream_model.encode()) if part.name == "model" else part
            for part in facts.document[_PARTS]
        ]
        return write_form(parts, facts.document[_BOUNDARY])

    def forward_type(self, facts: RequestFacts) -> str | None:
        """A form with our boundary."""
        return f"multipart/form-data; boundary={facts.document[_BOUNDARY]}"

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:
        """A meter for the answer."""
        new_reader = partial(TranscriptReader, facts.certain.get("second", 0))
        return EventMeter(new_reader()) if streaming else DocumentMeter(new_reader)

    def error_frame(self, refusal: Refusal) -> bytes:
        """An event with an error."""
        return b"data: " + orjson.dumps({"type": "error", "error": error_of(refusal)}) + b"\n\n"


class TranscriptReader(AnswerReader):
    """A transcript, one document or events. Plain text and subtitles report nothing.

    bound_seconds: what the file's size allows; a duration far beyond it is a fault of the upstream
    """

    contents = frozenset({"text", "delta"})
    complete = frozenset({"usage", "error", "detail"})
    kept = ERROR_NAMES | {"text", "delta", "duration", "id", "model"}

    def __init__(self, bound_seconds: int) -> None:
        most = MAX_REPORTED_FACTOR * max(1, bound_seconds)

        def pools(figures: Figures, counted_output: int) -> Pools:
            if figures.get(SECONDS, 0) > most:
                raise BadUsage(f"{figures[SECONDS]} seconds of audio are impossible")
            return openai_pools(figures, counted_output)

        self.table = UsageTable(OPENAI_NAMES, pools)
        super().__init__()

    def read_document(self, document: dict[str, Any]) -> None:
        """A complete transcript."""
        self.note(document.get("id"), document.get("model"))
        text = document.get("text")
        if isinstance(text, str) and text:
            self.count_text(text_bytes(text))
        self.report({"seconds": document.get("duration")}, final=True)
        self.report(document.get("usage"), final=True)

    def read_event(self, document: dict[str, Any], frame: bytes) -> bool:  # noqa: ARG002
        """An event; the last one reports the usage."""
        kind = document.get("type")
        piece = document.get("delta")
        if piece is None and isinstance(kind, str):
            self.update_count()
            # Mistral's deltas are called `text`; the last event repeats all of it.
            if kind.endswith(".delta") or not self.facts.counted_output:
                piece = document.get("text")
        if isinstance(piece, str) and piece:
            self.count_text(text_bytes(piece))
        self.report(document.get("usage"), final=True)
        return False
