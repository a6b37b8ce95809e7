"""Answers on their way to the client, from an upstream that writes its bytes on cue."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from gateway.domain.events import Event
from gateway.flow import relay as module
from gateway.flow.reservation.growth import Growth
from gateway.http.server.exchange import ServedExchange
from tests.support.gate import KEY, Gate, digest, running_gate
from tests.support.rawhttp import RawClient, Received, ScriptedUpstream, ok
from tests.support.until import until

Script = Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Any]
Serve = Callable[..., AbstractAsyncContextManager[Gate]]

SSE = b"content-type: text/event-stream"
HEAD = b"HTTP/1.1 200 OK\r\n%b\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
JSON_ANSWER = orjson.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def frame(text: str) -> bytes:
    """One content chunk."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + orjson.dumps({"id": "c", "choices": [choice]}) + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_of(*pieces: bytes, head: bytes = SSE, end: bool = True) -> Script:
    """An upstream that streams these pieces; without an end it breaks off."""

    async def respond(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(HEAD % head)
        for piece in pieces:
            writer.write(chunk(piece))
            await writer.drain()
            await asyncio.sleep(0.01)
        if end:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return end

    return respond


@pytest.fixture
def serve(tmp_path: Path, valkey_socket: Path) -> Serve:
    """A gate in front of such an upstream."""

    @asynccontextmanager
    async def serve(respond: Script, **changes: Any) -> AsyncIterator[Gate]:
        upstream = ScriptedUpstream(respond)
        async with (
            upstream.running(),
            running_gate(
                tmp_path, valkey_socket, f"http://127.0.0.1:{upstream.port}", **changes
            ) as gate,
        ):
            yield gate

    return serve


async def ended(gate: Gate) -> Event:
    event = await gate.one_event()
    assert await gate.held_nano() == 0
    return event


async def test_frames_pass_as_they_are_sent_and_at_once(serve: Serve) -> None:
    shown = asyncio.Event()

    async def respond(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % SSE + chunk(frame("one")))
        await shown.wait()
        writer.write(chunk(b": a comment\n\n" + frame("two")) + chunk(USAGE + DONE) + b"0\r\n\r\n")

    async with serve(respond) as gate:
        body = {"model": "small", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        body["stream_options"] = {"include_usage": True}
        async with gate.client.stream(
            "POST", "/v1/chat/completions", json=body, headers=gate.headers
        ) as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == frame("one"), "before the next one exists"
            shown.set()
            rest = b"".join([piece async for piece in pieces])
        assert rest == b": a comment\n\n" + frame("two") + USAGE + DONE
        assert dict((await ended(gate)).usage) == {"input": 7, "output": 3}


async def test_the_usage_that_a_client_did_not_ask_for_is_hidden_and_charged(
    serve: Serve,
) -> None:
    async with serve(stream_of(frame("a"), USAGE[:20], USAGE[20:] + DONE)) as gate:
        answer = await gate.chat(stream=True)
        assert answer.content == frame("a") + DONE
        assert (await ended(gate)).usage["output"] == 3


async def test_a_stream_that_breaks_off_in_a_frame_ends_in_a_frame_of_its_own(
    serve: Serve,
) -> None:
    async with serve(stream_of(frame("a"), frame("b")[:15], end=False)) as gate:
        answer = await gate.chat(stream=True)
        frames = answer.content.split(b"\n\n")
        error = orjson.loads(frames[-3].removeprefix(b"data: "))
        assert error["choices"][0]["finish_reason"] == "error"
        assert error["error"]["code"] == "upstream_unreachable"
        assert frames[-2:] == [b"data: [DONE]", b""]
        event = await ended(gate)
        assert (event.kind, event.usage["output"]) == ("settle", 1)
        assert event.facts["flags"] == ["upstream_cut"]
        failures = gate.service.snapshot()["creditgate_upstream_failures_total"]["samples"]
        assert failures == [[["sim", "closed"], 1]]


async def test_a_coded_stream_that_breaks_off_is_broken_off_not_written_into(
    serve: Serve,
) -> None:
    coded = gzip.compress(frame("hello " * 50) + USAGE + DONE)
    head = SSE + b"\r\ncontent-encoding: gzip"
    async with serve(stream_of(coded[:-20], head=head, end=False)) as gate:
        with pytest.raises(httpx.RemoteProtocolError):
            await gate.chat(stream=True)
        assert (await ended(gate)).kind == "settle"


async def test_a_json_answer_to_who_asked_for_a_stream_is_a_json_answer(serve: Serve) -> None:
    async def respond(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(JSON_ANSWER, b"content-type: application/json"))

    async with serve(respond) as gate:
        answer = await gate.chat(stream=True)
        assert answer.content == JSON_ANSWER
        assert "x-credits-cost" in answer.headers
        assert dict((await ended(gate)).usage) == {"input": 7, "output": 3}


async def test_a_stream_to_who_asked_for_json_is_metered_as_one(serve: Serve) -> None:
    async with serve(stream_of(frame("a"), USAGE, DONE)) as gate:
        answer = await gate.chat(stream=False)
        assert frame("a") in answer.content
        assert (await ended(gate)).usage["output"] == 3


async def test_an_error_that_calls_itself_a_stream_is_released(serve: Serve) -> None:
    async def respond(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = ok(b"data: overloaded\n\n", SSE)
        writer.write(answer.replace(b"200 OK", b"529 Overloaded"))

    async with serve(respond) as gate:
        answer = await gate.chat(stream=True)
        assert (answer.status_code, answer.content) == (529, b"data: overloaded\n\n")
        assert answer.headers["x-error-source"] == "upstream"
        assert (await ended(gate)).kind == "release"


@pytest.mark.parametrize("whole", [True, False])
async def test_an_answer_too_large_to_wait_for_is_passed_on_as_it_comes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setattr(module, "WHOLE_ANSWER_MAX_BYTES", 1000)
    padded = orjson.dumps({"text": "x" * 5000, **orjson.loads(JSON_ANSWER)})
    pieces = [padded[at : at + 500] for at in range(0, len(padded), 500)]
    head = b"content-type: application/json"
    async with serve(stream_of(*(pieces if whole else pieces[:5]), head=head, end=whole)) as gate:
        if whole:
            answer = await gate.chat()
            assert answer.content == padded
            assert "x-credits-cost" not in answer.headers
            assert "x-credits-remaining" in answer.headers
            assert dict((await ended(gate)).usage) == {"input": 7, "output": 3}
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                await gate.chat()
            assert (await ended(gate)).kind == "release"


# When the client has gone


async def leave_after(gate: Gate, seen: bytes, **fields: Any) -> None:
    """Ask for a stream and reset the connection when this has come."""
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    body = {"model": "small", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    content = orjson.dumps({**body, **fields})
    client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        + f"Authorization: {gate.headers['authorization']}\r\n".encode()
        + b"Content-Length: %d\r\n\r\n" % len(content)
        + content
    )
    await client.reader.readuntil(seen)
    client.reset()


def frames_until(gone: asyncio.Event, *then: bytes, end: bool = True) -> Script:
    """Frames until the client has gone, then these."""

    async def respond(
        received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(HEAD % SSE)
        while not gone.is_set():
            writer.write(chunk(frame("a")))
            await asyncio.sleep(0.005)
        headless: Any = _Headless(writer)
        result: bool = await stream_of(*then, end=end)(received, reader, headless)
        return result

    return respond


class _Headless:
    """A writer that leaves out an answer's head: it was sent already."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1"):
            self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()


async def test_a_drain_reads_the_usage_that_comes_after_the_client_has_gone(
    serve: Serve,
) -> None:
    gone = asyncio.Event()
    script = frames_until(gone, *(frame("b") for _ in range(3)), USAGE, DONE)
    async with serve(script, policy={"disconnect_stream": "drain"}) as gate:
        await leave_after(gate, b"data: ")
        await asyncio.sleep(0.05)
        gone.set()
        await until(lambda: not gate.service.live)
        event = await ended(gate)
        assert dict(event.usage) == {"input": 7, "output": 3}
        assert set(event.facts["flags"]) == {"client_gone", "drained"}


async def test_a_drain_that_the_upstream_breaks_charges_what_was_seen(serve: Serve) -> None:
    gone = asyncio.Event()
    script = frames_until(gone, frame("b"), end=False)
    policy = {"disconnect_stream": "drain", "missing_usage": "hold"}
    async with serve(script, policy=policy) as gate:
        await leave_after(gate, b"data: ")
        await asyncio.sleep(0.05)
        gone.set()
        await until(lambda: not gate.service.live)
        event = await ended(gate)
        assert 1 <= event.usage["output"] < 200, "the fault is the upstream's: no hold is charged"
        assert {"client_gone", "drained", "upstream_failed"} <= set(event.facts["flags"])


async def test_a_drain_is_bounded_in_time(serve: Serve) -> None:
    policy = {"disconnect_stream": "drain", "drain_max_ms": 100}
    async with serve(frames_until(asyncio.Event()), policy=policy) as gate:
        await leave_after(gate, b"data: ")
        await until(lambda: not gate.service.live)
        event = await ended(gate)
        assert event.usage["output"] >= 1
        assert "drained" in event.facts["flags"]


# Free routes


FREE = {
    "free": {"path": "/v1/free", "dialect": "generic", "free": True, "upstream": "sim"},
}


@pytest.mark.parametrize(
    ("script", "status", "body"),
    [
        (stream_of(b"a", b"b", head=b"content-type: text/plain"), 200, b"ab"),
        (stream_of(frame("x"), head=SSE), 200, frame("x")),
    ],
)
async def test_a_free_response_passes_and_its_event_has_the_amount_0(
    serve: Serve, script: Script, status: int, body: bytes
) -> None:
    async with serve(script, routes=FREE) as gate:
        answer = await gate.post("/v1/free", {"any": "thing"})
        assert (answer.status_code, answer.content) == (status, body)
        assert "x-credits-reserved" not in answer.headers
        event = await gate.one_event()
        assert (event.amount_nano, event.estimated_amount_nano) == (0, 0)


async def test_a_free_answer_that_breaks_off_is_seen_to(serve: Serve) -> None:
    async with serve(stream_of(b"half", head=b"x-a: b", end=False), routes=FREE) as gate:
        with pytest.raises(httpx.RemoteProtocolError):
            await gate.post("/v1/free", {})


async def test_a_free_route_s_failures_are_said_to_be_the_upstream_s(serve: Serve) -> None:
    async def respond(
        received: Received, _: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if b"vanish" in received.body:
            return False
        writer.write(ok(b"no").replace(b"200 OK", b"503 Busy"))
        return True

    async with serve(respond, routes=FREE) as gate:
        busy = await gate.post("/v1/free", {})
        assert (busy.status_code, busy.headers["x-error-source"]) == (503, "upstream")
        lost = await gate.post("/v1/free", {"say": "vanish"})
        assert lost.status_code == 502
        failures = gate.service.snapshot()["creditgate_upstream_failures_total"]["samples"]
        assert failures == [[["sim", "closed"], 1]]
        denied = gate.service.snapshot()["creditgate_decisions_total"]["samples"]
        assert not [row for row in denied if row[0][0] == "deny"], "the gate refused nothing"


# A hold that grows while the client's buffer is full


async def test_what_waited_passes_when_the_hold_has_grown_meanwhile(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of what is covered takes long; the extension comes in before it returns."""
    frames = [frame(f"w{n}") for n in range(40)]
    grown = asyncio.Event()
    write = ServedExchange.write

    async def slowly(exchange: ServedExchange, data: bytes, *, more: bool = False) -> None:
        await write(exchange, data, more=more)
        if data.startswith(frames[0]):
            await asyncio.wait_for(grown.wait(), 10)

    monkeypatch.setattr(ServedExchange, "write", slowly)
    take = Growth._take

    def taken(growth: Growth, *answer: Any) -> None:
        take(growth, *answer)
        grown.set()

    monkeypatch.setattr(Growth, "_take", taken)
    policy = {"preset": "balanced", "hold_output_tokens": 30, "checkpoint_interval_ms": 100}
    async with serve(stream_of(b"".join(frames) + USAGE + DONE), policy=policy) as gate:
        answer = await gate.chat(stream=True)
        assert answer.content == b"".join(frames) + DONE
        assert dict((await ended(gate)).usage) == {"input": 7, "output": 3}


async def test_a_last_event_without_its_end_is_not_passed_beyond_the_hold(serve: Serve) -> None:
    last = frame("word " * 8000)[:-2]
    policy = {"preset": "balanced", "hold_output_tokens": 30}
    grants = [{"name": "start", "amount": "0.001", "category": "paid"}]
    customers = {"acme": {"grants": grants, "keys": [{"id": "k_acme", "sha256": digest(KEY)}]}}
    async with serve(stream_of(frame("a"), last), policy=policy, customers=customers) as gate:
        answer = await gate.chat(stream=True)
        assert b"word" not in answer.content
        event = await ended(gate)
        assert "cut" in event.facts["flags"]
        assert event.amount_nano <= 1_000_000
