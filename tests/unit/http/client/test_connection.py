"""One connection without sockets: however a response is cut into pieces, it is read the same."""

import asyncio
from itertools import pairwise
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.client.connection import UpstreamConnection
from gateway.http.client.head import HeadReader
from gateway.http.interface import UpstreamError

FRAMING = [
    [b"content-length: 5"],
    [b"Transfer-Encoding: chunked"],
    [],
    [b"Content-Length: 0"],
    [b"content-length: 05"],
    [b"content-length: x"],
    [b"transfer-encoding: gzip"],
    [b"content-length: 5", b"content-length: 5"],
    [b"content-length: 5", b"transfer-encoding: chunked"],
]
FIELDS = [
    b"Connection: close",
    b"connection: keep-alive, x-hop",
    b"X-Hop: 1",
    b"x-id: abc \t",
    b"bad field",
    b"a: b\x00",
]
STARTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 204\r\n",
    b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\n",
    b"HTTP/1.1 101 Switching\r\n",
    b"HTTP/1.1 099 No\r\n",
    b"HTTP/2 200\r\n",
    b"HTTP/1.1 200 OK\n",
]
BODIES = [
    b"",
    b"hello",
    b"hel",
    b"hello and more",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nA: b\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"5\r\nhelloX",
    b"zz\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
]


class Transport:
    """A transport that writes nowhere."""

    def __init__(self) -> None:
        self.closing = False

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Home:
    """A pool of one."""

    head_s = between_s = total_s = 9.0

    def __init__(self) -> None:
        self.heads = HeadReader()
        self.freed = 0

    def on_free(self, connection: UpstreamConnection) -> None:
        self.freed += 1

    def on_lost(self, connection: UpstreamConnection) -> None: ...


def outcome_of(
    loop: asyncio.AbstractEventLoop, home: Home, pieces: list[bytes], *, bodyless: bool, eof: bool
) -> tuple[Any, ...]:
    """What the caller of one request sees, and whether the connection may be used again."""
    home.freed = 0
    connection = UpstreamConnection(loop, home)
    transport = Transport()
    connection.connection_made(cast(asyncio.Transport, transport))
    request = connection.start(b"", bodyless=bodyless)
    for piece in pieces:
        connection.data_received(piece)
        if transport.closing:
            break
    if eof and not transport.closing:
        connection.eof_received()
        connection.connection_lost(None)
    usable = home.freed == 1 and not transport.closing
    if not request.done():
        return ("waiting",)
    try:
        response = request.result()
    except UpstreamError as error:
        return (error.cause, usable)
    body = response.take()
    failed = response.error.cause if response.error is not None else None
    return response.status, response.headers, body, response.done, failed, usable


@settings(max_examples=400, deadline=None)
@given(
    start=st.sampled_from(STARTS),
    framing=st.sampled_from(FRAMING),
    fields=st.lists(st.sampled_from(FIELDS), max_size=2),
    body=st.sampled_from(BODIES),
    cuts=st.sets(st.integers(1, 200), max_size=12),
    bodyless=st.booleans(),
    eof=st.booleans(),
)
def test_in_any_pieces_a_response_is_read_as_in_one(
    start: bytes,
    framing: list[bytes],
    fields: list[bytes],
    body: bytes,
    cuts: set[int],
    bodyless: bool,
    eof: bool,
) -> None:
    data = start + b"".join(field + b"\r\n" for field in (*fields, *framing)) + b"\r\n" + body
    boundaries = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in pairwise(boundaries)]
    bytewise = [data[at : at + 1] for at in range(len(data))]
    in_two = [[data[:at], data[at:]] for at in range(1, len(data))]
    home = Home()
    loop = asyncio.new_event_loop()
    try:
        expected = outcome_of(loop, home, [data], bodyless=bodyless, eof=eof)
        for each in (pieces, bytewise, [data], *in_two, pieces):  # the layout is known soon
            seen = outcome_of(loop, home, each, bodyless=bodyless, eof=eof)
            if expected[-1] is False and seen[-1] is True:
                # Bytes behind a complete response: a piece that ends before them cannot show them,
                # and the connection is looked at before its next use.
                assert seen[:-1] == expected[:-1]
            else:
                assert seen == expected
    finally:
        loop.close()
