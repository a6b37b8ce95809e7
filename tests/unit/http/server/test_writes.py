"""What a response hands to the transport, and when: as few writes as there are waits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from gateway.http.interface import ClientGone, Exchange
from gateway.http.server.connection import Connection
from gateway.http.server.server import HttpServer

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
END = b"0\r\n\r\n"
Handler = Callable[[Exchange], Awaitable[None]]


class Counting(asyncio.Transport):
    """A transport that keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def abort(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 0


async def writes_of(handler: Handler, request: bytes = GET) -> list[bytes]:
    """What one response wrote."""
    transport = Counting()
    connection = Connection(HttpServer(handler), asyncio.get_running_loop())
    connection.connection_made(cast(asyncio.Transport, transport))
    connection.data_received(request)
    for _ in range(20):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return transport.writes


async def test_a_complete_answer_is_one_write() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.answer(200, b"a: b\r\n", b"{}")

    [written] = await writes_of(handler)
    assert written.endswith(b"\r\n\r\n{}")


async def test_a_stream_that_is_at_hand_is_one_write() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"a: b\r\n", None, more=True)
        await exchange.write(b"one", more=True)
        await exchange.write(b"two", more=True)
        await exchange.end()

    [written] = await writes_of(handler)
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert written.endswith(b"a: b\r\n\r\n3\r\none\r\n3\r\ntwo\r\n" + END)


async def test_a_head_without_more_leaves_at_once_and_each_piece_too() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"", None)
        await exchange.write(b"one")
        await exchange.write(b"two")
        await exchange.end()

    head, *rest = await writes_of(handler)
    assert head.endswith(b"\r\n\r\n")
    assert rest == [b"3\r\none\r\n", b"3\r\ntwo\r\n", END]


async def test_what_was_kept_leaves_with_a_piece_that_nothing_follows() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"", None, more=True)
        await exchange.write(b"one")
        await asyncio.sleep(0)
        await exchange.end()

    first, last = await writes_of(handler)
    assert first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert last == END


async def test_what_is_kept_is_bounded() -> None:
    piece = b"x" * 1000

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"", None, more=True)
        for _ in range(50):
            await exchange.write(piece, more=True)
        await exchange.end()

    writes = await writes_of(handler)
    assert max(map(len, writes)) < 5000
    chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
    assert b"".join(writes).partition(b"\r\n\r\n")[2] == 50 * chunk + END


async def test_an_empty_write_sends_what_was_kept() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"", None, more=True)
        await exchange.write(b"")
        await exchange.end()

    head, last = await writes_of(handler)
    assert head.endswith(b"\r\n\r\n")
    assert last == END


async def test_an_aborted_response_shows_what_was_written_of_it() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"", None, more=True)
        await exchange.write(b"one", more=True)
        exchange.abort()

    [written] = await writes_of(handler)
    assert written.endswith(b"3\r\none\r\n")


async def test_a_large_piece_goes_out_behind_what_was_kept() -> None:
    large = b"x" * (300 * 1024)

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"", None, more=True)
        await exchange.write(b"one", more=True)
        await exchange.write(large, more=True)
        await exchange.end()

    writes = await writes_of(handler)
    assert writes[0].endswith(b"\r\n\r\n3\r\none\r\n")
    assert b"".join(writes[1:]) == b"%x\r\n%b\r\n" % (len(large), large) + END


@pytest.mark.parametrize(
    ("request_bytes", "body"),
    [
        (b"GET /a HTTP/1.0\r\nHost: a\r\n\r\n", b"onetwo"),
        (b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ],
)
async def test_a_body_without_chunks_is_complete_too(request_bytes: bytes, body: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"", None, more=True)
        await exchange.write(b"one", more=True)
        await exchange.write(b"two", more=True)
        await exchange.end()

    written = b"".join(await writes_of(handler, request_bytes))
    assert written.partition(b"\r\n\r\n")[2] == body


async def test_a_client_that_has_left_is_seen_though_nothing_would_be_sent_yet() -> None:
    seen = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"", None, more=True)
        exchange.abort()
        try:
            await exchange.write(b"one", more=True)
        except ClientGone:
            seen.append("gone")

    await writes_of(handler)
    assert seen == ["gone"]
