"""Fields of a body that change the price or the place where a request runs: none reaches an upstream
unless the operator has listed it.
"""

from typing import Any

import orjson
import pytest

from gateway.dialects import DIALECTS
from gateway.dialects.base import Asked, BadRequest, ForwardOptions, ReadOptions

LEAST: dict[str, dict[str, Any]] = {
    "openai_chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "openai_completions": {"model": "m", "prompt": "hi"},
    "openai_embeddings": {"model": "m", "input": "hi"},
    "openai_responses": {"model": "m", "input": "hi"},
    "openai_images": {"model": "m", "prompt": "a fog"},
    "openai_speech": {"model": "m", "input": "hi", "voice": "alloy"},
    "anthropic_messages": {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
    },
    "gemini_generate": {"contents": [{"parts": [{"text": "hi"}]}]},
}

PROBES: dict[str, Any] = {
    # where it runs, and with which credential
    "api_base": "https://example.org",
    "apiBase": "https://example.org",
    "api_key": "sk-other",
    "apiKey": "sk-other",
    "api_version": "2027-01-01",
    "api_type": "azure",
    "azure_ad_token": "x",
    "base_url": "https://example.org",
    "base-url": "https://example.org",
    "baseURL": "https://example.org",
    "custom_llm_provider": "openai",
    "deployment_id": "big",
    "engine": "big",
    "extra_body": {"model": "big"},
    "extra_headers": {"x": "y"},
    "extra_query": {"x": "y"},
    "headers": {"x": "y"},
    "organization": "org-1",
    "project": "proj-1",
    "region": "us",
    "aws_region_name": "us-east-1",
    "vertex_project": "p",
    "vertex_location": "us",
    "workspace_id": "w",
    "user_profile_id": "u",
    "billing_policy": {"type": "billing_policy", "bill_to": "user_profile"},
    "access_programs": {"cyber": "standard"},
    "fallback_credit_token": "t",
    # another model, or more of them
    "fallback": "big",
    "fallbacks": ["big"],
    "context_window_fallbacks": [{"m": ["big"]}],
    "content_policy_fallbacks": [{"m": ["big"]}],
    "models": ["big"],
    "model_list": [{"model_name": "big"}],
    "model_id": "big",
    "modelVersion": "big",
    "provider": {"order": ["x"]},
    "preset": "big",
    "route": "fallback",
    "transforms": ["middle-out"],
    "mock_response": "x",
    "draft_model": "big",
    "lora_path": "adapter",
    "lora_request": {"name": "adapter"},
    "adapter_id": "adapter",
    "speculative_config": {"num_speculative_tokens": 9},
    # the same again, at a price each time
    "num_retries": 5,
    "max_retries": 5,
    "retry_policy": {"n": 5},
    "retries": 5,
    "hedging": True,
    "samples": 5,
    "num_return_sequences": 5,
    "num_generations": 5,
    "candidate_count": 5,
    "use_beam_search": True,
    "num_beams": 5,
    "beam_width": 5,
    # more output than was asked for
    "min_tokens": 1000,
    "min_new_tokens": 1000,
    "ignore_eos": True,
    "max_length": 100_000,
    "min_length": 1000,
    "max_gen_len": 100_000,
    "maxTokens": 100_000,
    "thinking_budget": 100_000,
    "prediction": {"type": "content", "content": "x"},
    # more input than the body shows
    "compaction": {"instructions": "x"},
    "mcp_servers": [{"url": "https://example.org"}],
    "plugins": [{"id": "web"}],
    "search_parameters": {"mode": "on"},
    "web_search": True,
    "enable_search": True,
    "search_mode": "academic",
    "web_search_parameters": {"x": 1},
    "connectors": [{"id": "web"}],
    "chat_template": "{{ messages }}",
    "data_sources": [{"type": "azure_search"}],
    "mm_processor_kwargs": {"num_crops": 64},
    "cachedContents": "cachedContents/1",
    "prompt_id": "p",
    # another rate
    "priority": -10,
    "tier": "priority",
    "serviceTierOverride": "priority",
    "performance_config": {"latency": "optimized"},
    "partial_images": 3,
    "frame_count": 64,
    "complexity": "high",
    # code and internals of the server
    "logits_processors": ["os.system"],
    "custom_logit_processor": "x",
    "kv_transfer_params": {"do_remote_decode": True},
    "vllm_xargs": {"x": 1},
    "data_parallel_rank": 3,
    "bootstrap_host": "example.org",
    "session_params": {"id": "s"},
    "request_id": "r",
    "rid": "r",
    "id_slot": 3,
    # what runs on, or is kept
    "background_options": {"x": 1},
    "deferred": True,
    "callbacks": ["https://example.org"],
    "webhook_url": "https://example.org",
    "cache": {"no-cache": True},
    "thread": "t",
    "assistant_id": "a",
    "metadata_url": "https://example.org",
}


