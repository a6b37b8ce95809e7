"""The simulated provider on real sockets: documented shapes, faults, and the truth about both."""

import asyncio
import gzip
import json
import ssl
from typing import Any

import anthropic
import brotli
import httpx
import openai
import pytest
import zstandard

from loadtest.faults import Controls, parse_controls
from loadtest.provider import Provider
from loadtest.tls import TlsFiles
from tests.support.upstreams import Sim, sim, sim_provider, sim_tls, tls_files

__all__ = ["sim", "sim_tls", "tls_files"]

MESSAGES = [{"role": "user", "content": "Tell me of the sea, please."}]


def body(**values: Any) -> dict[str, Any]:
    return {"model": "m", "messages": MESSAGES, "max_tokens": 100, **values}


def said(text: str, **values: Any) -> dict[str, Any]:
    """A chat whose message carries these controls."""
    return body(messages=[{"role": "user", "content": f"Hello.\nsim: {text}"}], **values)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


async def post(sim: Sim, path: str, document: Any, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=sim.url, timeout=5) as client:
        return await client.post(path, json=document, headers={"x-request-id": "r", **headers})


# -- the official clients understand it


async def test_openai_client_reads_chat_stream_completion_and_embedding(sim: Sim) -> None:
    async with openai.AsyncOpenAI(base_url=sim.url + "/v1", api_key="k") as client:
        chat = await client.chat.completions.create(**said("tokens=7 reasoning=3 cached=2"))
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 10
        assert chat.usage.completion_tokens_details is not None
        assert chat.usage.completion_tokens_details.reasoning_tokens == 3
        stream = await client.chat.completions.create(
            **said("tokens=7"), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        texts = [c.choices[0].delta.content for c in chunks if c.choices]
        assert len([text for text in texts if text]) == 7
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 7
        assert all(chunk.usage is None for chunk in chunks[:-1])
        old = await client.completions.create(model="m", prompt="Hello", max_tokens=4)
        assert old.usage is not None
        assert (old.usage.completion_tokens, old.choices[0].finish_reason) == (4, "length")
        vectors = await client.embeddings.create(model="m", input=["a", "b"], dimensions=3)
        assert [len(item.embedding) for item in vectors.data] == [3, 3]
        assert [model.id async for model in await client.models.list()] == list(sim.provider.models)


async def test_openai_client_reads_responses(sim: Sim) -> None:
    async with openai.AsyncOpenAI(base_url=sim.url + "/v1", api_key="k") as client:
        whole = await client.responses.create(model="m", input="sim: tokens=6 reasoning=4")
        assert whole.usage is not None
        assert (whole.status, whole.usage.output_tokens) == ("completed", 10)
        assert whole.usage.output_tokens_details.reasoning_tokens == 4
        async with client.responses.stream(
            model="m", input="sim: tokens=6 reasoning=4", max_output_tokens=8
        ) as stream:
            seen = [event async for event in stream]
        numbers = [event.sequence_number for event in seen if hasattr(event, "sequence_number")]
        assert numbers == sorted(set(numbers))
        assert [event.type for event in seen].count("response.output_text.delta") == 4
        assert seen[-1].type == "response.incomplete"


async def test_anthropic_client_reads_message_stream_and_count(sim: Sim) -> None:
    async with anthropic.AsyncAnthropic(base_url=sim.url, api_key="k") as client:
        request = said("tokens=5 reasoning=2 cached=3 cache_write=1")
        whole = await client.messages.create(**request)
        assert whole.usage.output_tokens == 7
        assert whole.usage.cache_read_input_tokens == 3
        counted = await client.messages.count_tokens(model="m", messages=request["messages"])
        cached = 3 + 1
        assert whole.usage.input_tokens + cached == counted.input_tokens
        async with client.messages.stream(**request) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_message()
        assert kinds.count("content_block_delta") == 5 + 2 + 1  # and the signature
        assert final.usage.output_tokens == 7
        assert final.usage.input_tokens == whole.usage.input_tokens


# -- usage agrees with what was sent


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_choices_and_prompts_multiply_the_output(sim: Sim, path: str) -> None:
    request = body(n=3, prompt=["a", "b"], user="sim: tokens=4", stream=True)
    request["stream_options"] = {"include_usage": True}
    answer = await post(sim, path, request)
    sent = events(answer)
    with_text = [e for e in sent if e["choices"] and "finish_reason" in e["choices"][0]]
    tokens = [
        e
        for e in with_text
        if e["choices"][0].get("delta", {}).get("content") or e["choices"][0].get("text")
    ]
    expected = 12 if path.endswith("chat/completions") else 24
    assert len(tokens) == expected
    assert sent[-1]["usage"]["completion_tokens"] == expected
    assert sim.row("r").output == expected


async def test_continuous_usage_counts_up_with_each_chunk(sim: Sim) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = await post(
        sim, "/v1/chat/completions", said("tokens=3", stream=True, stream_options=options)
    )
    running = [event["usage"]["completion_tokens"] for event in events(answer)]
    assert running == [0, 1, 2, 3, 3, 3]


async def test_max_tokens_cuts_the_answer_unless_told_to_ignore_it(sim: Sim) -> None:
    obedient = await post(sim, "/v1/chat/completions", said("tokens=50", max_tokens=10))
    assert obedient.json()["usage"]["completion_tokens"] == 10
    assert obedient.json()["choices"][0]["finish_reason"] == "length"
    wild = await post(sim, "/v1/chat/completions", said("tokens=50 ignore_max=1", max_tokens=10))
    assert wild.json()["usage"]["completion_tokens"] == 50


async def test_answers_differ_in_their_id_alone(sim: Sim) -> None:
    first = await post(sim, "/v1/chat/completions", body())
    second = await post(sim, "/v1/chat/completions", body())
    assert first.json().pop("id") != second.json().pop("id")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert {**first.json(), "id": ""} == {**second.json(), "id": ""}


# -- faults


@pytest.mark.parametrize(
    ("path", "shape"),
    [("/v1/chat/completions", ["error"]), ("/v1/messages", ["type", "error", "request_id"])],
)
async def test_an_error_has_its_providers_shape(sim: Sim, path: str, shape: list[str]) -> None:
    answer = await post(sim, path, said("status=529 retry_after=7"))
    assert answer.status_code == 529
    assert list(answer.json()) == shape
    assert answer.headers["retry-after"] == "7"
    assert (sim.row("r").status, sim.row("r").output, sim.row("r").input) == (529, 0, 0)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_cut_stream_has_sent_as_many_tokens_as_it_counts(
    sim: Sim, path: str, how: str
) -> None:
    request = said(f"tokens=9 cut=4 cut_how={how}", stream=True, input="sim: tokens=9 cut=4")
    got = bytearray()

    async def read_all() -> None:
        async with (
            httpx.AsyncClient(base_url=sim.url, timeout=5) as client,
            client.stream("POST", path, json=request, headers={"x-request-id": "r"}) as answer,
        ):
            async for piece in answer.aiter_raw():
                got.extend(piece)

    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await read_all()
    row = sim.row("r")
    assert (row.output, row.planned, row.state) == (4, 9, "broken")
    tokens = got.count(b'"delta":{"content"') + got.count(b"output_text.delta") // 2
    assert tokens + got.count(b"event: content_block_delta") == 4


@pytest.mark.parametrize("place", ["before_head", "after_head"])
async def test_a_reset_comes_where_it_was_asked(sim: Sim, place: str) -> None:
    with pytest.raises(httpx.ReadError):
        await post(sim, "/v1/chat/completions", said(f"rst={place}"))
    assert (sim.row("r").output, sim.row("r").state) == (0, "broken")


async def test_a_hanging_answer_never_begins(sim: Sim) -> None:
    async with httpx.AsyncClient(base_url=sim.url, timeout=0.2) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/chat/completions", json=said("hang=before_head"))


async def test_an_error_event_ends_a_stream_in_order(sim: Sim) -> None:
    answer = await post(sim, "/v1/messages", said("tokens=9 error_at=2", stream=True))
    assert events(answer)[-1] == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "simulated failure in the stream"},
    }
    assert sim.row("r").output == 2


