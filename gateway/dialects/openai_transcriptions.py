"""OpenAI transcriptions and translations of sound. Request: platform.openai.com/docs/api-reference/audio.

The request is a form with one file. Priced by the second as the answer reports them, or by tokens. The
bound is the file's size at the fewest bytes that a second of sound can have (`min_audio_bytes_per_second`
of the route); an answer that reports nothing (`text`, `srt`, `vtt`) is charged at it.
"""

from collections.abc import Mapping
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
from gateway.dialects.metering import JsonMeter, SseMeter
from gateway.dialects.multipart_form import Part, is_form, new_boundary, read_form, write_form
from gateway.dialects.openai_answers import OpenAIDialect, error_of
from gateway.dialects.quantities import whole_number
from gateway.dialects.reported import BadUsage, read_responses_usage

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
    needs_length = True
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
            elif part.name in _LISTS:
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

    def said(self, asked: Asked, facts: RequestFacts) -> bytes:
        """The form without its boundary, which clients draw anew for a retry."""
        return asked.path.encode() + write_form(facts.document[_PARTS], "-")

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:  # noqa: ARG002
        """Raises BadRequest: without its content type a form cannot be read."""
        raise BadRequest(self.wanted_type)

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The form written anew, with the upstream's model name."""
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
        bound = facts.certain.get("second", 0)
        return TranscriptSseMeter(bound) if streaming else TranscriptJsonMeter(bound)

    def error_frame(self, refusal: Refusal) -> bytes:
        """An event with an error."""
        return b"\n\ndata: " + orjson.dumps({"type": "error", "error": error_of(refusal)}) + b"\n\n"


class TranscriptJsonMeter(JsonMeter):
    """A whole transcript; text and subtitles report nothing."""

    def __init__(self, bound_seconds: int) -> None:
        super().__init__()
        self._bound_seconds = bound_seconds

    def _read(self, document: dict[str, Any]) -> None:
        text = document.get("text")
        if type(text) is str and text:
            self._count_text(text_tokens(text))
        report = document.get("usage")
        if report is None and "duration" in document:
            report = {"type": "duration", "seconds": document["duration"]}
        if report is None:
            return
        try:
            self._take_usage(read_transcript_usage(report, self._bound_seconds), final=True)
        except BadUsage as problem:
            self._refuse_usage(problem)


class TranscriptSseMeter(SseMeter):
    """Events of a transcript; the last one reports the usage."""

    def __init__(self, bound_seconds: int) -> None:
        super().__init__()
        self._bound_seconds = bound_seconds

    def _read(self, document: dict[str, Any], frame: bytes) -> bool:  # noqa: ARG002
        if document.get("error"):
            self.facts.error = True
        piece = document.get("delta")
        if type(piece) is str and piece:
            self._count_text(text_tokens(piece))
        report = document.get("usage")
        if report is not None:
            try:
                self._take_usage(read_transcript_usage(report, self._bound_seconds), final=True)
            except BadUsage as problem:
                self._refuse_usage(problem)
        return False


def read_transcript_usage(report: Any, bound_seconds: int) -> Mapping[str, int]:
    """Usage by duration, whose seconds are rounded up, or by tokens. Raises BadUsage."""
    if type(report) is not dict:
        raise BadUsage("usage is not an object")
    if report.get("type") == "duration":
        seconds = whole_number(report.get("seconds"))
        if seconds > MAX_REPORTED_FACTOR * max(1, bound_seconds):
            raise BadUsage("seconds is absurd")
        return {"second": seconds}
    usage = dict(read_responses_usage(report))
    details = report.get("input_token_details")
    heard = details.get("audio_tokens") if type(details) is dict else None
    if heard is not None:
        if type(heard) is not int or not 0 <= heard <= usage.get("input", 0):
            raise BadUsage("the details of input_tokens exceed input_tokens")
        if heard:
            usage["audio_input"] = heard
            usage["input"] -= heard
    return usage
