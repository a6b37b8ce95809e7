"""The bound is never below what an upstream could count."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS
from gateway.dialects.base import ReadOptions
from gateway.dialects.bounds import rendered_tokens, text_tokens

NONE = ReadOptions(template_overhead_tokens=0, reference_tokens=700)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
VALUES = st.recursive(
    TEXTS | st.integers(-(2**40), 2**40) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)


def bound(name: str, options: ReadOptions = NONE, /, **fields: Any) -> int:
    body = orjson.dumps({"model": "m", **fields})
    return DIALECTS[name].read_request(body, options).input_bound


def size(*texts: str) -> int:
    return sum(len(text.encode()) for text in texts)


@settings(deadline=None)
@given(TEXTS)
def test_a_text_has_at_most_its_bytes(text: str) -> None:
    assert text_tokens(text) == len(text.encode())


@settings(deadline=None)
@given(VALUES)
def test_a_structure_is_bounded_however_it_is_printed(value: object) -> None:
    spaced = json.dumps(value, ensure_ascii=False)
    assert rendered_tokens(value) >= len(spaced.encode())
    indented = json.dumps(value, ensure_ascii=False, indent=4)
    # A tokenizer takes a line break with its indent as one or two tokens, the rest by the byte.
    lines = indented.split("\n")
    assert (
        rendered_tokens(value) >= sum(len(line.strip().encode()) for line in lines) + len(lines) - 1
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    VALUES,
    TEXTS,
)
def test_chats_count_all_that_reaches_the_prompt(
    turns: list[tuple[str, list[str], bool]], schema: object, arguments: str
) -> None:
    messages: list[dict[str, Any]] = []
    texts = []
    for text, parts, plain in turns:
        if plain:
            messages.append({"role": "user", "content": text})
            texts.append(text)
        else:
            messages.append(
                {"role": "user", "content": [{"type": "text", "text": p} for p in parts]}
            )
            texts.extend(parts)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    written = json.dumps(schema, ensure_ascii=False)
    found = bound("openai_chat", messages=messages, tools=[tool], json_schema=schema)
    assert found >= size(*texts, arguments, written, written)
    system = texts[0]
    found = bound(
        "anthropic_messages",
        max_tokens=1,
        messages=messages[:-1],
        system=system,
        tools=[{"name": "f", "input_schema": schema}],
    )
    assert found >= size(*texts, system, written)
    items = [{"role": "user", "content": t} for t in texts]
    items.append({"type": "function_call_output", "call_id": "c", "output": arguments})
    found = bound("openai_responses", input=items, instructions=system, text={"format": schema})
    assert found >= size(*texts, system, arguments, written)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_prompts_and_inputs_count_each_text(texts: list[str]) -> None:
    assert bound("openai_completions", prompt=texts) >= size(*texts)
    assert bound("openai_embeddings", input=texts) >= size(*texts) + 2 * len(texts)


@settings(deadline=None)
@given(TEXTS, VALUES)
def test_tool_results_and_thoughts_are_counted(text: str, value: object) -> None:
    content = [
        {"type": "thinking", "thinking": text, "signature": "EqQB"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"value": value}},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": text}]},
        {"type": "tool_result", "tool_use_id": "t", "content": text},
    ]
    found = bound(
        "anthropic_messages", max_tokens=1, messages=[{"role": "user", "content": content}]
    )
    assert found >= size(text, text, text, json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("openai_chat", {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}),
        (
            "openai_chat",
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}},
        ),
        ("openai_chat", {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}),
        ("openai_responses", {"type": "input_image", "image_url": "https://example.org/a.png"}),
        ("openai_responses", {"type": "input_file", "file_url": "https://example.org/a.pdf"}),
        (
            "anthropic_messages",
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a"}},
        ),
        (
            "anthropic_messages",
            {"type": "document", "source": {"type": "url", "url": "https://example.org/a"}},
        ),
    ],
)
def test_row_53_each_reference_is_held_at_the_configured_maximum(
    name: str, part: dict[str, Any]
) -> None:
    where = "input" if name == "openai_responses" else "messages"
    more = {"max_tokens": 1} if name == "anthropic_messages" else {}
    once = bound(name, **{where: [{"role": "user", "content": [part]}]}, **more)
    twice = bound(name, **{where: [{"role": "user", "content": [part, part]}]}, **more)
    assert once >= 700
    assert twice - once >= 700
    assert once < 2000, "an image's bytes are not its tokens"


def test_a_document_that_is_text_counts_its_bytes() -> None:
    text = {"type": "text", "media_type": "text/plain", "data": "x" * 40_000}
    parts = {"type": "content", "content": [{"type": "text", "text": "x" * 40_000}]}
    for source in (text, parts):
        content = [{"type": "document", "source": source}]
        found = bound(
            "anthropic_messages", max_tokens=1, messages=[{"role": "user", "content": content}]
        )
        assert 40_000 <= found < 50_000


def test_the_template_is_added_per_message_and_once() -> None:
    messages = [{"role": "user", "content": ""}] * 3
    with_template = ReadOptions(template_overhead_tokens=10)
    plain = bound("openai_chat", ReadOptions(template_overhead_tokens=0), messages=messages)
    assert bound("openai_chat", with_template, messages=messages) == plain + 40
