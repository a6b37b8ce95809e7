"""The bad-input catalogue's rows about HTTP, on the raw socket. Numbers are the catalogue's rows.

The handler behind the server counts its calls and reads the body, as the flow does: what the
server refuses by itself never reaches it; what it lets through, the flow can see and refuse.
"""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import brotli
import pytest
import zstandard

from gateway.dialects import DIALECTS
from gateway.flow.refusals import Refused
from gateway.flow.request_body import decode_in_thread, read_body_head
from gateway.http.interface import BodyError, Exchange
from gateway.http.server.limits import ServerLimits
from gateway.http.server.server import HttpServer
from tests.support.rawhttp import RawClient, free_socket

BODY_LIMIT_BYTES = 100_000
STATUS_OF_KIND = {
    "timeout": 408,
    "too_large": 413,
    "unsupported_media": 415,
    "bad_request": 400,
}


@dataclass
class Gate:
    """A server with a stub of a flow: one route, a strict key, 402 for who is broke."""

    server: HttpServer
    port: int
    calls: int = 0
    bodies: list[bytes] = field(default_factory=list)
    forwarded: int = 0

    async def handle(self, exchange: Exchange) -> None:
        self.calls += 1
        status = await self._decide(exchange)
        body = json.dumps({"error": {"message": "refused"}} if status != 200 else {}).encode()
        await exchange.answer(status, b"content-type: application/json\r\n", body)

    async def _decide(self, exchange: Exchange) -> int:
        if exchange.path != "/v1/chat/completions":
            return 404
        keys = exchange.header_values("authorization")
        if len(keys) > 1 or (keys and keys[0] not in ("Bearer good", "Bearer broke")):
            return 401
        if "key=" in exchange.query:
            return 401
        if keys == ["Bearer broke"]:
            return 402
        try:
            coding = read_body_head(exchange, DIALECTS["generic"]).coding
            body = await exchange.read_body(BODY_LIMIT_BYTES)
            if coding is not None:
                body = await decode_in_thread(body, coding, BODY_LIMIT_BYTES)
        except (BodyError, Refused) as error:
            return STATUS_OF_KIND[error.kind]
        self.bodies.append(body)
        self.forwarded += 1
        return 200


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    limits = ServerLimits(head_s=0.4, body_s=0.4, idle_s=30, linger_s=0.4)
    sock = free_socket()
    gate = Gate(None, sock.getsockname()[1])  # type: ignore[arg-type]
    gate.server = HttpServer(gate.handle, limits)
    await gate.server.start(sock)
    yield gate
    await gate.server.close()


LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: gate.example\r\n"
POST = LINE + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMALL = b"Content-Length: 2\r\n\r\n{}"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"


def target(path: bytes) -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + SMALL


def coded_rest(coding: bytes, body: bytes) -> bytes:
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    return b"Content-Encoding: " + coding + b"\r\n" + length + body


def coded(coding: bytes, body: bytes) -> bytes:
    return POST + coded_rest(coding, body)


CODINGS = {
    b"gzip": gzip.compress,
    b"x-gzip": gzip.compress,
    b"GZIP": gzip.compress,
    b"deflate": zlib.compress,
    b"br": brotli.compress,
    b"zstd": zstandard.compress,
    b"identity": bytes,
    b"identity, gzip": gzip.compress,
}


