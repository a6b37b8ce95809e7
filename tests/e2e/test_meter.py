"""The meter on real sockets and a real ledger: odd answers of an upstream, and what they cost.

`tests/unit/dialects/test_kinds.py` has every kind and its neighbours; here are those that need a
connection, and one of each kind to see that the money moves by it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from gateway.domain.events import Event
from tests.support.gate import KEY, Gate, digest, running_gate
from tests.support.metering import chunk, sse
from tests.support.rawhttp import RawClient, Received, ScriptedUpstream, ok
from tests.support.until import until
from tests.support.upstreams import Sim

PRICES = {"input": "3.00", "cache_read": "0.30", "cache_write": "3.75", "output": "15.00"}
CREDIT = 1_000_000_000
SSE = b"content-type: text/event-stream"
HEAD = b"HTTP/1.1 200 OK\r\n%b\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]"

Answer = Callable[[asyncio.StreamWriter], Any]
Serve = Callable[..., AbstractAsyncContextManager[Gate]]


def wire(data: bytes) -> bytes:
    """One chunk of chunked framing."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(*pieces: bytes, label: bytes = SSE, end: bool = True) -> Answer:
    """An answer in these pieces, without any delay; without an end it breaks off."""

    async def answer(writer: asyncio.StreamWriter) -> bool:
        writer.write(HEAD % label + b"".join(map(wire, pieces)) + (b"0\r\n\r\n" if end else b""))
        await writer.drain()
        return end

    return answer


def document(body: Any, label: bytes = b"content-type: application/json") -> Answer:
    """A document at once."""

    async def answer(writer: asyncio.StreamWriter) -> bool:
        writer.write(ok(body if isinstance(body, bytes) else orjson.dumps(body), label))
        await writer.drain()
        return True

    return answer


@pytest.fixture
def serve(tmp_path: Path, valkey_socket: Path) -> Serve:
    """A gate in front of an upstream that gives this answer."""

    @asynccontextmanager
    async def serve(
        answer: Answer, *, prices: Any = PRICES, amount: str = "10.00", **more: Any
    ) -> AsyncIterator[Gate]:
        async def respond(
            _: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> bool:
            result: bool = await answer(writer)
            return result

        upstream = ScriptedUpstream(respond)
        model = {"upstream": "sim", "prices": prices, "max_output_tokens": 8192}
        grants = [{"name": "start", "amount": amount, "category": "paid"}]
        keys = [{"id": "k_acme", "sha256": digest(KEY)}]
        async with (
            upstream.running(),
            running_gate(
                tmp_path,
                valkey_socket,
                f"http://127.0.0.1:{upstream.port}",
                models={"m": model},
                customers={"acme": {"grants": grants, "keys": keys}},
                **more,
            ) as gate,
        ):
            yield gate

    return serve


async def chat(gate: Gate, **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "hello"}]
    return await gate.post("/v1/chat/completions", {"model": "m", "messages": messages, **fields})


async def paid(gate: Gate, price: float) -> Event:
    """The one event charges this, and so was the wallet; nothing is held."""
    await until(lambda: not gate.live)
    event = await gate.one_event()
    assert event.amount_nano == round(price * CREDIT) == await gate.settled_nano()
    assert await gate.held_nano() == 0
    return event


def completion(**more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "words and words"}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **more}


# One of each kind


async def test_an_answer_of_nine_megabytes_is_charged_as_reported(serve: Serve) -> None:
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 4500, "totalTokenCount": 4510}
    part = {"inlineData": {"mimeType": "image/png", "data": "QUJD" * 2_250_000}}
    answer = {"candidates": [{"content": {"parts": [part]}}], "usageMetadata": usage}
    routes = {"g": {"path": "/v1beta/models/{model}:generateContent", "dialect": "gemini_generate"}}
    prices = {"input": "0.30", "output": "10.00"}
    async with serve(document(answer), prices=prices, routes=routes) as gate:
        body = {"contents": [{"parts": [{"text": "draw"}]}]}
        said = await gate.post("/v1beta/models/m:generateContent", body)
        assert said.json() == answer
        assert not (await paid(gate, 0.045003)).facts["flags"]


