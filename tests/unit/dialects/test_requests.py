"""What each dialect reads from a request, what it refuses, and what it forwards."""

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import BadRequest, ForwardOptions, ReadOptions, RequestFacts, Unmeasured

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}
EMBEDDING: dict[str, Any] = {"model": "m", "input": "hi"}
RESPONSE: dict[str, Any] = {"model": "m", "input": "hi"}
MESSAGE: dict[str, Any] = {**CHAT, "max_tokens": 50}

LEAST: Mapping[str, dict[str, Any]] = {
    "openai_chat": CHAT,
    "openai_completions": COMPLETION,
    "openai_embeddings": EMBEDDING,
    "openai_responses": RESPONSE,
    "anthropic_messages": MESSAGE,
    "anthropic_count_tokens": CHAT,
}
GENERATING = ("openai_chat", "openai_completions", "openai_responses", "anthropic_messages")
EXACT = ReadOptions(template_overhead_tokens=0, reference_tokens=1000)


def read(name: str, options: ReadOptions = EXACT, /, **fields: Any) -> RequestFacts:
    """Read the least valid request with these fields changed."""
    body = orjson.dumps({**LEAST[name], **fields})
    return DIALECTS[name].read_request(body, options)


def refusal(name: str, options: ReadOptions = EXACT, /, **fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        read(name, options, **fields)
    return refused.value


def forwarded(facts: RequestFacts, name: str, **options: Any) -> dict[str, Any]:
    body = DIALECTS[name].forward_body(facts, ForwardOptions("upstream-m", **options))
    document: dict[str, Any] = orjson.loads(body)
    return document


def chat_of(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize("name", LEAST)
def test_the_least_request_is_read(name: str) -> None:
    facts = read(name)
    assert facts.model == "m"
    assert not facts.stream
    assert facts.tool_calls == 0
    assert forwarded(facts, name)["model"] == "upstream-m"


@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize(
    "model", [None, [], {}, 7, True, "", "m" * 257, "m" * 10_240, "a\nb", "a\0", "\x7f"]
)
def test_row_27_model_must_be_a_plain_text(name: str, model: object) -> None:
    assert refusal(name, model=model).param == "model"


@pytest.mark.parametrize("name", LEAST)
def test_row_27_model_must_be_there(name: str) -> None:
    fields = {k: v for k, v in LEAST[name].items() if k != "model"}
    with pytest.raises(BadRequest):
        DIALECTS[name].read_request(orjson.dumps(fields), EXACT)


WRONG_COUNTS = [0, -1, 1.0, 2.5, True, "5", [], {}]
COUNTS = [
    *(
        ("openai_chat", f)
        for f in ("max_tokens", "max_completion_tokens", "n_predict", "n", "best_of")
    ),
    *(("openai_completions", f) for f in ("max_tokens", "n", "best_of")),
    *(("openai_responses", f) for f in ("max_output_tokens", "n")),
    ("anthropic_messages", "max_tokens"),
]


@pytest.mark.parametrize(("name", "field"), COUNTS)
@pytest.mark.parametrize("value", WRONG_COUNTS)
def test_row_30_counts_must_be_whole_and_positive(name: str, field: str, value: object) -> None:
    assert refusal(name, **{field: value}).param == field


@pytest.mark.parametrize(("name", "field"), COUNTS)
def test_row_31_counts_beyond_any_model_are_refused(name: str, field: str) -> None:
    assert refusal(name, **{field: 10**9}).param == field


def test_row_32_the_larger_maximum_counts() -> None:
    assert read("openai_chat", max_tokens=5, max_completion_tokens=9).output_bound == 9
    assert read("openai_chat", max_tokens=9, max_completion_tokens=5).output_bound == 9
    assert read("openai_chat", max_tokens=9, n_predict=500).output_bound == 500
    assert read("openai_chat", max_tokens=None).output_bound is None


def test_row_33_choices_multiply() -> None:
    assert read("openai_chat", n=128).choices == 128
    assert refusal("openai_chat", n=129).param == "n"
    assert read("openai_completions", n=2, best_of=5).choices == 5
    assert read("openai_chat", n=None).choices == 1


def test_row_52_prompts_in_a_list_multiply() -> None:
    facts = read("openai_completions", prompt=["ab", "c"], n=3)
    assert facts.choices == 6
    assert facts.input_bound == 3
    assert read("openai_completions", prompt=[5, 6, 7]).input_bound == 3
    assert read("openai_completions", prompt=[5, 6, 7]).choices == 1
    assert read("openai_completions", prompt=[[5, 6], [7]]).choices == 2
    assert read("openai_completions", prompt=["ab", "c"], suffix="xyz").input_bound == 9


@pytest.mark.parametrize(
    "prompt", [[], None, 5, [None], [1, "a"], [[1], [-1]], [[1.5]], [True], {}]
)
def test_prompts_that_are_neither_text_nor_tokens_are_refused(prompt: object) -> None:
    assert "prompt" in (refusal("openai_completions", prompt=prompt).param or "")


@pytest.mark.parametrize(
    ("inputs", "bound"), [("héllo", 10), (["a", "bc"], 11), ([1, 2, 3], 7), ([[1, 2], [3]], 11)]
)
def test_embeddings_bound_their_input(inputs: object, bound: int) -> None:
    facts = read("openai_embeddings", input=inputs)
    assert (facts.input_bound, facts.output_bound, facts.choices) == (bound, 0, 1)


def test_embeddings_cannot_stream() -> None:
    assert refusal("openai_embeddings", stream=True).param == "stream"


@pytest.mark.parametrize("name", ["openai_chat", "openai_completions"])
def test_row_35_usage_is_asked_for_and_hidden(name: str) -> None:
    facts = read(name, stream=True)
    assert not facts.wants_usage
    assert forwarded(facts, name)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in forwarded(facts, name, inject_usage=False)
    running = forwarded(facts, name, continuous_usage_stats=True)["stream_options"]
    assert running == {"include_usage": True, "continuous_usage_stats": True}
    assert "stream_options" not in forwarded(read(name), name)


def test_usage_that_the_client_asked_for_is_not_hidden() -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    facts = read("openai_chat", stream=True, stream_options=options)
    assert facts.wants_usage
    assert forwarded(facts, "openai_chat")["stream_options"] == options


@pytest.mark.parametrize("name", ["openai_chat", "openai_completions"])
@pytest.mark.parametrize(
    "options",
    [[], "x", 1, {"include_usage": 1}, {"include_usage": "true"}, {"Include_Usage": False}],
)
def test_stream_options_must_be_exact(name: str, options: object) -> None:
    assert (refusal(name, stream=True, stream_options=options).param or "").startswith(
        "stream_options"
    )


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("value", [1, 0, "true", "false", [], {}])
def test_stream_must_be_a_boolean(name: str, value: object) -> None:
    assert refusal(name, stream=value).param == "stream"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("openai_chat", "max_tokens"),
        ("openai_completions", "max_tokens"),
        ("openai_responses", "max_output_tokens"),
    ],
)
def test_row_34_an_absent_maximum_is_filled_in(name: str, field: str) -> None:
    assert forwarded(read(name), name, max_output=77)[field] == 77
    assert field not in forwarded(read(name), name)
    given = read(name, **{field: 5})
    assert forwarded(given, name, max_output=77)[field] == 5


