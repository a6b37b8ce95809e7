"""Media whose tokens no byte of the body bounds."""

from typing import Any

import orjson
import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import MediaTokens, ReadOptions, RequestFacts
from tests.unit.dialects.test_probes import LEAST

URL = "https://example.org/a"
PNG = "data:image/png;base64," + "A" * 40
PDF = "data:application/pdf;base64," + "A" * 40
OWN = {"allow_stateful_ids": True}


def read(name: str, part: dict[str, Any], **options: Any) -> RequestFacts:
    field = "input" if name == "openai_responses" else "messages"
    body = {**LEAST[name], field: [{"role": "user", "content": [part]}]}
    given = ReadOptions(template_overhead_tokens=0, **options)
    return DIALECTS[name].read_request(orjson.dumps(body), given)


def source(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": kind, "source": members}


ELSEWHERE = [
    ("openai_chat", "image", {"type": "image_url", "image_url": {"url": URL}}),
    ("openai_chat", "image", {"type": "image_url", "image_url": URL}),
    ("openai_chat", "image", {"type": "image_url", "image_url": {"url": " HTTPS://example.org"}}),
    ("openai_chat", "image", {"type": "image_url", "image_url": {"url": "//x"}, "data": "AAAA"}),
    ("openai_chat", "image", {"type": "image_url", "image_url": {"url": "gs://b/a"}}),
    ("openai_chat", "audio", {"type": "audio_url", "audio_url": {"url": URL}}),
    ("openai_chat", "audio", {"type": "input_audio", "input_audio": {"data": URL}}),
    ("openai_chat", "video", {"type": "video_url", "video_url": {"url": URL}}),
    ("openai_chat", "video", {"type": "video_url", "video_url": {"url": "data:video/mp4,AAAA"}}),
    ("openai_chat", "document", {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}}),
    ("openai_responses", "image", {"type": "input_image", "image_url": URL}),
    ("openai_responses", "document", {"type": "input_file", "file_url": URL}),
    ("openai_responses", "document", {"type": "input_file", "file_data": PDF}),
    ("anthropic_messages", "image", source("image", type="url", url=URL)),
    ("anthropic_messages", "document", source("document", type="url", url=URL)),
    ("anthropic_messages", "document", source("document", type="base64", data="A" * 40)),
    (
        "anthropic_messages",
        "image",
        {"type": "tool_result", "content": [source("image", type="url", url=URL)]},
    ),
    (
        "anthropic_messages",
        "document",
        {
            "type": "web_fetch_tool_result",
            "content": {
                "type": "web_fetch_result",
                "content": source("document", type="base64", data="A"),
            },
        },
    ),
    (
        "anthropic_messages",
        "image",
        source("document", type="content", content=[source("image", type="url", url=URL)]),
    ),
]


@pytest.mark.parametrize(("name", "kind", "part"), ELSEWHERE)
def test_what_is_elsewhere_or_in_pages_has_no_bound_of_its_own(
    name: str, kind: str, part: dict[str, Any]
) -> None:
    facts = read(name, part)
    assert facts.unmeasured is not None
    assert facts.unmeasured.kind == kind
    assert facts.unmeasured.param.startswith(("messages[0].content[0]", "input[0].content[0]"))
    assert facts.images or facts.audio
    stated = MediaTokens(image=10_000, document=20_000, video=30_000, audio=40_000)
    number = stated.stated(kind)  # type: ignore[arg-type]
    assert number is not None
    facts = read(name, part, media_tokens=stated, reference_tokens=1)
    assert facts.unmeasured is None
    assert number <= facts.input_bound < number + 2000
    facts = read(name, part, reference_tokens=50_000)
    assert facts.unmeasured is None
    assert 50_000 <= facts.input_bound < 52_000


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("openai_chat", {"type": "image_url", "image_url": {"file_id": "file-1"}}),
        ("openai_responses", {"type": "input_image", "file_id": "file-1"}),
        ("openai_responses", {"type": "input_file", "file_id": "file-1"}),
        ("anthropic_messages", source("image", type="file", file_id="file-1")),
    ],
)
def test_files_kept_at_the_provider_have_none_either(name: str, part: dict[str, Any]) -> None:
    assert read(name, part, **OWN).unmeasured is not None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("openai_chat", {"type": "image_url", "image_url": {"url": PNG}}),
        ("openai_responses", {"type": "input_image", "image_url": PNG}),
        ("anthropic_messages", source("image", type="base64", data="A" * 40)),
    ],
)
def test_an_image_in_the_body_has_a_number_that_the_operator_may_replace(
    name: str, part: dict[str, Any]
) -> None:
    facts = read(name, part)
    assert facts.unmeasured is None
    assert 16_384 <= facts.input_bound < 17_000
    facts = read(name, part, media_tokens=MediaTokens(image=500))
    assert 500 <= facts.input_bound < 1000