@pytest.mark.parametrize(("preset", "price"), [("balanced", 0.000093), ("strict", 0.01515375)])
async def test_zeros_are_no_report(serve: Serve, preset: str, price: float) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    async with serve(document(completion(usage=usage)), policy={"preset": preset}) as gate:
        await chat(gate, max_tokens=1000)
        assert (await paid(gate, price)).facts["flags"] == ["usage_missing"]


async def test_bytes_that_are_not_quite_json_pass_unchanged_and_are_read(serve: Serve) -> None:
    body = orjson.dumps(completion(usage={"prompt_tokens": 1000, "completion_tokens": 500}, x=0))
    body = body.replace(b'"x":0', b'"logprobs":{"a":-Infinity,"b":"\xff\\ud800"}') + b"\n\n"
    async with serve(document(body), policy={"preset": "strict"}) as gate:
        assert (await chat(gate)).content == body
        assert not (await paid(gate, 0.0105)).facts["flags"]


async def test_an_error_that_calls_itself_a_stream_costs_nothing(serve: Serve) -> None:
    error = {"object": "error", "message": "too long", "code": 400}
    for answer in (stream(sse(error, DONE)), document(error, SSE)):
        async with serve(answer, policy={"preset": "strict"}) as gate:
            await chat(gate, stream=True, max_tokens=1000)
            assert (await paid(gate, 0)).kind == "release"


@pytest.mark.parametrize("label", [b"content-type: text/plain", b"x-a: b"])
async def test_a_stream_passes_at_once_whatever_its_label(serve: Serve, label: bytes) -> None:
    shown = asyncio.Event()
    last = sse({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 200}}, DONE)

    async def answer(writer: asyncio.StreamWriter) -> bool:
        writer.write(HEAD % label + wire(sse(chunk("one"))))
        await shown.wait()
        writer.write(wire(last) + b"0\r\n\r\n")
        return True

    async with serve(answer) as gate:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with gate.client.stream(
            "POST", "/v1/chat/completions", json=body, headers=gate.headers
        ) as said:
            pieces = said.aiter_raw()
            assert await anext(pieces) == sse(chunk("one")), "before the rest exists"
            shown.set()
            assert b"".join([piece async for piece in pieces]) == sse(DONE)
        await paid(gate, 0.006)


async def test_a_search_of_a_chat_is_charged(serve: Serve) -> None:
    answer = completion(usage={"prompt_tokens": 100, "completion_tokens": 20})
    answer["choices"][0]["message"]["annotations"] = [{"type": "url_citation"}] * 2
    route = {
        "path": "/v1/chat/completions",
        "dialect": "openai_chat",
        "priced_tools": ["web_search"],
    }
    prices = {**PRICES, "per_tool_call": "0.01"}
    async with serve(document(answer), prices=prices, routes={"chat": route}) as gate:
        await chat(gate, web_search_options={})
        event = await paid(gate, 0.0106)
        assert event.usage["tool_call"] == 1


# What the gate writes into a stream


def openai_client(gate: Gate) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gate.url}/v1", api_key=KEY, max_retries=0)


async def read_stream(gate: Gate, **fields: Any) -> int:
    """Chunks with text that the official SDK gives, until it raises or ends."""
    answer = await openai_client(gate).chat.completions.create(
        model="m", stream=True, messages=[{"role": "user", "content": "hello"}], **fields
    )
    count = 0
    async for each in answer:
        count += bool(each.choices and each.choices[0].delta.content)
    return count


@pytest.mark.parametrize("at", [1, 5, 20, 60, 100])
async def test_an_error_behind_half_an_event_is_an_event_of_its_own(serve: Serve, at: int) -> None:
    half = sse(chunk("two"))[:at]
    async with serve(stream(sse(chunk("one")), half, end=False)) as gate:
        with pytest.raises(openai.APIError) as raised:
            await read_stream(gate)
        assert raised.value.code == "upstream_unreachable"
        assert (await gate.one_event()).usage["output"] == 1, "half an event was not passed on"


