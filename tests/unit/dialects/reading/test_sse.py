"""Frames come out as they were sent, however they were cut, and memory stays bounded."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.dialects.base import RequestFacts
from gateway.dialects.openai.chat import OpenAIChat
from gateway.dialects.reading.sse import FrameSplitter, data_of, event_of

LINES = st.sampled_from(
    [b"data: a", b"data:b", b": note", b"event: x", b"data: {}", b"id: 7", b"data"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def events_of(frames: list[bytes]) -> list[bytes]:
    return [data for frame in frames if (data := data_of(frame))]


def reference(stream: bytes) -> list[bytes]:
    """Events after the standard's own words: line by line over the whole stream."""
    text = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, data = [], []
    for line in text.split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line:
            if data and (joined := b"\n".join(data)):
                events.append(joined)
            data = []
    return events


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(LINES, min_size=1, max_size=3), st.lists(ENDS, min_size=5, max_size=5))
    ),
    st.data(),
)
def test_events_are_those_of_the_standard_however_cut(
    frames: list[tuple[list[bytes], list[bytes]]], choose: st.DataObject
) -> None:
    stream = b"".join(
        b"".join(line + ends[at] for at, line in enumerate(lines)) + ends[4]
        for lines, ends in frames
    )
    cuts = sorted(choose.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    splitter = FrameSplitter()
    events: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += events_of(splitter.push(stream[begin:end]))
    events += events_of([splitter.rest()])
    assert events == reference(stream)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"\n", b"\r", b"a", b"data: x\n\n"]), max_size=30), st.data())
@example(stream_parts=[b"a", b"\n", b"\n", b"\n", b"\n"], choose=None)
def test_no_byte_is_lost(stream_parts: list[bytes], choose: st.DataObject | None) -> None:
    stream = b"".join(stream_parts)
    cuts = [1] if choose is None else sorted(choose.draw(st.sets(st.integers(0, len(stream)))))
    splitter = FrameSplitter()
    out = b""
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        for frame in splitter.push(stream[begin:end]):
            out += frame + splitter.separator
    assert out + splitter.rest() == stream


def test_frames_keep_their_own_line_ends() -> None:
    splitter = FrameSplitter()
    assert splitter.push(b"data: a\r\ndata: b\r\n\r\ndata: c") == [b"data: a\r\ndata: b\r\n\r\n"]
    assert data_of(b"data: a\r\ndata: b\r\n\r\n") == b"a\nb"
    assert splitter.rest() == b"data: c"


@pytest.mark.parametrize(
    ("frame", "data"),
    [
        (b"data: x", b"x"),
        (b"data:x", b"x"),
        (b"data:  x", b" x"),
        (b"event: e\ndata: x", b"x"),
        (b"event: e\ndata: x\ndata: y", b"x\ny"),
        (b"data: x\nid: 3", b"x"),
        (b": comment", b""),
        (b"\ndata: x", b"x"),
        (b"event: e", b""),
        (b"database: x", b""),
    ],
)
def test_data_of_a_frame(frame: bytes, data: bytes) -> None:
    assert data_of(frame) == data


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (b"event: error\ndata: x", b"error"),
        (b"event:error\r\ndata: x", b"error"),
        (b"data: x\nevent: error", b"error"),
        (b'data: {"event: error":1}', b""),
        (b"data: x", b""),
        (b"event:", b""),
    ],
)
def test_name_of_an_event(frame: bytes, name: bytes) -> None:
    assert event_of(frame) == name


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_the_beginning_of_a_long_frame_can_be_given_away(end: bytes) -> None:
    splitter = FrameSplitter()
    assert splitter.push(b"data: first" + end)
    spilled = b""
    for _ in range(100):
        assert splitter.push(b"x" * 99) == []
        spilled += splitter.spill()
        assert len(splitter.tail) <= 4
    frames = splitter.push(b"rest" + end + b"data: next" + end + b":")
    assert splitter.continues
    assert spilled + frames[0].removesuffix(end) == b"x" * 9900 + b"rest"
    assert events_of(frames[1:]) == [b"next"]
    assert splitter.push(b"data: more" + end + b":")
    assert not splitter.continues


@pytest.mark.parametrize("piece", [7_000, 64_000, 10_000_000])
@pytest.mark.parametrize("size", [100, 20_000, 5_000_000])
def test_a_frame_that_never_ends_passes_and_says_nothing(size: int, piece: int) -> None:
    asked = RequestFacts("m", stream=True, input_bound=1, output_bound=None, wants_usage=False)
    meter = OpenAIChat().meter(asked, streaming=True)
    before = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    stream = before + b'data: {"usage":{"prompt_tokens":3},"x":"' + b"y" * size
    out = b""
    for at in range(0, len(stream), piece):
        out += meter.feed(stream[at : at + piece])
    assert out + meter.finish() == stream
    assert (meter.facts.counted_output, meter.facts.usage) == (1, None)
    assert meter.facts.usage_problem is None, "what could not be read is not absurd"


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("line", [b"\n", b"\r\n"])
def test_a_long_frame_is_read_line_by_line(end: bytes, line: bytes) -> None:
    asked = RequestFacts("m", stream=True, input_bound=1, output_bound=None, wants_usage=False)
    parts = [b'data: {"x":"' + b"y" * 3_000_000 + b'",', b'data:"choices":[],"usage":', b"id: 3"]
    parts += [b'data: {"prompt_tokens":3,"completion_tokens":4}}']
    stream = line.join(parts) + end + b"data: [DONE]" + end
    for piece in (1_000, 65_536):
        meter = OpenAIChat().meter(asked, streaming=True)
        out = b"".join(meter.feed(stream[at : at + piece]) for at in range(0, len(stream), piece))
        assert out + meter.finish() == stream
        assert meter.facts.usage == {"input": 3, "output": 4}
