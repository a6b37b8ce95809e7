"""A frame is only taken as a repetition when parsing it would have said the same."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.dialects.base import Meter, RequestFacts
from gateway.dialects.openai.chat import OpenAIChat
from gateway.dialects.reading.meters import EventMeter
from gateway.dialects.reading.repeated import RepeatedFrame

TEXTS = st.one_of(
    st.sampled_from(
        ['"', "\\", '\\"', '"}]}', "", "\n\n", "ä海", '","usage":{"prompt_tokens":1', " six"]
    ),
    st.text(max_size=8),
)


def frame_of(text: str, padding: str | None, *, name: str = "content", **more: object) -> bytes:
    document: dict[str, object] = {
        "id": "c",
        "choices": [{"index": 0, "delta": {name: text}, "finish_reason": None}],
        "usage": None,
        **more,
    }
    if padding is not None:
        document["obfuscation"] = padding
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def chat_meter() -> Meter:
    asked = RequestFacts("m", stream=True, input_bound=1, output_bound=None)
    return OpenAIChat().meter(asked, streaming=True)


def parsing_only() -> Meter:
    meter = chat_meter()
    assert isinstance(meter, EventMeter)
    meter._reader.repeated._lessons = 1 << 30
    return meter


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            TEXTS, st.none() | TEXTS, st.sampled_from(["content", "reasoning_content", "role"])
        ),
        max_size=12,
    )
)
@example(
    [("a", "x", "content"), ("b", '"', "content"), ('c"', "yy", "content"), ("d", "", "content")]
)
def test_facts_are_those_of_parsing_each_frame(frames: list[tuple[str, str | None, str]]) -> None:
    stream = b"".join(frame_of(text, pad, name=name) + b"\n\n" for text, pad, name in frames)
    repeated, parsed = chat_meter(), parsing_only()
    repeated.feed(stream)
    parsed.feed(stream)
    assert repeated.facts == parsed.facts


def test_frames_that_repeat_are_not_parsed() -> None:
    meter = chat_meter()
    assert isinstance(meter, EventMeter)
    meter.feed(frame_of("one", None) + b"\n\n")
    meter._read = None  # type: ignore[assignment, method-assign] # calling it would raise
    meter.feed(frame_of("two", None) + b"\n\n" + frame_of(" three", None) + b"\n\n")
    assert meter.facts.counted_output == 3


def test_a_repeated_frame_with_padding_tells_its_texts_size() -> None:
    kept = RepeatedFrame()
    kept.learn(frame_of("one", "xyz"), b"content", "one")
    assert kept.text_bytes(frame_of("fourteen bytes", "q")) == 14
    assert kept.text_bytes(frame_of("", "q")) == 0
    assert kept.text_bytes(frame_of('a"b', "q")) == -1
    assert kept.text_bytes(frame_of("a", 'q"')) == -1
    assert kept.text_bytes(frame_of("a", "q", x=1)) == -1


def test_a_member_that_stands_twice_is_not_learned() -> None:
    kept = RepeatedFrame()
    frame = b'data: {"content":"a","choices":[{"delta":{"content":"a"}}]}'
    kept.learn(frame, b"content", "a")
    assert kept.text_bytes(frame) == -1


def test_frames_that_never_repeat_stop_being_learned() -> None:
    kept = RepeatedFrame()
    for number in range(100):
        kept.learn(frame_of("a", None, n=number), b"content", "a")
    assert kept.text_bytes(frame_of("b", None, n=99)) == -1