def test_the_name_of_the_maximum_follows_the_upstream() -> None:
    facts = read("openai_chat", max_tokens=None)
    document = forwarded(
        facts, "openai_chat", max_output=77, max_output_field="max_completion_tokens"
    )
    assert document["max_completion_tokens"] == 77
    assert document["max_tokens"] is None


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize(
    "field",
    [
        *(
            "api_base",
            "base_url",
            "api_key",
            "fallbacks",
            "models",
            "mcp_servers",
            "context_management",
        ),
        *(
            "background",
            "previous_response_id",
            "conversation",
            "container",
            "store",
            "chat_template",
        ),
    ],
)
def test_rows_42_49_50_what_makes_the_price_a_lie_is_refused(name: str, field: str) -> None:
    assert refusal(name, **{field: "x"}).param == field


@pytest.mark.parametrize("name", ["openai_chat", "openai_completions", "openai_responses"])
def test_fields_that_say_no_are_harmless(name: str) -> None:
    read(name, background=False, store=False, previous_response_id=None, fallbacks=[])


def test_a_route_that_owns_its_credential_may_allow_stateful_ids() -> None:
    own = ReadOptions(allow_stateful_ids=True)
    facts = read("openai_responses", own, previous_response_id="resp_1", store=True)
    assert forwarded(facts, "openai_responses")["store"] is True
    with pytest.raises(BadRequest):
        read("openai_responses", own, background=True)
    parts = chat_of({"type": "file", "file": {"file_id": "file-1"}})
    assert read("openai_chat", own, messages=parts).unmeasured == Unmeasured(
        "document", "messages[0].content[0]"
    )
    assert facts.unmeasured == Unmeasured("stored", "previous_response_id")


def test_responses_are_not_stored() -> None:
    assert forwarded(read("openai_responses"), "openai_responses")["store"] is False
    assert forwarded(read("openai_responses", store=None), "openai_responses")["store"] is False
    assert refusal("openai_responses", store=True).param == "store"


