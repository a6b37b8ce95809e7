"""Gemini through the gate: the official SDK on real sockets, and the bad-input rows of its own.

No server that can be had here speaks Gemini's API, llama.cpp's does not: the simulated provider does,
in the documented shapes.
"""

import json
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import errors, types

from gateway.domain.events import Event
from tests.e2e.test_bad_input import nothing_moved, send
from tests.support.gate import BROKE_KEY, KEY, Gate, gate_config, running_gate
from tests.support.upstreams import Sim

INPUT, CACHED, OUTPUT = 1000, 100, 4000  # nano-credits a token, of the model `small`
GENERATE = "/v1beta/models/small:generateContent"
STREAM = "/v1beta/models/small:streamGenerateContent"


def client_of(gate: Gate, key: str = KEY) -> genai.Client:
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=gate.url))


def config(**more: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(**more)


async def charged(gate: Gate, usage: types.GenerateContentResponseUsageMetadata | None) -> Event:
    """The one event charges what the SDK reports, to the token, and so was the wallet."""
    assert usage is not None
    event = await gate.one_event()
    cached = usage.cached_content_token_count or 0
    prompt = (usage.prompt_token_count or 0) - cached
    out = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    assert event.amount_nano == prompt * INPUT + cached * CACHED + out * OUTPUT
    assert event.amount_nano == await gate.settled_nano()
    assert event.facts["usage_source"] == "provider_reported"
    assert await gate.held_nano() == 0
    return event


async def test_a_whole_answer(gate: Gate, sim: Sim) -> None:
    said = await client_of(gate).aio.models.generate_content(
        model="small",
        contents="Say hello.\nsim: tokens=9 reasoning=4 input=100 cached=60",
        config=config(max_output_tokens=50, system_instruction="Be brief."),
    )
    assert said.text
    event = await charged(gate, said.usage_metadata)
    assert event.usage == {"input": 40, "cache_read": 60, "output": 9 + 4}
    assert (event.facts["model"], event.facts["finish_reason"]) == ("small", "STOP")
    assert event.facts["response_model"] == "small"
    assert event.facts["route"] == "/v1/models/{model}:generateContent"


async def test_a_stream_reports_with_every_chunk_and_is_charged_once(gate: Gate, sim: Sim) -> None:
    stream = await client_of(gate).aio.models.generate_content_stream(
        model="small", contents="Say hello.\nsim: tokens=9 reasoning=4 input=100 cached=60"
    )
    chunks = [chunk async for chunk in stream]
    assert len(chunks) == 9
    assert all(chunk.usage_metadata for chunk in chunks)
    event = await charged(gate, chunks[-1].usage_metadata)
    assert event.usage == {"input": 40, "cache_read": 60, "output": 9 + 4}


async def test_a_stream_in_the_form_of_an_array(gate: Gate, sim: Sim) -> None:
    body = {"contents": [{"parts": [{"text": "hi\nsim: tokens=9 input=100"}]}]}
    answer = await gate.post(STREAM, body)
    assert answer.headers["content-type"].startswith("application/json")
    assert len(answer.json()) == 9
    event = await gate.one_event()
    assert event.usage == {"input": 100, "output": 9}
    assert event.facts["usage_source"] == "provider_reported"


async def test_an_upstream_has_its_own_name_for_the_model(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    models = gate_config(sim.url, tmp_path, "")["models"]
    models["small"]["upstream_model"] = "gemini-9-flash"
    async with running_gate(tmp_path, valkey_socket, sim.url, models=models) as gate:
        said = await client_of(gate).aio.models.generate_content(model="small", contents="hi")
        assert said.model_version == "gemini-9-flash"
        assert sim.provider.served.rows[-1].model == "gemini-9-flash"


async def test_candidates_multiply_the_hold(gate: Gate, sim: Sim) -> None:
    for count in (1, 5):
        await client_of(gate).aio.models.generate_content(
            model="small",
            contents="hi",
            config=config(candidate_count=count, max_output_tokens=100),
        )
    await gate.settle_all()
    one, five = [event.estimated_amount_nano for event in await gate.events()]
    assert five - one >= 4 * 100 * OUTPUT


async def test_counting_tokens_is_free(gate: Gate, sim: Sim) -> None:
    counted = await client_of(gate).aio.models.count_tokens(model="small", contents="Say hello.")
    assert counted.total_tokens
    event = await gate.one_event()
    assert (event.kind, event.amount_nano, event.estimated_amount_nano) == ("settle", 0, 0)


async def test_the_sdk_takes_402_for_final(gate: Gate, sim: Sim) -> None:
    with pytest.raises(errors.ClientError) as refused:
        await client_of(gate, BROKE_KEY).aio.models.generate_content(model="small", contents="hi")
    assert (refused.value.code, refused.value.status) == (402, "FAILED_PRECONDITION")
    assert "Add credits" in (refused.value.message or "")
    decisions = gate.service.snapshot()["creditgate_decisions_total"]["samples"]
    assert [["deny", "insufficient_credits"], 1] in decisions


async def test_a_bad_key_and_an_unpriced_model_are_said_in_google_s_words(gate: Gate) -> None:
    with pytest.raises(errors.ClientError) as refused:
        await client_of(gate, "sk-wrong").aio.models.generate_content(model="small", contents="hi")
    assert (refused.value.code, refused.value.status) == (401, "UNAUTHENTICATED")
    with pytest.raises(errors.ClientError) as unknown:
        await client_of(gate).aio.models.generate_content(model="unheard-of", contents="hi")
    assert (unknown.value.code, unknown.value.status) == (404, "NOT_FOUND")


@pytest.fixture
async def pocket(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    """A gate whose streams hold little at first, and a customer with little."""
    customers = gate_config(sim.url, tmp_path, "")["customers"]
    customers["acme"]["grants"][0]["amount"] = "0.001"
    policy = {"hold_output_tokens": 8, "exhausted_stream": "cut"}
    upstreams = {"sim": {"base_url": sim.url}}  # with time enough on a busy machine
    options: dict[str, Any] = {"customers": customers, "policy": policy, "upstreams": upstreams}
    async with running_gate(tmp_path, valkey_socket, sim.url, **options) as running:
        yield running


async def test_a_stream_whose_credit_ends_is_cut_with_an_error(pocket: Gate, sim: Sim) -> None:
    stream = await client_of(pocket).aio.models.generate_content_stream(
        model="small", contents="hi\nsim: tokens=2000 itl_ms=1 input=1"
    )
    with pytest.raises(errors.APIError) as cut:
        async for _ in stream:
            pass
    assert cut.value.code == 402
    event = await pocket.one_event()
    assert "credit_exhausted" in event.facts["flags"]
    assert 0 < event.amount_nano <= 1_000_000


async def test_an_array_whose_credit_ends_is_broken_off(pocket: Gate, sim: Sim) -> None:
    body = {"contents": [{"parts": [{"text": "hi\nsim: tokens=2000 itl_ms=1 input=1"}]}]}
    with pytest.raises(httpx.RemoteProtocolError):
        await pocket.post(STREAM, body)
    event = await pocket.one_event()
    assert "credit_exhausted" in event.facts["flags"]
    assert 0 < event.amount_nano <= 1_000_000


async def test_a_stream_that_the_upstream_breaks_off_ends_with_an_error(
    gate: Gate, sim: Sim
) -> None:
    stream = await client_of(gate).aio.models.generate_content_stream(
        model="small", contents="hi\nsim: tokens=20 cut=5"
    )
    with pytest.raises(errors.APIError) as cut:
        async for _ in stream:
            pass
    assert (cut.value.code, cut.value.status) == (502, "UNAVAILABLE")
    event = await gate.one_event()
    assert event.usage["output"] == 5


async def test_48_absurd_usage_is_a_capped_estimate(
    gate: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    for problem in ("negative", "huge"):
        with subtests.test(problem):
            event = await event_of(gate, GENERATE, f"hi\nsim: tokens=5 usage={problem}")
            assert event.facts["flags"] == ["usage_absurd"]
            assert 0 < event.amount_nano <= event.estimated_amount_nano


async def test_54_a_coded_answer_is_metered(
    gate: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    for coding, path in product(("gzip", "br", "zstd"), (GENERATE, STREAM, f"{STREAM}?alt=sse")):
        with subtests.test(f"{coding} {path}"):
            event = await event_of(gate, path, f"hi\nsim: tokens=7 coding={coding}")
            assert event.usage["output"] == 7


async def event_of(gate: Gate, path: str, text: str) -> Event:
    """The event of one answered request."""
    answer = await gate.post(path, {"contents": [{"parts": [{"text": text}]}]})
    assert answer.status_code == 200
    await gate.settle_all()
    request_id = answer.headers["x-request-id"]
    [event] = [e for e in await gate.events() if e.facts["request_id"] == request_id]
    return event


def good(**more: Any) -> bytes:
    return json.dumps({"contents": [{"parts": [{"text": "hi"}]}], **more}).encode()


BAD: list[tuple[str, str, bytes, int]] = [
    ("18 another case", "/v1beta/models/small:GenerateContent", good(), 404),
    ("18 an empty segment", "/v1beta/models//small:generateContent", good(), 404),
    ("18 a parameter", "/v1beta/models/small;v=2:generateContent", good(), 404),
    ("19 an escaped letter", "/v1beta/models/sm%61ll:generateContent", good(), 400),
    ("19 an escaped slash", "/v1beta/models/x%2fsmall:generateContent", good(), 400),
    ("19 an escaped colon", "/v1beta/models/small%3AgenerateContent", good(), 404),
    ("20 a fragment", f"{GENERATE}#x", good(), 400),
    ("25 two contents", GENERATE, good()[:-1] + b',"contents":[]}', 400),
    ("26 two spellings", GENERATE, good(generationConfig={}, generation_config={}), 400),
    ("27 no model", "/v1beta/models/:generateContent", good(), 404),
    ("28 an unpriced model", "/v1beta/models/unheard-of:generateContent", good(), 404),
    ("30 a maximum of text", GENERATE, good(generationConfig={"maxOutputTokens": "8"}), 400),
    ("31 a maximum of 10^9", GENERATE, good(generationConfig={"maxOutputTokens": 10**9}), 400),
    (
        "33 candidates of a dear model",
        "/v1beta/models/dear:generateContent",
        good(generationConfig={"candidateCount": 128, "maxOutputTokens": 4096}),
        402,
    ),
    ("38 trailing JSON", GENERATE, good() + b"{}", 400),
    ("38 an array", GENERATE, b"[" + good() + b"]", 400),
    ("41 another verb", "/v1beta/models/small:batchGenerateContent", good(), 404),
    ("41 another verb for embeddings", "/v1beta/models/small:embedContent", good(), 404),
    ("41 files", "/v1beta/files", good(), 404),
    ("42 another model in the body", GENERATE, good(model="models/dear"), 400),
    ("44 another key in the query", f"{GENERATE}?key={KEY}2", good(), 401),
    ("44 a key under another name", f"{GENERATE}?api_key={KEY}", good(), 400),
    ("49 a cache", GENERATE, good(cachedContent="cachedContents/1"), 400),
    ("51 a search", GENERATE, good(tools=[{"googleSearch": {}}]), 400),
    ("51 code", GENERATE, good(tools=[{"code_execution": {}}]), 400),
]


async def test_a_bad_request_is_refused_and_nothing_moves(
    gate: Gate, sim: Sim, subtests: pytest.Subtests
) -> None:
    for row, path, body, status in BAD:
        with subtests.test(row):
            answer = await send(gate, body, path=path)
            assert answer.status == status, answer.body
            assert json.loads(answer.body)["error"]["message"]
            assert KEY.encode() not in answer.body
            await nothing_moved(gate, sim)


async def test_47_a_named_request_is_another_with_another_model(gate: Gate, sim: Sim) -> None:
    named = {"idempotency-key": "k-1"}
    body = json.loads(good())
    assert (await gate.post(GENERATE, body, named)).status_code == 200
    other = await gate.post(GENERATE.replace("small", "dear"), body, named)
    assert other.status_code == 422
    assert sim.provider.served.posts == 1


async def test_47_a_repeat_is_told_that_it_was_done(gate: Gate, sim: Sim) -> None:
    named = {"idempotency-key": "k-1"}
    assert (await gate.post(GENERATE, json.loads(good()), named)).status_code == 200
    await gate.settle_all()
    repeat = await gate.post(GENERATE, json.loads(good()), named)
    assert repeat.status_code == 409
    assert repeat.json()["error"]["status"] == "ALREADY_EXISTS"
    assert sim.provider.served.posts == 1
