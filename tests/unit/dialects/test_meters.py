"""Each dialect's meters read whole transcripts, however the bytes arrive.

The transcripts were written after the providers' documented shapes; usage and counts beside each
were worked out by hand.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS
from gateway.dialects.base import Answered, Limit, Meter, RequestFacts
from gateway.domain.usage import Usage

TRANSCRIPTS = Path(__file__).parent / "transcripts"


@dataclass(frozen=True)
class Case:
    """What a transcript says. problem: None, or words of the problem. hidden: its usage chunk is hidden.
    calls: hosted calls that it shows"""

    name: str
    usage: Usage | None
    counted: int
    finish: str | None = "stop"
    final: bool = True
    problem: str | None = None
    error: bool = False
    hidden: bool = False
    choices: int = 1
    calls: int = 0
    response_id: str | None = "chatcmpl-A1"
    model: str | None = "large-2026-01-01"


def chat_json(name: str, usage: Usage | None, counted: int, **more: object) -> Case:
    return Case(f"openai_chat.{name}.json", usage, counted, response_id="chatcmpl-B1", **more)  # type: ignore[arg-type]


def chat_sse(name: str, usage: Usage | None, counted: int, **more: object) -> Case:
    return Case(f"openai_chat.{name}.sse", usage, counted, **{"hidden": True, **more})  # type: ignore[arg-type]


def responses(name: str, usage: Usage | None, counted: int, **more: object) -> Case:
    return Case(
        f"openai_responses.{name}",
        usage,
        counted,
        **{"finish": "completed", "response_id": "resp_D1", **more},  # type: ignore[arg-type]
    )


def anthropic(name: str, usage: Usage | None, counted: int, **more: object) -> Case:
    return Case(
        f"anthropic_messages.{name}",
        usage,
        counted,
        **{"finish": "end_turn", "response_id": "msg_E1", "model": "tall-4", **more},  # type: ignore[arg-type]
    )


def gemini(name: str, usage: Usage | None, counted: int, **more: object) -> Case:
    return Case(
        f"gemini_generate.{name}",
        usage,
        counted,
        **{"finish": "STOP", "response_id": "gem-F1", "model": "wide-2", **more},  # type: ignore[arg-type]
    )


NOBODY = {"response_id": None, "model": None, "finish": None, "final": False, "error": True}

CASES = [
    chat_json("plain", {"input": 21, "output": 7}, 7),
    chat_json("cached", {"input": 128, "cache_read": 1920, "output": 3}, 1),
    chat_json("reasoning", {"input": 30, "output": 52, "reasoning": 448}, 1),
    chat_json(
        "audio",
        {"input": 50, "cache_read": 10, "audio_input": 40, "output": 15, "audio_output": 45},
        3,
    ),
    chat_json("tools", {"input": 80, "output": 19}, 5, finish="tool_calls"),
    chat_json("incomplete", {"input": 21, "output": 2}, 3, finish="length"),
    chat_json("no_usage", None, 3, final=False),
    Case("openai_chat.error.json", None, 0, **NOBODY),  # type: ignore[arg-type]
    chat_sse("stream", {"input": 21, "output": 7}, 7),
    chat_sse("stream_padded", {"input": 12, "output": 11}, 11),
    chat_sse("stream_cached", {"input": 46, "cache_read": 4000, "cache_write": 50, "output": 2}, 1),
    chat_sse("stream_reasoning", {"input": 9, "output": 3, "reasoning": 17}, 5),
    chat_sse("stream_tools", {"input": 80, "output": 14}, 6, finish="tool_calls"),
    chat_sse("stream_running", {"input": 8, "output": 3}, 2),
    chat_sse(
        "stream_running_cut", {"input": 8, "output": 2}, 2, final=False, finish=None, hidden=False
    ),
    chat_sse("stream_usage_beside_finish", {"input": 5, "output": 2}, 1, hidden=False),
    chat_sse("stream_two_choices", {"input": 5, "output": 4}, 4, finish="length", choices=2),
    chat_sse("stream_error", None, 1, final=False, finish=None, error=True, hidden=False),
    chat_sse("stream_crlf", {"input": 5, "output": 2}, 2),
    chat_sse("stream_cr", {"input": 5, "output": 2}, 2),
    chat_sse("stream_filters", {"input": 5, "output": 2}, 1),
    chat_sse("stream_bad_usage", {"output": 2}, 1, problem="prompt_tokens is negative"),
    Case(
        "openai_completions.plain.json",
        {"input": 2, "output": 4},
        3,
        finish="length",
        response_id="cmpl-C1",
        model="small",
    ),
    Case(
        "openai_completions.stream.sse",
        {"input": 2, "output": 4},
        3,
        hidden=True,
        response_id="cmpl-C1",
        model="small",
    ),
    Case(
        "openai_embeddings.plain.json",
        {"input": 8},
        0,
        finish=None,
        response_id=None,
        model="embed-small",
    ),
    responses("plain.json", {"input": 20, "cache_read": 10, "output": 6, "reasoning": 2}, 7),
    responses("incomplete.json", {"input": 30, "output": 16}, 3, finish="max_output_tokens"),
    responses("tools.json", {"input": 60, "output": 20}, 5, calls=1),
    responses("stream.sse", {"input": 20, "cache_read": 10, "output": 6, "reasoning": 2}, 5),
    responses("stream_incomplete.sse", {"input": 30, "output": 3}, 5, finish="max_output_tokens"),
    responses("stream_failed.sse", {"input": 30, "output": 3}, 5, finish="failed", error=True),
    responses("stream_error.sse", None, 5, final=False, finish=None, error=True),
    responses("stream_tools.sse", {"input": 60, "output": 16, "reasoning": 4}, 5),
    anthropic("plain.json", {"input": 14, "output": 9}, 7),
    anthropic(
        "cached.json",
        {"input": 14, "cache_read": 1800, "cache_write": 50, "cache_write_1h": 200, "output": 4},
        1,
    ),
    anthropic("tools.json", {"input": 400, "output": 60}, 6, finish="tool_use"),
    anthropic("reasoning.json", {"input": 20, "output": 20, "reasoning": 100}, 4),
    anthropic("searched.json", {"input": 9000, "output": 120, "tool_call": 2}, 1),
    anthropic("error.json", None, 0, **NOBODY),
    anthropic("stream.sse", {"input": 14, "output": 9}, 7),
    anthropic(
        "stream_cached.sse",
        {"input": 14, "cache_read": 1800, "cache_write": 50, "cache_write_1h": 200, "output": 4},
        1,
    ),
    anthropic("stream_tools.sse", {"input": 400, "output": 60}, 6, finish="tool_use"),
    anthropic("stream_reasoning.sse", {"input": 20, "output": 20, "reasoning": 100}, 4),
    anthropic(
        "stream_error.sse", {"input": 14, "output": 1}, 3, final=False, finish=None, error=True
    ),
    gemini("plain.json", {"input": 12, "output": 7}, 7),
    gemini("reasoning.json", {"input": 100, "cache_read": 900, "output": 7, "reasoning": 40}, 10),
    gemini(
        "modalities.json",
        {"input": 100, "audio_input": 42, "image_input": 258, "output": 10, "audio_output": 50},
        7,
    ),
    gemini("tools.json", {"input": 80, "output": 15}, 11),
    gemini("searched.json", {"input": 312, "output": 7}, 7, calls=2),
    gemini("blocked.json", {"input": 12}, 0, finish="SAFETY"),
    gemini("error.json", None, 0, **NOBODY),
    gemini(
        "bad_usage.json", {"input": 12, "output": 7}, 7, problem="candidatesTokenCount is negative"
    ),
    gemini("no_usage.json", None, 7, final=False),
    gemini("stream.sse", {"input": 12, "output": 7}, 7),
    gemini(
        "stream_reasoning.sse",
        {"input": 100, "cache_read": 900, "output": 2, "reasoning": 17},
        4,
        finish="MAX_TOKENS",
    ),
    gemini("stream_tools.sse", {"input": 80, "output": 15}, 13),
    gemini("stream_cut.sse", {"input": 12, "output": 4}, 5, final=False, finish=None),
    gemini("stream_error.sse", {"input": 12, "output": 2}, 2, final=False, finish=None, error=True),
    gemini("stream_two_choices.sse", {"input": 5, "output": 4}, 2, choices=2),
    gemini("stream.array", {"input": 12, "output": 7}, 7),
    gemini(
        "stream_reasoning.array",
        {"input": 100, "cache_read": 900, "output": 2, "reasoning": 17},
        4,
        finish="MAX_TOKENS",
    ),
    gemini("stream_cut.array", {"input": 12, "output": 4}, 5, final=False, finish=None),
    anthropic("stream_cut.sse", {"input": 14, "output": 1}, 3, final=False, finish=None),
    anthropic("stream_incomplete.sse", {"input": 14, "output": 2}, 3, finish="max_tokens"),
]
STREAMS = [case for case in CASES if not case.name.endswith(".json")]


def meter_of(case: Case, *, wants_usage: bool = False) -> Meter:
    """A meter as the flow makes it, of a client that did (not) ask for the usage chunk."""
    asked = RequestFacts(
        model="m",
        stream=True,
        input_bound=1,
        output_bound=None,
        choices=case.choices,
        wants_usage=wants_usage,
    )
    dialect = DIALECTS[case.name.split(".")[0]]
    if case.name.endswith(".array"):
        answered = Answered(200, [(b"Content-Type", b"application/json; charset=UTF-8")], 0.0)
        return dialect.meter_answer(asked, answered, streaming=True)
    return dialect.meter(asked, streaming=case.name.endswith(".sse"))


def feed(meter: Meter, pieces: list[bytes]) -> bytes:
    return b"".join([*[meter.feed(piece) for piece in pieces], meter.finish()])


def transcript(case: Case) -> bytes:
    return (TRANSCRIPTS / case.name).read_bytes()


def visible(case: Case) -> bytes:
    """What a client that did not ask for usage must get: all but the chunk without choices."""
    data = transcript(case)
    if not case.hidden:
        return data
    end = b"\r\n\r\n" if b"\r\n" in data else b"\r\r" if b"\r" in data else b"\n\n"
    frames = data.split(end)
    kept = [
        f
        for f in frames
        if not (b'"prompt_tokens"' in f and b'"choices":[]' in f.replace(b" ", b""))
    ]
    assert len(kept) == len(frames) - 1
    return end.join(kept)


COMPARED = (
    "usage",
    "usage_final",
    "usage_problem",
    "counted_output",
    "hosted_calls",
    "response_model",
    "service_tier",
    "response_id",
    "finish_reason",
    "error",
    "flags",
)


def found(meter: Meter) -> dict[str, object]:
    """What a meter found, as far as transcripts say it."""
    return {name: getattr(meter.facts, name) for name in COMPARED}


def expected(case: Case) -> dict[str, object]:
    return {
        "usage": case.usage,
        "usage_final": case.final,
        "usage_problem": case.problem,
        "counted_output": case.counted,
        "hosted_calls": case.calls,
        "response_model": case.model,
        "service_tier": "default" if b'"service_tier"' in transcript(case) else None,
        "response_id": case.response_id,
        "finish_reason": case.finish,
        "error": case.error,
        "flags": (),
    }


def test_every_transcript_is_in_the_table() -> None:
    assert {case.name for case in CASES} == {path.name for path in TRANSCRIPTS.iterdir()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_facts_and_bytes_of_a_whole_answer(case: Case) -> None:
    meter = meter_of(case)
    assert feed(meter, [transcript(case)]) == visible(case)
    assert found(meter) == expected(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_client_that_asked_for_usage_gets_every_byte(case: Case) -> None:
    meter = meter_of(case, wants_usage=True)
    data = transcript(case)
    assert feed(meter, [data[at : at + 1] for at in range(len(data))]) == data
    assert found(meter) == expected(case)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name.endswith(".json")], ids=lambda case: case.name
)
def test_a_document_passes_as_it_comes(case: Case) -> None:
    meter = meter_of(case)
    data = transcript(case)
    for at in range(len(data)):
        assert meter.feed(data[at : at + 1]) == data[at : at + 1]


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.name)
def test_what_the_client_has_of_a_stream_ends_with_an_event(case: Case) -> None:
    """So the gate can write an event of its own at any time."""
    meter = meter_of(case, wants_usage=True)
    data = transcript(case)
    passed = b""
    for at in range(len(data)):
        if piece := meter.feed(data[at : at + 1]):
            passed += piece
            if case.name.endswith(".sse"):
                assert passed.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
    assert data.startswith(passed)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_facts_are_equal_byte_by_byte(case: Case) -> None:
    meter = meter_of(case)
    data = transcript(case)
    assert feed(meter, [data[at : at + 1] for at in range(len(data))]) == visible(case)
    assert found(meter) == expected(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_facts_are_equal_split_at_every_byte(case: Case) -> None:
    data = transcript(case)
    wanted, shown = expected(case), visible(case)
    for at in range(1, len(data)):
        meter = meter_of(case)
        assert feed(meter, [data[:at], data[at:]]) == shown, at
        assert found(meter) == wanted, at


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(STREAMS), st.data())
def test_facts_are_equal_however_it_is_cut(case: Case, choose: st.DataObject) -> None:
    data = transcript(case)
    cuts = sorted(choose.draw(st.sets(st.integers(1, len(data) - 1), max_size=12)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    meter = meter_of(case)
    assert feed(meter, pieces) == visible(case)
    assert found(meter) == expected(case)


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.name)
def test_a_whole_frame_of_text_never_waits(case: Case) -> None:
    meter = meter_of(case)
    data = transcript(case)
    end = b"\r\n\r\n" if b"\r\n" in data else b"\n\n"
    for frame in data.split(end)[:-1]:
        passed = meter.feed(frame + end)
        if b'"choices":[]' not in frame.replace(b" ", b""):
            assert passed == frame + end


def test_an_event_passes_when_it_is_complete() -> None:
    meter = meter_of(STREAMS[0])
    begun = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"The har'
    assert meter.feed(begun) == b""
    assert meter.feed(b'bour"}}]}\n\ndata: {"id"') == begun + b'bour"}}]}\n\n'


def test_an_event_too_long_to_be_kept_passes_as_it_comes_and_is_read() -> None:
    meter = meter_of(STREAMS[0])
    long = b'data: {"choices":[{"index":0,"delta":{"content":"hi","audio":{"data":"'
    long += b"QUJD" * 600_000 + b'"}}}],"usage":{"prompt_tokens":7,"completion_tokens":2}}'
    pieces = [long[at : at + 50_000] for at in range(0, len(long), 50_000)]
    passed = b"".join(meter.feed(piece) for piece in pieces)
    assert len(passed) > len(long) - 60_000
    begun = meter.inside
    rest = meter.feed(b"\n\ndata: [DONE]\n\n")
    assert passed + rest == long + b"\n\ndata: [DONE]\n\n"
    assert (begun, meter.inside) == (True, False), "inside, nothing of the gate's own can follow"
    assert (meter.facts.usage, meter.facts.counted_output) == ({"input": 7, "output": 2}, 1)


def test_a_burst_passes_as_far_as_it_is_held() -> None:
    meter = meter_of(STREAMS[0])
    texts = [b'data: {"choices":[{"index":0,"delta":{"content":"a%d"}}]}' % n for n in range(9)]
    frames = [text + b"\n\n" for text in texts]
    assert meter.feed(b"".join(frames), Limit(3)) == b"".join(frames[:3])
    waited = meter.waiting
    assert meter.feed(b"", Limit(3)) == b""
    assert meter.feed(b"", Limit(5)) == b"".join(frames[3:5])
    assert meter.feed(b"", Limit(100)) == b"".join(frames[5:])
    assert (waited, meter.waiting) == (True, False)
    assert meter.facts.counted_output == 9


def test_a_begun_frame_waits_while_it_may_be_the_usage_chunk() -> None:
    meter = meter_of(STREAMS[0])
    assert meter.feed(b'data: {"id":"x","choices":[],"usage":{"prompt_') == b""
    rest = b'tokens":3,"completion_tokens":4}}\n\ndata: [DONE]\n\n'
    assert meter.feed(rest) == b"data: [DONE]\n\n"
    assert meter.facts.usage == {"input": 3, "output": 4}


def test_a_cut_stream_gives_back_what_waited() -> None:
    meter = meter_of(STREAMS[0])
    assert meter.feed(b'data: {"id":"x","cho') == b""
    assert meter.finish() == b'data: {"id":"x","cho'


def test_the_count_grows_with_each_frame() -> None:
    meter = meter_of(STREAMS[0])
    counts = []
    for frame in transcript(STREAMS[0]).split(b"\n\n")[:-1]:
        meter.feed(frame + b"\n\n")
        counts.append(meter.facts.counted_output)
    assert counts == [0, 1, 3, 5, 5, 6, 7, 7, 7, 7]


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "generic"])
@pytest.mark.parametrize("streaming", [True, False])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_no_bytes_of_an_upstream_raise_or_get_lost(
    dialect: str, streaming: bool, pieces: list[bytes]
) -> None:
    asked = RequestFacts("m", stream=True, input_bound=1, output_bound=None, wants_usage=False)
    meter = DIALECTS[dialect].meter(asked, streaming=streaming)
    assert feed(meter, pieces) == b"".join(pieces)


WRONG: list[object] = [None, 1, -1, 2.5, "x", True, [], {}, [[]], {"a": 1}, [{"delta": 3}], [3]]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([c for c in CASES if not c.name.endswith("_cut.array")]), st.data())
def test_no_odd_value_of_an_upstream_raises(case: Case, choose: st.DataObject) -> None:
    import json

    data = transcript(case)
    streaming = case.name.endswith(".sse")
    frame = data
    if streaming:
        frames = [
            f
            for f in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
            if b"{" in f
        ]
        frame = choose.draw(st.sampled_from(frames))
        frame = frame[frame.index(b"{") :]
    document = json.loads(frame)
    place = document
    while True:
        members = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = choose.draw(st.sampled_from(members))
        if isinstance(place[key], dict | list) and place[key] and choose.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = choose.draw(st.sampled_from(WRONG))
        break
    odd = json.dumps(document).encode()
    meter = meter_of(case, wants_usage=True)
    sent = b"data: " + odd + b"\n\n" if streaming else odd
    assert feed(meter, [sent]) == sent
    usage = meter.facts.usage
    assert usage is None or all(type(q) is int and q > 0 for q in usage.values())
