"""OpenAI speech. Request: platform.openai.com/docs/api-reference/audio/createSpeech.

Priced by the bytes of the text that is spoken (`per_byte`: a byte of UTF-8, so a character of plain
English), or by tokens, which only a stream of events reports (`stream_format: "sse"`). Sound passes on as
it comes.
"""

from typing import Any, Final

import orjson

from gateway.dialects.base import (
    AnswerFacts,
    BadRequest,
    ForwardOptions,
    Limit,
    Meter,
    ReadOptions,
    Refusal,
    RequestFacts,
)
from gateway.dialects.bounds import Prompt, text_tokens
from gateway.dialects.fields import check_fields, read_model
from gateway.dialects.openai.answers import OpenAIDialect, error_of
from gateway.dialects.reading.meters import EventMeter
from gateway.dialects.reading.reader import ERROR_NAMES, AnswerReader
from gateway.dialects.reading.strict_json import parse_object, require_lower_case
from gateway.dialects.reading.tables import OPENAI
from gateway.dialects.reading.text import text_bytes

BYTES_PER_AUDIO_TOKEN: Final = 1024
"""For counting sound that reports nothing."""

_KNOWN: Final = frozenset(
    {"model", "input", "voice", "instructions", "response_format", "speed", "stream_format"}
)


class OpenAISpeech(OpenAIDialect):
    """`POST /v1/audio/speech`."""

    name = "openai_speech"
    reads_start = False

    def read_request(self, body: bytes, options: ReadOptions) -> RequestFacts:
        """Read a request strictly. Raises BadRequest."""
        document = parse_object(body, options.max_json_values)
        require_lower_case(document, "body")
        model = read_model(document)
        check_fields(document, _KNOWN, options, own=frozenset({"speed"}))
        prompt = Prompt(options)
        spoken = document.get("input")
        if type(spoken) is not str or not spoken:
            raise BadRequest("`input` must be a string.", param="input")
        prompt.add_content(document.get("instructions"), "instructions")
        prompt.add_extra(document)
        size = text_tokens(spoken)
        return RequestFacts(
            model=model,
            stream=False,
            input_bound=prompt.tokens + size,
            output_bound=None,
            limits_output=False,
            audio=True,
            most={"byte": size},
            certain={"byte": size},
            document=document,
        )

    def forward_body(self, facts: RequestFacts, options: ForwardOptions) -> bytes:
        """The strict parse with the upstream's model name."""
        return orjson.dumps({**facts.document, "model": options.upstream_model})

    def streams(self, facts: RequestFacts, media_type: str, start: bytes = b"") -> bool:  # noqa: ARG002
        """Sound and events; an error is JSON."""
        return not self.accepts(media_type)

    def meter(self, facts: RequestFacts, *, streaming: bool) -> Meter:
        """A meter for the answer; streaming says that it is sound, or events if those were asked for."""
        spoken = facts.certain.get("byte", 0)
        if streaming and facts.document.get("stream_format") == "sse":
            return EventMeter(SpeechReader(spoken))
        return SoundMeter(spoken)

    def end_stream(self, facts: RequestFacts, refusal: Refusal) -> bytes:
        """An event, where events were asked for."""
        if facts.document.get("stream_format") != "sse":
            return b""
        return b"data: " + orjson.dumps({"type": "error", "error": error_of(refusal)}) + b"\n\n"


class SoundMeter(Meter):
    """Counts sound by its bytes. All bytes pass at once."""

    def __init__(self, spoken_bytes: int) -> None:
        self.facts = AnswerFacts(counted={"byte": spoken_bytes})
        self._size = 0

    def feed(self, data: bytes, limit: Limit | None = None) -> bytes:  # noqa: ARG002 - all is held
        """Count the bytes."""
        self._size += len(data)
        self.facts.counted_output = -(-self._size // BYTES_PER_AUDIO_TOKEN)
        return data

    def finish(self, *, broken: bool = False) -> bytes:  # noqa: ARG002
        """Nothing was held back."""
        return b""


class SpeechReader(AnswerReader):
    """Events of a spoken answer; the last one reports the usage."""

    table = OPENAI
    contents = frozenset({"audio"})
    complete = frozenset({"usage", "error", "detail"})
    kept = ERROR_NAMES | {"audio"}

    def __init__(self, spoken_bytes: int) -> None:
        super().__init__()
        self.facts.counted = {"byte": spoken_bytes}

    def read_document(self, document: dict[str, Any]) -> None:
        """An error, which calls itself a stream."""
        self.report(document.get("usage"), final=True)

    def read_event(self, document: dict[str, Any], frame: bytes) -> bool:  # noqa: ARG002
        """An event."""
        sound = document.get("audio")
        if isinstance(sound, str) and sound:
            self.count_text(text_bytes(sound) * 3 // BYTES_PER_AUDIO_TOKEN)
        self.report(document.get("usage"), final=True)
        return False