async def test_a_cost_comment_behind_an_event_without_an_end(serve: Serve) -> None:
    usage = sse({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 1}})
    async with serve(stream(sse(chunk("one")) + usage + DONE)) as gate:
        said = await gate.post(
            "/v1/chat/completions",
            {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]},
            {"x-credits-trailer": "1"},
        )
        frames = said.content.split(b"\n\n")
        assert frames[1] == DONE
        assert frames[2].startswith(b": x-credits-cost 0.000045")


@pytest.mark.parametrize("pieces", [1, 1500])
async def test_nothing_is_delivered_that_is_not_held(serve: Serve, pieces: int) -> None:
    frames = [sse(chunk(f"t{n}")) for n in range(1500)]
    size = len(frames) // pieces
    burst = [b"".join(frames[at : at + size]) for at in range(0, len(frames), size)]
    policy = {"preset": "balanced", "hold_output_tokens": 496}
    # 496 tokens of output, 41 of input at the dearest class: 0.00759375 credits.
    async with serve(stream(*burst), amount="0.0076", policy=policy) as gate:
        with pytest.raises(openai.APIError) as raised:
            await read_stream(gate)
        assert raised.value.code == "credit_balance_exhausted"
        event = await gate.one_event()
        assert {"cut", "credit_exhausted"} <= set(event.facts["flags"])
        said = await gate.events()
        assert event.amount_nano <= 7_600_000
        assert len(said) == 1


async def test_a_burst_is_delivered_as_far_as_it_is_held_to_the_token(serve: Serve) -> None:
    burst = b"".join(sse(chunk(f"t{n}")) for n in range(1500))
    policy = {"preset": "balanced", "hold_output_tokens": 496}
    async with serve(stream(burst), amount="0.0076", policy=policy) as gate:
        said = await chat(gate, stream=True)
        delivered = said.content.count(b'"content":"t')
        assert 0 < delivered <= 496
        assert (await gate.one_event()).usage["output"] == delivered


async def test_a_coded_burst_waits_as_a_whole(serve: Serve) -> None:
    import gzip

    burst = gzip.compress(b"".join(sse(chunk(f"t{n}")) for n in range(1500)))
    policy = {"preset": "balanced", "hold_output_tokens": 496}
    label = SSE + b"\r\ncontent-encoding: gzip"
    async with serve(stream(burst, label=label), amount="0.0076", policy=policy) as gate:
        with pytest.raises(httpx.RemoteProtocolError):
            await chat(gate, stream=True)
        event = await gate.one_event()
        assert event.amount_nano <= 7_600_000


async def test_a_funded_burst_is_delivered_in_full(serve: Serve) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 1500}}
    burst = b"".join(sse(chunk(f"t{n}")) for n in range(1500)) + sse(usage, DONE)
    policy = {"preset": "balanced", "hold_output_tokens": 100}
    async with serve(stream(burst), policy=policy) as gate:
        assert await read_stream(gate) == 1500
        await paid(gate, 10 * 3e-6 + 1500 * 15e-6)


@pytest.mark.parametrize("preset", ["strict", "balanced", "generous"])
async def test_a_stream_that_passes_its_own_maximum_is_cut(serve: Serve, preset: str) -> None:
    frames = [sse(chunk(f"t{n}")) for n in range(20_000)]
    burst = [b"".join(frames[at : at + 1000]) for at in range(0, len(frames), 1000)]
    async with serve(stream(*burst), amount="0.001", policy={"preset": preset}) as gate:
        said = await chat(gate, stream=True, max_tokens=16)
        assert said.content.count(b'"content":"t') <= 66, "what the wallet can pay"
        event = await gate.one_event()
        assert "cut" in event.facts["flags"]
        assert event.amount_nano <= 1_000_000