def forward(name: str, fields: dict[str, Any], options: ReadOptions) -> dict[str, Any]:
    """Read the least valid request with these fields and write it out again. Raises BadRequest."""
    body = orjson.dumps({**LEAST[name], **fields})
    path = "/v1beta/models/m:generateContent" if name.startswith("gemini") else "/v1/x"
    dialect = DIALECTS[name]
    facts = dialect.read(Asked("POST", path, "", (), body), options)
    document: dict[str, Any] = orjson.loads(dialect.forward_body(facts, ForwardOptions("m")))
    return document


def test_the_probes_are_at_least_a_hundred() -> None:
    assert len(PROBES) >= 100


@pytest.mark.parametrize("name", LEAST)
def test_no_probe_reaches_an_upstream_unless_it_is_configured(name: str) -> None:
    for probe, value in PROBES.items():
        with pytest.raises(BadRequest) as refused:
            forward(name, {probe: value}, ReadOptions())
        assert (refused.value.param or "").endswith(probe)
        assert probe in refused.value.message
        if probe == probe.lower():  # capitals are refused where names could be taken for others
            listed = ReadOptions(extra_fields=frozenset({probe}))
            assert forward(name, {probe: value}, listed)[probe] == value


@pytest.mark.parametrize("name", LEAST)
def test_nesting_and_letters_do_not_hide_a_probe(name: str) -> None:
    for probe in ("Num_Retries", "NUM_RETRIES", "num-retries", " num_retries", "num_retries\u200b"):
        with pytest.raises(BadRequest):
            forward(name, {probe: 5}, ReadOptions())


@pytest.mark.parametrize("name", [name for name in LEAST if not name.startswith("gemini")])
@pytest.mark.parametrize("nothing", [None, False, "", [], {}])
def test_a_field_that_says_nothing_is_removed(name: str, nothing: object) -> None:
    document = forward(name, {"fallbacks": nothing, "unheard_of": nothing}, ReadOptions())
    assert {"fallbacks", "unheard_of"}.isdisjoint(document)


@pytest.mark.parametrize("name", LEAST)
def test_zero_says_something(name: str) -> None:
    with pytest.raises(BadRequest):
        forward(name, {"num_retries": 0}, ReadOptions())


@pytest.mark.parametrize("name", LEAST)
def test_listed_fields_are_counted_where_a_template_may_render_them(name: str) -> None:
    def bound(fields: dict[str, Any]) -> int:
        path = "/v1beta/models/m:generateContent"
        asked = Asked("POST", path, "", (), orjson.dumps({**LEAST[name], **fields}))
        listed = ReadOptions(extra_fields=frozenset({"persona"}))
        return DIALECTS[name].read(asked, listed).input_bound

    assert bound({"persona": "x" * 300}) >= bound({}) + 300


def test_the_operator_s_list_wins_over_the_gate_s_own_reasons() -> None:
    listed = ReadOptions(extra_fields=frozenset({"provider"}))
    document = forward("openai_chat", {"provider": {"order": ["x"]}}, listed)
    assert document["provider"] == {"order": ["x"]}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("openai_chat", {"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}}),
        ("openai_chat", {"chat_template_kwargs": {"enable_thinking": False}, "min_p": 0.1}),
        ("openai_chat", {"guided_json": {"type": "object"}, "repetition_penalty": 1.1}),
        ("openai_completions", {"mirostat": 2, "cache_prompt": True, "stop_token_ids": [1]}),
        ("openai_embeddings", {"input_type": "query", "dimensions": 8}),
        ("openai_responses", {"client_metadata": {"session": "s"}, "truncation": "auto"}),
        (
            "openai_responses",
            {"text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}},
        ),
        ("openai_images", {"background": "transparent", "safety_identifier": "u"}),
        ("openai_speech", {"speed": 1.25}),
        ("anthropic_messages", {"diagnostics": {"previous_message_id": "msg_1"}}),
    ],
)
def test_harmless_fields_pass(name: str, fields: dict[str, Any]) -> None:
    document = forward(name, fields, ReadOptions())
    for field, value in fields.items():
        assert document[field] == value


def test_neighbours_inside_fields_that_pass() -> None:
    for fields, param in (
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"Mode": "pro"}}, "reasoning.Mode"),
        (
            {"input": [{"type": "configuration_update", "reasoning": {"mode": "pro"}}]},
            "input[0].reasoning.mode",
        ),
        (
            {"prompt_cache_options": {"comparison_response_id": "resp_1"}},
            "prompt_cache_options.comparison_response_id",
        ),
    ):
        with pytest.raises(BadRequest) as refused:
            forward("openai_responses", fields, ReadOptions())
        assert refused.value.param == param