@pytest.mark.parametrize(
    ("fault", "value"),
    [("negative", -17), ("string", "16"), ("float", 16.5), ("huge", 1 << 62)],
)
async def test_a_spoilt_usage_is_spoilt_as_named(sim: Sim, fault: str, value: Any) -> None:
    answer = await post(sim, "/v1/chat/completions", said(f"usage={fault}"))
    assert answer.json()["usage"]["completion_tokens"] == value
    assert sim.row("r").output == 16


@pytest.mark.parametrize("stream", [False, True])
async def test_a_missing_usage_is_absent(sim: Sim, stream: bool) -> None:
    options = {"include_usage": True}
    request = said("usage=missing", stream=stream, stream_options=options)
    answer = await post(sim, "/v1/chat/completions", request)
    reported = events(answer) if stream else [answer.json()]
    assert [document["usage"] for document in reported if document.get("usage")] == []


@pytest.mark.parametrize("length", ["short", "long"])
async def test_a_wrong_content_length_differs_from_the_body(sim: Sim, length: str) -> None:
    host, port = sim.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = json.dumps(said(f"length={length}")).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(request))
    writer.write(request)
    head, _, sent = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    declared = int(head.rpartition(b"content-length: ")[2])
    assert declared - len(sent) == (-10 if length == "short" else 10)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
