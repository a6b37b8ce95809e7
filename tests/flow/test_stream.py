"""How a stream leaves the gate: nothing waits, and what arrived together is one write."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import pytest

from gateway.http.server.connection import Connection
from tests.flow.test_relay import DONE, HEAD, SSE, USAGE, chunk, frame
from tests.flow.test_relay import serve as serve
from tests.support.gate import Gate
from tests.support.rawhttp import RawClient, Received

Serve = Callable[..., AbstractAsyncContextManager[Gate]]
STREAM = b"".join(frame(f"w{number}") for number in range(20)) + USAGE + DONE


class Counted:
    """A transport that keeps what is written, and passes everything on."""

    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        """See `asyncio.Transport`."""
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Each write to a client."""
    kept: list[bytes] = []
    made = Connection.connection_made

    def counted(connection: Connection, transport: Any) -> None:
        made(connection, Counted(transport, kept))  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "connection_made", counted)
    return kept


async def ask(gate: Gate, **headers: str) -> RawClient:
    """Send a request for a stream with its usage."""
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    body = {"model": "small", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    content = orjson.dumps({**body, "stream_options": {"include_usage": True}})
    fields = {"authorization": gate.headers["authorization"], **headers}
    client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        + b"".join(f"{name}: {value}\r\n".encode() for name, value in fields.items())
        + b"Content-Length: %d\r\n\r\n" % len(content)
        + content
    )
    return client


async def at_once(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that sends the complete stream in one segment."""
    writer.write(HEAD % SSE + chunk(STREAM) + b"0\r\n\r\n")


async def test_a_stream_that_has_arrived_completely_is_one_write(
    serve: Serve, writes: list[bytes]
) -> None:
    async with serve(at_once) as gate:
        client = await ask(gate)
        answer = await client.answer()
        assert answer.body == STREAM
        assert len(writes) == 1
        event = await gate.one_event()
        assert dict(event.usage) == {"input": 7, "output": 3}
        await client.close()


async def test_the_cost_comes_behind_a_stream_that_is_sent_before_it_is_settled(
    serve: Serve, writes: list[bytes]
) -> None:
    async with serve(at_once) as gate:
        client = await ask(gate, **{"x-credits-trailer": "1"})
        answer = await client.answer()
        assert answer.body.startswith(STREAM + b": x-credits-cost ")
        assert STREAM in writes[0]
        assert b"x-credits-cost" not in writes[0]
        await client.close()


@pytest.mark.parametrize("beginning", [b"", chunk(frame("a")[:20])])
async def test_the_head_of_a_stream_that_is_slow_to_begin_leaves_at_once(
    serve: Serve, beginning: bytes
) -> None:
    seen = asyncio.Event()

    async def slow(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD % SSE + beginning)
        await seen.wait()
        rest = frame("a")[20:] if beginning else frame("a")
        writer.write(chunk(rest) + chunk(USAGE + DONE) + b"0\r\n\r\n")

    async with serve(slow) as gate:
        client = await ask(gate)
        async with asyncio.timeout(10):
            head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        seen.set()
        rest = await client.reader.readuntil(b"0\r\n\r\n")
        assert frame("a") in rest
        await client.close()


async def test_an_answer_in_json_is_one_write(serve: Serve, writes: list[bytes]) -> None:
    async def respond(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = orjson.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)

    async with serve(respond) as gate:
        answer = await gate.chat()
        assert answer.status_code == 200
        assert len(writes) == 1
