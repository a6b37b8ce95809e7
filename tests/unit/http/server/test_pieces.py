"""However a connection's bytes are cut into pieces, its requests come to the same.

Requests, valid and not, are fed to a connection in one piece, byte by byte and at random cuts, with
heads that repeat, so that some are recognised by their bytes and some are parsed.
"""

import asyncio
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.interface import BodyError, Exchange
from gateway.http.server.connection import Connection
from gateway.http.server.server import HttpServer

HOST = b"Host: gate.example\r\n"
POST = b"POST /v1/chat HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LIMIT_BYTES = 1000


def sized(body: bytes, fields: bytes = b"") -> bytes:
    return POST + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


REQUESTS = [
    sized(b"{}"),
    sized(b"x" * 40),
    sized(b"POST /evil HTTP/1.1\r\n\r\n"),
    sized(b"", b"A: b\r\n"),
    sized(b"y" * 12, b"A: b\r\n"),
    b"GET /a?b=c HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD /a HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"\r\n" + sized(b"after an empty line"),
    CHUNKED + b"2\r\n{}\r\n5;e=1\r\nabcde\r\n0\r\n\r\n",
    POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    POST + b"Content-Length: 03\r\n\r\nabc",
    POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"A : b\r\n\r\n",
    POST + b"A: b\n\r\n",
    b"BREW /pot HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /v1//chat HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}",
    b"\x16\x03\x01\x02\x00",
]


class Wire:
    """A transport that keeps what is written; as much of one as a connection uses."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = False

    def get_extra_info(self, _: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        assert not self.ended, "written behind the end"
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Everything is fed all the same, as one big read of a socket may."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""


Seen = list[tuple[Any, ...]]


async def served(pieces: Sequence[bytes]) -> tuple[Seen, bytes, bool]:
    """Feed pieces; returns what the handler saw, what the client got, and whether it was the end."""
    seen: Seen = []

    async def handler(exchange: Exchange) -> None:
        try:
            body: object = await exchange.read_body(LIMIT_BYTES)
        except BodyError as error:
            body = error.kind
        seen.append((exchange.method, exchange.path, exchange.query, exchange.headers(), body))
        await exchange.answer(200, b"", b"%d" % len(seen))

    server = HttpServer(handler)
    wire = Wire()
    connection = Connection(server, asyncio.get_running_loop())
    connection.connection_made(cast(asyncio.Transport, wire))
    for piece in pieces:
        connection.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(30):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    assert connection.task is None
    assert (server.connection_count, server.busy_count, server.budget.held_bytes) == (0, 0, 0)
    return seen, re.sub(rb"date: [^\r]*\r\n", b"", wire.written), wire.ended


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[a:b] for a, b in pairwise(ends) if a < b]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6),
    st.lists(st.integers(0, 1 << 16), max_size=12),
)
def test_cuts_change_nothing(requests: list[bytes], places: list[int]) -> None:
    # What has arrived behind a chunked body ends the connection. So such a request is last here.
    for at, request in enumerate(requests):
        if request.startswith(CHUNKED):
            requests = requests[: at + 1]
            break
    data = b"".join(requests)
    whole = asyncio.run(served([data]))
    assert asyncio.run(served(cut(data, places))) == whole
    assert asyncio.run(served([bytes([each]) for each in data])) == whole
    assert asyncio.run(served(requests)) == whole


@pytest.mark.parametrize(
    "rest", [sized(b"{}"), b"garbage", b"\x00" * 300, b"GET / HTTP/9.9\r\n\r\n"]
)
@pytest.mark.parametrize("request_", [REQUESTS[0], REQUESTS[5], REQUESTS[10]])
async def test_what_follows_a_request_never_changes_its_response(
    request_: bytes, rest: bytes
) -> None:
    seen, written, _ = await served([request_ + rest])
    alone, expected, _ = await served([request_])
    assert seen[:1] == alone
    # Behind a chunked body the connection ends, which the response says.
    assert written.replace(b"connection: close\r\n", b"").startswith(expected)