@pytest.mark.parametrize("name", ["openai_chat", "openai_completions", "openai_responses"])
def test_a_service_tier_is_read_and_auto_becomes_the_only_one_it_may_be(name: str) -> None:
    auto = read(name, service_tier="auto")
    assert auto.service_tier is None
    assert forwarded(auto, name)["service_tier"] == "auto"
    assert forwarded(auto, name, service_tier="default")["service_tier"] == "default"
    flex = read(name, service_tier="flex")
    assert flex.service_tier == "flex"
    assert forwarded(flex, name, service_tier="default")["service_tier"] == "flex"
    assert "service_tier" not in forwarded(read(name), name, service_tier="default")
    for tier in ("default", "standard", "on_demand"):
        assert read(name, service_tier=tier).service_tier == "default"
    for wrong in (1, True, ["flex"]):
        assert refusal(name, service_tier=wrong).param == "service_tier"


def test_anthropic_s_auto_becomes_the_standard_tier_alone() -> None:
    name = "anthropic_messages"
    auto = read(name, service_tier="auto")
    assert auto.service_tier is None
    assert forwarded(auto, name)["service_tier"] == "auto"
    assert forwarded(auto, name, service_tier="default")["service_tier"] == "standard_only"
    assert forwarded(auto, name, service_tier="priority")["service_tier"] == "auto"
    assert read(name, service_tier="standard_only").service_tier == "default"
    for wrong in ("flex", "default", 1, ""):
        assert refusal(name, service_tier=wrong).param == "service_tier"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_file", "file_id": "file-1"},
        {"type": "image", "source": {"type": "file", "file_id": "file-1"}},
        {"type": "document", "source": {"type": "file", "file_id": "file-1"}},
        {"type": "container_upload", "file_id": "file-1"},
        {"type": "text", "Type": "image_url"},
        {"type": "image_url", "Image_URL": {"url": "x"}},
    ],
)
@pytest.mark.parametrize("name", ["openai_chat", "openai_responses", "anthropic_messages"])
def test_row_49_parts_that_name_stored_files_are_refused(name: str, part: object) -> None:
    where = "input" if name == "openai_responses" else "messages"
    error = refusal(name, **{where: [{"role": "user", "content": [part]}]})
    assert (error.param or "").startswith(f"{where}[0].content[0]")


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_1"},
        {"id": "msg_1"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "mcp_call", "id": "mcp_1", "name": "x"},
        {"type": "compaction_trigger"},
    ],
)
def test_response_items_that_name_something_stored_are_refused(item: dict[str, Any]) -> None:
    assert (refusal("openai_responses", input=[item]).param or "").startswith("input[0]")


def test_a_stored_prompt_or_answer_is_refused() -> None:
    assert refusal("openai_responses", prompt={"id": "pmpt_1"}).param == "prompt"
    message = {"role": "assistant", "audio": {"id": "audio_1"}}
    assert refusal("openai_chat", messages=[message]).param == "messages[0].audio.id"


def test_response_items_of_an_agent_are_read() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {"type": "function_call", "call_id": "c", "name": "tide", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "low"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_text", "text": "x"}],
        },
        {"type": "message", "role": "assistant", "id": "msg_1", "content": "ok"},
    ]
    assert read("openai_responses", input=items, instructions="Be brief.").input_bound > 60


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("openai_chat", {"type": "web_search"}),
        ("openai_chat", {"type": "FUNCTION", "function": {"name": "f"}}),
        ("openai_chat", {"type": "function", "Type": "web_search"}),
        ("openai_chat", {"type": None}),
        ("openai_chat", "web_search"),
        ("openai_responses", {"type": "web_search_preview"}),
        ("openai_responses", {"type": "code_interpreter", "container": {"type": "auto"}}),
        ("openai_responses", {"type": "file_search", "vector_store_ids": ["vs_1"]}),
        ("openai_responses", {"type": "image_generation"}),
        ("openai_responses", {"type": "mcp", "server_url": "https://example.org"}),
        ("openai_responses", {"name": "no type"}),
        ("anthropic_messages", {"type": "web_search_20250305", "name": "web_search"}),
        ("anthropic_messages", {"type": "code_execution_20250825", "name": "code_execution"}),
        ("anthropic_messages", {"type": "web_fetch_20250910", "name": "web_fetch"}),
        ("anthropic_messages", {"type": 5}),
        ("anthropic_messages", {"type": "custom", "Type": "web_search_20250305"}),
    ],
)
def test_row_51_hosted_tools_are_refused(name: str, tool: object) -> None:
    assert (refusal(name, tools=[tool]).param or "").startswith("tools[0]")


def test_web_search_in_a_chat_is_refused_unless_priced() -> None:
    assert refusal("openai_chat", web_search_options={}).param == "web_search_options"
    priced = ReadOptions(priced_tools=frozenset({"web_search"}))
    assert read("openai_chat", priced, web_search_options={}).tool_calls == 1