async def test_a_coded_answer_decodes_to_the_same(sim: Sim, coding: str, stream: bool) -> None:
    plain = await post(sim, "/v1/chat/completions", said("tokens=5", stream=stream))
    raw = b""
    async with (
        httpx.AsyncClient(base_url=sim.url) as client,
        client.stream(
            "POST", "/v1/chat/completions", json=said(f"tokens=5 coding={coding}", stream=stream)
        ) as answer,
    ):
        assert answer.headers["content-encoding"] == coding
        async for piece in answer.aiter_raw():
            raw += piece
    decoders = {
        "gzip": gzip.decompress,
        "br": brotli.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }
    decoded = decoders[coding](raw)
    # the hello of this request is longer; only the id and the input count may differ
    assert decoded.count(b" the") == plain.content.count(b" the")
    assert b"@" not in decoded


async def test_a_dripped_answer_arrives_whole(sim: Sim) -> None:
    answer = await post(sim, "/v1/chat/completions", said("tokens=3 drip=7", stream=True))
    assert answer.text.endswith("data: [DONE]\n\n")
    assert sim.row("r").output == 3


async def test_a_stale_connection_is_reset_when_the_next_request_has_arrived(sim: Sim) -> None:
    async with httpx.AsyncClient(base_url=sim.url) as client:
        first = await client.post("/v1/chat/completions", json=said("stale=1"))
        assert first.status_code == 200
        with pytest.raises(httpx.ReadError):
            await client.post(
                "/v1/chat/completions", json=body(), headers={"x-request-id": "again"}
            )
    assert (sim.row("again").status, sim.row("again").state) == (0, "broken")


@pytest.mark.parametrize(("control", "announced"), [("close", True), ("drop", False)])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_ends_after_the_answer_announced_or_not(
    sim: Sim, control: str, announced: bool, stream: bool
) -> None:
    host, port = sim.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = json.dumps(said(f"{control}=1", stream=stream)).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(request))
    writer.write(request)
    whole = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert (b"connection: close" in whole) == announced
    assert whole.endswith(b"0\r\n\r\n" if stream else b"}}}")


async def test_an_unknown_control_is_answered_400(sim: Sim) -> None:
    answer = await post(sim, "/v1/chat/completions", body(), **{"x-sim": "tokns=5"})
    assert (answer.status_code, "tokns" in answer.text) == (400, True)


async def test_a_rate_of_faults_spares_the_rest() -> None:
    controls = parse_controls(Controls(), "status=500 rate=0.3")
    async with sim_provider(Provider(controls, seed=4)) as sim:
        async with httpx.AsyncClient(base_url=sim.url) as client:
            for _ in range(200):
                await client.post("/v1/chat/completions", json=body())
        assert 30 < sim.provider.served.totals()["errors"] < 90


# -- the ground truth