REFUSED = [
    (
        "1 CL and TE",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "1 TE and CL",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("2 two lengths", POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    ("2 the same length twice", POST + b"Content-Length: 2\r\n" + SMALL, 400),
    ("2 length +5", POST + b"Content-Length: +5\r\n\r\n[1,2]", 400),
    ("2 length -5", POST + b"Content-Length: -5\r\n\r\n[1,2]", 400),
    ("2 length list", POST + b"Content-Length: 2, 2\r\n\r\n{}", 400),
    ("3 TE xchunked", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("3 TE chunked twice", POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    ("4 TE on HTTP/1.0", CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n", 400),
    ("4 TE gzip, chunked", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    ("5 bare LF", LINE + b"Host: a\nContent-Length: 2\r\n\r\n{}", 400),
    ("5 bare LF everywhere", b"POST /v1/chat/completions HTTP/1.1\nHost: a\n\n", 400),
    ("5 obs-fold", POST + b"A: b\r\n c\r\n" + SMALL, 400),
    ("5 obs-fold at once", POST + b"A:\r\n c\r\n" + SMALL, 400),
    ("5 NUL in a header", POST + b"A: b\0c\r\n" + SMALL, 400),
    ("5 CR in a header", POST + b"A: b\rc\r\n" + SMALL, 400),
    ("5 space before the colon", POST + b"A : b\r\n" + SMALL, 400),
    ("6 chunk size 0x5", CHUNKED + b"0x5\r\n[1,2]\r\n0\r\n\r\n", 400),
    ("6 chunk size overflow", CHUNKED + b"f" * 17 + b"\r\n[1,2]\r\n0\r\n\r\n", 400),
    ("6 LF in a chunk extension", CHUNKED + b"5;a\nb\r\n[1,2]\r\n0\r\n\r\n", 400),
    ("6 bare LF chunks", CHUNKED + b"2\n{}\n0\n\n", 400),
    ("6 bytes behind a chunk", CHUNKED + b"2\r\n{}XX0\r\n\r\n", 400),
    ("8 no Host", LINE + SMALL, 400),
    ("8 two Hosts", POST + HOST + SMALL, 400),
    ("9 Host a/#@b", LINE + b"Host: a/#@b\r\n" + SMALL, 400),
    ("9 Host with a user", LINE + b"Host: u@b\r\n" + SMALL, 400),
    ("9 empty Host", LINE + b"Host: \r\n" + SMALL, 400),
    ("11 a header over 8 KB", POST + b"A: " + b"b" * 9_000 + b"\r\n" + SMALL, 431),
    ("11 a target over 8 KB", target(b"/v1/" + b"b" * 9_000), 431),
    ("11 200 headers", POST + b"".join(b"A%d: b\r\n" % i for i in range(200)) + SMALL, 400),
    ("13 h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("13 CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 400),
    ("13 TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ("14 TRACE", b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ("14 unknown method", b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ("14 method in lower case", b"post / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ("14 known to nobody here", b"PROPFIND / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    ("15 websocket with body", POST + WEBSOCKET + SMALL, 426),
    ("15 websocket", b"GET /v1/responses HTTP/1.1\r\n" + HOST + WEBSOCKET + b"\r\n", 426),
    (
        "15 websocket among others",
        POST + b"Connection: keep-alive, upgrade\r\nUpgrade: h2c, WebSocket\r\n" + SMALL,
        426,
    ),
    ("16 Expect: foo", POST + b"Expect: foo\r\n" + SMALL, 417),
    ("18 empty segment", target(b"/v1//chat/completions"), 404),
    ("18 parameters", target(b"/v1/chat/completions;a=b"), 404),
    ("19 escaped dots", target(b"/v1/%2e%2e/chat/completions"), 400),
    ("19 plain dots", target(b"/v1/x/../chat/completions"), 400),
    ("19 escaped slash", target(b"/v1%2fchat/completions"), 400),
    ("19 escaped letters", target(b"/v1/%63hat/completions"), 400),
    ("19 half an escape", target(b"/v1/%6"), 400),
    ("19 backslash", target(b"/v1\\chat/completions"), 400),
    ("20 absolute-form", target(b"http://gate.example/v1/chat/completions"), 400),
    ("20 fragment", target(b"/v1/chat/completions#x"), 400),
    ("20 fragment behind a query", target(b"/v1/chat/completions?a#x"), 400),
    ("20 asterisk-form", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    ("HTTP/0.9", b"GET /v1/chat/completions\r\n\r\n", 505),
    ("HTTP/2.0 in words", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    ("HTTP/1.2", b"GET / HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    ("bytes above ASCII in a target", target(b"/v1/\xc3\xa9"), 400),
]


@pytest.mark.parametrize(("sent", "status"), [pytest.param(s, c, id=i) for i, s, c in REFUSED])
async def test_the_server_refuses_it_in_json_closes_and_calls_nobody(
    gate: Gate, sent: bytes, status: int
) -> None:
    client = await RawClient.connect(gate.port)
    client.send(sent)
    answer = await client.answer()
    assert answer.status == status
    error = json.loads(answer.body)["error"]
    assert error["message"]
    assert error["type"] == ("api_error" if status >= 500 else "invalid_request_error")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["connection"] == ("close, upgrade" if status == 426 else "close")
    assert (answer.headers.get("upgrade") == "HTTP/1.1") is (status == 426)
    assert await client.closed()
    assert gate.calls == 0
    await client.close()


@pytest.mark.parametrize(("sent", "status"), [pytest.param(s, c, id=i) for i, s, c in REFUSED])
async def test_it_is_refused_the_same_when_it_comes_byte_by_byte(
    gate: Gate, sent: bytes, status: int
) -> None:
    client = await RawClient.connect(gate.port)
    for at in range(0, len(sent), max(1, len(sent) // 300)):
        client.send(sent[at : at + max(1, len(sent) // 300)])
        await asyncio.sleep(0)
    answer = await client.answer()
    # A method that is not yet whole cannot be told from bytes that are none.
    assert answer.status in ({status, 400} if status == 405 else {status})
    assert await client.closed()
    assert gate.forwarded == 0
    await client.close()


SEEN_BY_THE_FLOW = [
    ("18 other case", target(b"/v1/Chat/completions"), 404),
    ("18 trailing slash", target(b"/v1/chat/completions/"), 404),
    ("an escape that has to be one", target(b"/v1/a%20b"), 404),
    ("23 gzip, gzip", coded(b"gzip, gzip", gzip.compress(gzip.compress(b"{}"))), 415),
    ("23 gzip twice", POST + b"Content-Encoding: gzip\r\n" + coded_rest(b"gzip", b"{}"), 415),
    ("23 an unknown coding", coded(b"compress", b"{}"), 415),
    ("23 bad gzip", coded(b"gzip", b"xxx"), 400),
    ("23 bad deflate", coded(b"deflate", b"xxx"), 400),
    ("23 bad br", coded(b"br", b"xxx"), 400),
    ("23 bad zstd", coded(b"zstd", b"xxx"), 400),
    ("23 no gzip at all", coded(b"gzip", b""), 400),
    ("23 half a gzip", coded(b"gzip", gzip.compress(b"{}")[:-4]), 400),
    ("23 something behind a gzip", coded(b"gzip", gzip.compress(b"{}") + b"x"), 400),
    ("44 two Authorization", POST + b"Authorization: Bearer good\r\n" * 2 + SMALL, 401),
    ("44 key in the query", target(b"/v1/chat/completions?key=good"), 401),
    ("46 key of 8 KB", POST + b"Authorization: Bearer " + b"k" * 8_000 + b"\r\n" + SMALL, 401),
    ("46 key beyond ASCII", POST + b"Authorization: Bearer \xc3\xa9\xff\r\n" + SMALL, 401),
]


@pytest.mark.parametrize(
    ("sent", "status"), [pytest.param(s, c, id=i) for i, s, c in SEEN_BY_THE_FLOW]
)
async def test_the_flow_sees_it_as_it_was_sent(gate: Gate, sent: bytes, status: int) -> None:
    client = await RawClient.connect(gate.port)
    client.send(sent)
    assert (await client.answer()).status == status
    assert (gate.calls, gate.forwarded) == (1, 0)
    await client.close()


async def test_46_key_with_a_line_break_is_two_lines_and_one_bad_key(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    client.send(POST + b"Authorization: Bearer x\r\nX-Extra: y\r\n" + SMALL)
    assert (await client.answer()).status == 401
    await client.close()


async def test_7_trailers_are_dropped_and_reach_no_later_request(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    evil = CHUNKED + b"2\r\n{}\r\n0\r\nAuthorization: Bearer other\r\nX: y\r\n\r\n"
    client.send(evil + POST + SMALL)
    first = await client.answer()
    assert (first.status, gate.bodies) == (200, [b"{}"])
    assert first.headers["connection"] == "close"
    assert await client.closed(), "the parser would add the trailers to the next request"
    assert gate.calls == 1
    await client.close()


async def test_7_a_chunked_body_without_trailers_keeps_the_connection(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    for _ in range(3):
        client.send(CHUNKED + b"2;ext=1\r\n{}\r\n0\r\n\r\n")
        assert "connection" not in (await client.answer()).headers
    client.send(POST + SMALL)
    assert (await client.answer()).status == 200
    assert gate.bodies == [b"{}"] * 4
    await client.close()


async def test_10_a_truncated_body_is_408_at_the_deadline(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    client.send(POST + b"Content-Length: 100\r\n\r\n{")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert await client.closed()
    assert gate.forwarded == 0
    await client.close()


async def test_6_a_chunk_gone_bad_later_is_400_from_the_flow(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    client.send(CHUNKED + b"2\r\n{}\r\n")
    await asyncio.sleep(0.05)
    client.send(b"zz\r\n")
    assert (await client.answer()).status == 400
    assert await client.closed()
    assert (gate.calls, gate.forwarded) == (1, 0)
    await client.close()


@pytest.mark.parametrize("part", [b"P", POST, POST + b"A: b", POST + b"Content-Length: 2\r\n"])
async def test_12_a_part_of_a_head_is_closed_at_the_deadline(gate: Gate, part: bytes) -> None:
    client = await RawClient.connect(gate.port)
    client.send(part)
    assert (await client.answer()).status == 408
    assert await client.closed()
    assert gate.calls == 0
    await client.close()


async def test_12_dribbling_does_not_move_the_deadline(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)

    async def dribble() -> None:
        client.send(POST)
        while True:
            client.send(b"A: b\r\n")
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    assert (await client.answer()).status == 408
    assert await client.closed()
    dribbling.cancel()
    await client.close()


async def test_17_without_credit_the_body_is_never_invited(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    expect = b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    client.send(POST + b"Authorization: Bearer broke\r\n" + expect)
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (402, "close")
    assert await client.closed()
    await client.close()


async def test_17_with_credit_the_body_is_invited_once(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    client.send(POST + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    assert (await client.answer()).status == 100
    client.send(b"{")
    await asyncio.sleep(0.02)
    client.send(b"}")
    assert (await client.answer()).status == 200
    client.send(POST + SMALL)
    assert (await client.answer()).status == 200
    await client.close()


@pytest.mark.parametrize("coding", CODINGS, ids=bytes.decode)
@pytest.mark.parametrize("size", [2, 99_999, 100_000])
async def test_21_a_coded_body_is_decoded_once_within_the_limit(
    gate: Gate, coding: bytes, size: int
) -> None:
    body = (b"{}" * 50_000)[:size]
    client = await RawClient.connect(gate.port)
    client.send(coded(coding, CODINGS[coding](body)))
    assert (await client.answer()).status == 200
    assert gate.bodies == [body]
    await client.close()


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd"], ids=bytes.decode)
async def test_21_one_byte_more_than_the_limit_is_413(gate: Gate, coding: bytes) -> None:
    client = await RawClient.connect(gate.port)
    client.send(coded(coding, CODINGS[coding](bytes(BODY_LIMIT_BYTES + 1))))
    assert (await client.answer()).status == 413
    assert gate.bodies == []
    await client.close()


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd"], ids=bytes.decode)
async def test_22_a_bomb_costs_no_memory(gate: Gate, coding: bytes) -> None:
    bomb = CODINGS[coding](bytes(50_000_000))
    tracemalloc.start()
    client = await RawClient.connect(gate.port)
    client.send(coded(coding, bomb))
    assert (await client.answer()).status == 413
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    await client.close()


async def test_24_a_body_over_the_limit_is_refused_by_its_length_alone(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    client.send(POST + b"Content-Length: 100001\r\n\r\n")
    assert (await client.answer()).status == 413
    await client.close()


async def test_24_a_chunked_body_over_the_limit_is_refused_before_it_is_buffered(
    gate: Gate,
) -> None:
    client = await RawClient.connect(gate.port)
    client.send(CHUNKED)
    for _ in range(50):
        client.send(b"4e20\r\n" + b"x" * 20_000 + b"\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert gate.bodies == []
    await client.close()


async def test_24_a_body_at_the_limit_passes(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    client.send(POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000)
    assert (await client.answer()).status == 200
    assert gate.bodies == [b"x" * 100_000]
    await client.close()


async def test_38_nul_and_bytes_of_any_kind_in_a_body_reach_the_flow_unchanged(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    body = bytes(range(256))
    client.send(POST + b"Content-Length: 256\r\n\r\n" + body)
    assert (await client.answer()).status == 200
    assert gate.bodies == [body]
    await client.close()


async def test_a_refusal_waits_for_the_answers_before_it(gate: Gate) -> None:
    client = await RawClient.connect(gate.port)
    client.send(POST + SMALL)
    assert (await client.answer()).status == 200
    client.send(POST + b"Content-Length: 2\r\n\r\n")
    await asyncio.sleep(0.02)
    client.send(b"{}")
    await asyncio.sleep(0)
    client.send(b"POST /x HTTP/1.1\r\n" + b"A : b\r\n\r\n")
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 400
    assert await client.closed()
    await client.close()


@pytest.mark.parametrize("line", [b"GET /v1/chat/completions HTTP/1.1\r\n", LINE])
async def test_15_an_upgrade_to_h2c_is_ignored(gate: Gate, line: bytes) -> None:
    """Java's client offers it with every first request, body and all."""
    client = await RawClient.connect(gate.port)
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    for _ in range(2):
        client.send(line + HOST + offer + SMALL)
        answer = await client.answer()
        assert answer.status == 200
        assert answer.headers.get("connection") != "close"
        assert "upgrade" not in answer.headers
    assert gate.bodies == [b"{}"] * 2
    await client.close()
