"""Answers of images, speech and transcriptions mean the same however their bytes arrive; forms are
written as they were read."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import DIALECTS
from gateway.dialects.base import (
    Asked,
    BadRequest,
    ForwardOptions,
    Meter,
    ReadOptions,
    RequestFacts,
)
from gateway.dialects.reading.multipart_form import Part, new_boundary, read_form, write_form

ASKED = RequestFacts(
    "m",
    stream=False,
    input_bound=1,
    output_bound=None,
    certain={"byte": 7, "second": 9},
    document={"stream_format": "sse"},
)
TOKENS = {"input_tokens": 14, "output_tokens": 5, "total_tokens": 19}
HEARD = {**TOKENS, "type": "tokens", "input_token_details": {"text_tokens": 4, "audio_tokens": 10}}
SEEN = {**TOKENS, "input_tokens_details": {"text_tokens": 4, "image_tokens": 10}}


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)


CASES: list[tuple[str, str, bool, bytes, Any, Any]] = [
    ("images", "openai_images", False, orjson.dumps({"data": [{}, {}]}), None, {"image": 2}),
    (
        "images with usage",
        "openai_images",
        False,
        orjson.dumps({"data": [{}], "usage": SEEN}),
        {"input": 4, "image_input": 10, "output": 5},
        {"image": 1},
    ),
    (
        "speech",
        "openai_speech",
        True,
        sse({"type": "speech.audio.delta", "audio": "aGk="}, {"type": "x", "usage": TOKENS}),
        {"input": 14, "output": 5},
        {"byte": 7},
    ),
    (
        "a transcript",
        "openai_transcriptions",
        False,
        orjson.dumps({"text": "Hi.", "usage": {"type": "duration", "seconds": 2.1}}),
        {"second": 3},
        {},
    ),
    (
        "a verbose transcript",
        "openai_transcriptions",
        False,
        orjson.dumps({"text": "Hi.", "duration": 8.5}),
        {"second": 9},
        {},
    ),
    (
        "a streamed transcript",
        "openai_transcriptions",
        True,
        sse({"delta": "Hi."}, {"text": "Hi.", "usage": HEARD}),
        {"input": 4, "audio_input": 10, "output": 5},
        {},
    ),
    ("subtitles", "openai_transcriptions", False, b"1\n00:00:00 --> 00:00:01\nHi.\n", None, {}),
]


@pytest.mark.parametrize(
    ("dialect", "streaming", "body", "usage", "counted"),
    [pytest.param(*case, id=name) for name, *case in CASES],
)
def test_usage_is_equal_whole_and_split_at_every_byte(
    dialect: str, streaming: bool, body: bytes, usage: Any, counted: Any
) -> None:
    def meter() -> Meter:
        return DIALECTS[dialect].meter(ASKED, streaming=streaming)

    for at in range(len(body) + 1):
        split = meter()
        assert split.feed(body[:at]) + split.feed(body[at:]) + split.finish() == body
        assert (split.facts.usage, split.facts.counted) == (usage, counted), at
    drops = meter()
    assert b"".join(drops.feed(bytes([byte])) for byte in body) + drops.finish() == body
    assert (drops.facts.usage, drops.facts.counted) == (usage, counted)


def test_sound_is_counted_by_its_bytes_however_they_arrive() -> None:
    asked = RequestFacts("m", stream=False, input_bound=1, output_bound=None, certain={"byte": 7})
    for size in (1, 7, 1000, 5000):
        meter = DIALECTS["openai_speech"].meter(asked, streaming=True)
        for at in range(0, 5000, size):
            meter.feed(b"x" * min(size, 5000 - at))
        assert meter.finish() == b""
        assert (meter.facts.counted_output, meter.facts.counted) == (5, {"byte": 7})


@given(
    st.lists(
        st.tuples(
            st.text("abc[]_", min_size=1, max_size=9),
            st.binary(max_size=80),
            st.none() | st.text('ab."ü', min_size=1, max_size=9),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_a_form_that_was_written_reads_as_it_was(
    fields: list[tuple[str, bytes, str | None]],
) -> None:
    parts = [Part(name, data, filename) for name, data, filename in fields]
    boundary = new_boundary(parts)
    again = read_form(write_form(parts, boundary), [f"multipart/form-data; boundary={boundary}"])
    assert [(p.name, p.data, p.filename is None) for p in again] == [
        (p.name, p.data, p.filename is None) for p in parts
    ]


def test_what_goes_upstream_is_our_form_with_the_upstream_s_model() -> None:
    body = write_form(
        [Part("model", b"listener"), Part("file", b"RIFF", "a.wav", "audio/wav")], "B"
    )
    asked = Asked("POST", "/", "", [("content-type", "multipart/form-data; boundary=B")], body)
    dialect = DIALECTS["openai_transcriptions"]
    facts = dialect.read(asked, ReadOptions(min_audio_bytes_per_second=2))
    assert (facts.model, facts.most) == ("listener", {"second": 2})
    written = dialect.forward_body(facts, ForwardOptions("whisper-9"))
    media_type = dialect.forward_type(facts)
    assert media_type is not None
    assert "boundary=B" not in media_type.split(";")
    assert [(p.name, p.data) for p in read_form(written, [media_type])] == [
        ("model", b"whisper-9"),
        ("file", b"RIFF"),
    ]


def test_a_form_takes_the_fields_of_the_operator_s_list_and_no_others() -> None:
    parts = [Part("model", b"m"), Part("file", b"RIFF", "a.wav"), Part("vad_filter", b"true")]
    body = write_form(parts, "B")
    asked = Asked("POST", "/", "", [("content-type", "multipart/form-data; boundary=B")], body)
    dialect = DIALECTS["openai_transcriptions"]
    with pytest.raises(BadRequest, match="`extra_fields`"):
        dialect.read(asked, ReadOptions())
    facts = dialect.read(asked, ReadOptions(extra_fields=frozenset({"vad_filter"})))
    media_type = dialect.forward_type(facts)
    assert media_type is not None
    written = read_form(dialect.forward_body(facts, ForwardOptions("m")), [media_type])
    assert [(part.name, part.data) for part in written][-1] == ("vad_filter", b"true")


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_form_that_is_cut_is_refused(cut: int) -> None:
    body = write_form([Part("model", b"listener")], "B")
    with pytest.raises(BadRequest):
        read_form(body[:-cut] if cut > 2 else body[:-3], ["multipart/form-data; boundary=B"])