async def test_a_client_that_leaves_has_been_served_what_was_written(sim: Sim) -> None:
    request = said("tokens=1000 itl_ms=5", stream=True, max_tokens=1000)
    got = b""
    async with (
        httpx.AsyncClient(base_url=sim.url) as client,
        client.stream(
            "POST", "/v1/chat/completions", json=request, headers={"x-request-id": "r"}
        ) as answer,
    ):
        async for piece in answer.aiter_raw():
            got += piece
            if got.count(b"data: ") > 5:
                break
    row = sim.row("r")
    for _ in range(200):
        if row.state != "open":
            break
        await asyncio.sleep(0.01)
    received = got.count(b"data: ") - 1  # the role frame carries no token
    assert row.state == "broken"
    assert received <= row.output < 1000


async def test_a_client_that_does_not_read_is_not_served_everything(sim: Sim) -> None:
    host, port = sim.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    request = json.dumps(said("tokens=100000", stream=True, max_tokens=100_000)).encode()
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx-request-id: r\r\n")
    writer.write(b"content-length: %d\r\n\r\n" % len(request) + request)
    before = -1
    for _ in range(200):
        now = sum(row.output for row in sim.rows("r"))
        if now == before and now:
            break  # it has stopped writing
        before = now
        await asyncio.sleep(0.1)
    assert 0 < sim.row("r").output < 100_000
    writer.transport.abort()


async def test_the_report_counts_every_post_and_repeated_ids(sim: Sim) -> None:
    for _ in range(2):
        await post(sim, "/v1/chat/completions", said("tokens=3 tag=x"))
    async with httpx.AsyncClient(base_url=sim.url) as client:
        report = (await client.get("/_served")).json()
        assert report["totals"]["posts"] == 2
        assert report["totals"]["output_tokens"] == 6
        assert report["totals"]["repeated_ids"] == 1
        assert [row["tag"] for row in report["rows"]] == ["x", "x"]
        assert (await client.delete("/_served")).json()["totals"]["posts"] == 0
        assert "rows" not in (await client.get("/_served?rows=0")).json()


async def test_totals_stay_exact_beyond_the_kept_rows() -> None:
    async with sim_provider(Provider(rows_limit=2)) as sim:
        for _ in range(5):
            await post(sim, "/v1/chat/completions", said("tokens=3"))
        totals = sim.provider.served.totals()
        assert (totals["posts"], totals["complete"], totals["output_tokens"]) == (5, 5, 15)
        assert len(sim.provider.served.rows) == 2


async def test_headers_and_body_are_kept_when_recording(sim: Sim) -> None:
    await post(sim, "/v1/chat/completions", body(), authorization="Bearer secret")
    row = sim.row("r")
    assert ("authorization", "Bearer secret") in (row.headers or [])
    assert json.loads(row.body or "")["model"] == "m"


async def test_a_provider_with_a_key_refuses_any_other() -> None:
    async with sim_provider(Provider(api_key="right")) as sim:
        wrong = await post(sim, "/v1/messages", body(), **{"x-api-key": "wrong"})
        right = await post(sim, "/v1/messages", body(), **{"x-api-key": "right"})
        bearer = await post(sim, "/v1/messages", body(), authorization="Bearer right")
    assert [a.status_code for a in (wrong, right, bearer)] == [401, 200, 200]


async def test_pipelined_requests_are_answered_in_order(sim: Sim) -> None:
    host, port = sim.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for text in ("ttft_ms=30 tokens=1", "tokens=2"):
        request = json.dumps(said(text)).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n")
        writer.write(b"content-length: %d\r\n\r\n" % len(request) + request)
    got = b""
    while got.count(b"HTTP/1.1 200") < 2 or not got.endswith(b"}}}"):
        got += await reader.read(65536)
    writer.close()
    assert got.index(b'"completion_tokens":1,') < got.index(b'"completion_tokens":2,')


async def test_idle_connections_are_closed_when_asked() -> None:
    async with sim_provider(Provider(idle_close_s=0.02)) as sim:
        host, port = sim.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 2)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_tls_serves_the_same_and_resets_too(sim_tls: Sim, tls_files: TlsFiles) -> None:
    context: ssl.SSLContext = tls_files.client_context()
    async with httpx.AsyncClient(base_url=sim_tls.url, verify=context) as client:
        answer = await client.post("/v1/chat/completions", json=said("tokens=4"))
        assert answer.json()["usage"]["completion_tokens"] == 4
        with pytest.raises(httpx.HTTPError):
            await client.post("/v1/chat/completions", json=said("rst=after_head", stream=True))