def test_sound_in_the_body_is_measured_whatever_is_stated() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "A" * 430_000, "format": "wav"}}
    facts = read("openai_chat", part)
    assert facts.unmeasured is None
    assert 10_000 <= facts.input_bound < 10_100
    assert read("openai_chat", part, media_tokens=MediaTokens(audio=5)).input_bound >= 10_000
    assert read("openai_chat", part, media_tokens=MediaTokens(audio=20_000)).input_bound >= 20_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "see https://example.org", "signature": "EqQB"},
        {"type": "redacted_thinking", "data": "EqQB" * 10},
        {"type": "search_result", "source": URL, "title": "t", "content": []},
        {"type": "web_search_tool_result", "content": [{"type": "web_search_result", "url": URL}]},
        {"type": "tool_reference", "tool_name": "tide"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"type": "image", "url": URL}},
    ],
)
def test_parts_that_are_text_are_measured(part: dict[str, Any]) -> None:
    facts = read("anthropic_messages", part)
    assert facts.unmeasured is None
    assert len(orjson.dumps(part)) <= facts.input_bound < 2000


@pytest.mark.parametrize("name", ["openai_chat", "openai_responses", "anthropic_messages"])
def test_a_part_of_an_unknown_kind_may_hold_anything(name: str) -> None:
    facts = read(name, {"type": "brand_new", "url": URL})
    assert facts.unmeasured is not None
    assert (facts.unmeasured.kind, facts.images, facts.audio) == ("stored", True, True)


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"type": "input_image", "image_url": URL}, "image"),
        ({"type": "input_file", "file_url": URL}, "document"),
        (
            {
                "type": "computer_call_output",
                "output": {"type": "computer_screenshot", "image_url": URL},
            },
            "image",
        ),
        (
            {"type": "function_call_output", "output": [{"type": "input_image", "image_url": URL}]},
            "image",
        ),
        ({"type": "code_interpreter_call", "outputs": [{"type": "image", "url": URL}]}, "image"),
    ],
)
def test_items_of_a_response_hold_media_too(item: dict[str, Any], kind: str) -> None:
    body = {"model": "m", "input": [{"role": "user", "content": "hi"}, item]}
    facts = DIALECTS["openai_responses"].read_request(orjson.dumps(body), ReadOptions())
    assert facts.unmeasured is not None
    assert facts.unmeasured.kind == kind
    assert facts.unmeasured.param.startswith("input[1]")


def test_media_inside_items_are_not_counted_as_text() -> None:
    shot = {"type": "computer_screenshot", "image_url": PNG + "A" * 500_000}
    for item in (
        {"type": "computer_call_output", "output": shot},
        {"type": "code_interpreter_call", "outputs": [{"type": "image", "url": shot["image_url"]}]},
    ):
        body = {"model": "m", "input": [item]}
        facts = DIALECTS["openai_responses"].read_request(orjson.dumps(body), ReadOptions())
        assert facts.unmeasured is None
        assert 16_384 <= facts.input_bound < 18_000


@pytest.mark.parametrize(
    "item",
    [
        {"type": "shell_call_output", "output": [{"stdout": "x", "stderr": "", "outcome": {}}]},
        {"type": "web_search_call", "action": {"type": "search", "query": "x", "url": URL}},
        {"type": "custom_tool_call_output", "output": "x"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}], "content": [{}]},
    ],
)
def test_items_that_are_text_are_measured(item: dict[str, Any]) -> None:
    body = {"model": "m", "input": [{"role": "user", "content": "hi"}, item]}
    facts = DIALECTS["openai_responses"].read_request(orjson.dumps(body), ReadOptions())
    assert facts.unmeasured is None
    assert facts.input_bound < 1000


def test_each_prompt_and_each_hosted_call_reads_a_context() -> None:
    def readings(name: str, options: ReadOptions = ReadOptions(), **fields: Any) -> int:  # noqa: B008
        body = orjson.dumps({**LEAST[name], **fields})
        return DIALECTS[name].read_request(body, options).readings

    assert readings("openai_completions", prompt=["a", "b", "c"], n=4) == 3
    assert readings("openai_embeddings", input=["a", "b"]) == 2
    assert readings("openai_chat", n=4) == 1
    priced = ReadOptions(priced_tools=frozenset({"web_search"}))
    tool = {"type": "web_search"}
    assert readings("openai_responses", priced, tools=[tool], max_tool_calls=3) == 4