async def test_a_stream_that_ends_at_its_own_maximum_is_not_cut(serve: Serve) -> None:
    frames = [sse(chunk("fifteen letters")) for _ in range(16)]
    usage = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 16}}
    burst = stream(b"".join(frames) + sse(usage, DONE))
    # 0.00039375 credits are what the hold of this request needs.
    async with serve(burst, amount="0.0004", policy={"preset": "strict"}) as gate:
        assert await read_stream(gate, max_tokens=16) == 16
        event = await paid(gate, 10 * 3e-6 + 16 * 15e-6)
        assert not event.facts["flags"]


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"unheard-of"])
@pytest.mark.parametrize("streams", [True, False])
async def test_an_answer_that_cannot_be_decoded_costs_the_hold(
    serve: Serve, coding: bytes, streams: bool
) -> None:
    label = SSE if streams else b"content-type: application/json"
    broken = document(b"no such coding", label + b"\r\ncontent-encoding: " + coding)
    async with serve(broken) as gate:
        said = await chat_raw(gate, stream=streams, max_tokens=1000)
        assert said == b"no such coding", "bytes pass as they came"
        event = await paid(gate, 0.01515375)
        assert event.facts["flags"] == ["answer_unreadable"]
        assert event.facts["usage_source"] == "estimated"


async def chat_raw(gate: Gate, **fields: Any) -> bytes:
    """The bytes of an answer, whatever its coding says."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}
    async with gate.client.stream(
        "POST", "/v1/chat/completions", json=body, headers=gate.headers
    ) as said:
        return b"".join([piece async for piece in said.aiter_raw()])


# A JSON answer whose client has left


async def leave(gate: Gate, **fields: Any) -> None:
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}
    content = orjson.dumps(body)
    client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        + f"Authorization: {gate.headers['authorization']}\r\n".encode()
        + b"Content-Length: %d\r\n\r\n" % len(content)
        + content
    )
    await until(lambda: any(run.progress.stage == "sent" for run in gate.live))
    await asyncio.sleep(0.02)
    client.reset()


@pytest.mark.parametrize(
    ("preset", "learned", "price"),
    [
        ("strict", False, 0.01515375),
        ("balanced", False, 0.01515375),
        ("balanced", True, 0.000033 + 108 * 15e-6),
        ("generous", True, 0.000033),
    ],
)
async def test_a_drain_that_runs_out_is_charged_by_policy(
    serve: Serve, preset: str, learned: bool, price: float
) -> None:
    async def hang(_: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(30)
        return False

    async with serve(hang, policy={"preset": preset, "drain_max_ms": 100}) as gate:
        if learned:
            for _ in range(50):
                gate.service.expected.note("acme", "m", 100)
        await leave(gate, max_tokens=1000)
        event = await paid(gate, price)
        assert set(event.facts["flags"]) == {"client_gone", "undrained"}


@pytest.mark.parametrize("preset", ["strict", "balanced", "generous"])
async def test_a_drain_that_brings_the_report_charges_it(serve: Serve, preset: str) -> None:
    async def late(writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(0.2)
        answer = completion(usage={"prompt_tokens": 100, "completion_tokens": 20})
        writer.write(ok(orjson.dumps(answer), b"content-type: application/json"))
        return True

    async with serve(late, policy={"preset": preset}) as gate:
        await leave(gate, max_tokens=1000)
        event = await paid(gate, 0.0006)
        assert "undrained" not in event.facts["flags"]


@pytest.mark.parametrize("form", ["string", "float"])
async def test_row_48_a_number_in_another_form_is_a_number(
    tmp_path: Path, valkey_socket: Path, sim: Sim, form: str
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        said = await gate.chat(f"hi\nsim: tokens=5 input=20 usage={form}", max_tokens=8)
        assert said.status_code == 200
        event = await gate.one_event()
        wanted = (
            {"input": 20, "output": 5}
            if form == "string"
            else {"input": 20, "cache_read": 1, "output": 6}
        )
        assert (event.usage, event.facts["flags"]) == (wanted, [])