def test_priced_tools_need_a_limit_and_widen_the_bound() -> None:
    priced = ReadOptions(
        template_overhead_tokens=0,
        reference_tokens=100,
        priced_tools=frozenset({"web_search"}),
    )
    tool = {"type": "web_search"}
    assert refusal("openai_responses", priced, tools=[tool]).param == "max_tool_calls"
    facts = read("openai_responses", priced, tools=[tool], max_tool_calls=3, max_output_tokens=10)
    assert facts.tool_calls == 3
    assert facts.input_bound >= 4 * (2 + 3 * 100 + 10)
    dated = {"type": "web_search_20250305", "name": "web_search"}
    assert refusal("anthropic_messages", priced, tools=[dated]).param == "tools[0].max_uses"
    facts = read("anthropic_messages", priced, tools=[{**dated, "max_uses": 2}])
    assert facts.tool_calls == 2


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("openai_chat", {"type": "function", "function": {"name": "f", "parameters": {"Type": 1}}}),
        ("openai_chat", {"function": {"name": "f"}}),
        ("openai_responses", {"type": "function", "name": "f", "parameters": {}}),
        ("openai_responses", {"type": "custom", "name": "f"}),
        ("openai_responses", {"type": "computer_use_preview"}),
        ("anthropic_messages", {"name": "f", "input_schema": {"properties": {"file_id": {}}}}),
        ("anthropic_messages", {"type": "bash_20250124", "name": "bash"}),
    ],
)
def test_tools_that_the_caller_runs_pass(name: str, tool: dict[str, Any]) -> None:
    assert read(name, tools=[tool]).input_bound > 1024


@pytest.mark.parametrize(
    "field", ["unheard_of", "fallbacks", "n", "max_completion_tokens", "thread"]
)
def test_anthropic_fields_are_an_allow_list(field: str) -> None:
    assert refusal("anthropic_messages", **{field: 3}).param == field


def test_anthropic_prices_of_place_and_speed() -> None:
    read("anthropic_messages", inference_geo="global", speed="standard", service_tier="auto")
    assert refusal("anthropic_messages", inference_geo="us").param == "inference_geo"
    assert refusal("anthropic_messages", speed="fast").param == "speed"
    assert refusal("anthropic_messages", service_tier="priority").param == "service_tier"


@pytest.mark.parametrize(
    "messages", [None, [], {}, "hi", [1], [{"content": "x"}], [{"role": 1, "content": ""}]]
)
@pytest.mark.parametrize("name", ["openai_chat", "anthropic_messages", "anthropic_count_tokens"])
def test_messages_must_be_messages(name: str, messages: object) -> None:
    assert (refusal(name, messages=messages).param or "").startswith("messages")


@pytest.mark.parametrize("content", [5, True, [5], [[]], [None]])
@pytest.mark.parametrize("name", ["openai_chat", "anthropic_messages"])
def test_content_must_be_text_or_parts(name: str, content: object) -> None:
    messages = [{"role": "user", "content": content}]
    assert (refusal(name, messages=messages).param or "").startswith("messages[0].content")


def test_sound_and_pictures_are_noticed() -> None:
    image = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x"}}
    facts = read("openai_chat", messages=chat_of(image))
    assert (facts.images, facts.audio) == (True, False)
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    assert read("openai_chat", messages=chat_of(sound)).audio
    assert read("openai_chat", modalities=["text", "audio"], audio={"voice": "x"}).audio
    assert not read("openai_chat", modalities=["text"]).audio


def test_row_43_an_image_url_is_forwarded_as_it_is() -> None:
    image = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x"}}
    facts = read("openai_chat", messages=chat_of(image))
    assert forwarded(facts, "openai_chat")["messages"] == chat_of(image)


def test_counting_tokens_costs_nothing() -> None:
    facts = read("anthropic_count_tokens", tools=[{"name": "f", "input_schema": {}}])
    assert (facts.input_bound, facts.output_bound, facts.choices) == (0, 0, 0)
    meter = DIALECTS["anthropic_count_tokens"].meter(facts, streaming=False)
    assert meter.feed(b'{"input_tokens": 12}') == b'{"input_tokens": 12}'
    meter.finish()
    assert (meter.facts.usage, meter.facts.usage_final) == ({}, True)


def test_a_free_route_passes_bytes_unread() -> None:
    generic = DIALECTS["generic"]
    facts = generic.read_request(b"\xff not json", EXACT)
    assert generic.forward_body(facts, ForwardOptions("x")) == b"\xff not json"
    assert (facts.input_bound, facts.output_bound, facts.choices) == (0, 0, 0)


def test_sampling_fields_of_other_servers_are_forwarded() -> None:
    facts = read("openai_chat", top_k=5, grammar="root ::= x")
    assert forwarded(facts, "openai_chat")["grammar"] == "root ::= x"


def test_the_document_is_not_in_the_repr() -> None:
    assert "hi" not in repr(read("openai_chat"))
