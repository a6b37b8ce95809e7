"""The upstream client against real sockets that do every wrong thing an upstream can do."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.http.client.idle import REST_AFTER_STREAM_S
from gateway.http.client.limits import PoolLimits, UpstreamTimeouts
from gateway.http.client.opening import upstream_tls
from gateway.http.client.pool import UpstreamPool
from gateway.http.client.response import BUFFER_HIGH_BYTES, PooledResponse, Response
from gateway.http.interface import Upstream, UpstreamError, UpstreamResponse, encode_fields
from loadtest.certificates import write_certificates
from tests.support.rawhttp import Received, Respond, ScriptedUpstream, ok, reset

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

QUICK = UpstreamTimeouts(connect_ms=200, head_ms=200, between_ms=200, idle_ms=60_000)
REPLAY_REQUESTS = int(os.environ.get("REPLAY_REQUESTS", "2000"))


@asynccontextmanager
async def upstream(
    respond: Respond,
    *,
    timeouts: UpstreamTimeouts | None = None,
    read_body: bool = True,
    connections_most: int = 100,
    waiting_most: int = 100,
) -> AsyncIterator[tuple[ScriptedUpstream, UpstreamPool]]:
    async with ScriptedUpstream(respond, read_body).running() as server:
        pool = UpstreamPool(
            "test",
            f"http://127.0.0.1:{server.port}",
            timeouts=timeouts,
            limits=PoolLimits(connections_most=connections_most, waiting_most=waiting_most),
        )
        try:
            yield server, pool
        finally:
            await pool.close()
            assert pool.open_count == 0


def says(*pieces: bytes, close: bool = False, pause_s: float = 0.0) -> Respond:
    """Answers with these pieces, with a pause between them."""

    async def respond(_: Received, _reader: Reader, writer: Writer) -> bool:
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(pause_s)
            writer.write(piece)
            await writer.drain()
        return not close

    return respond


async def post(pool: UpstreamPool, body: bytes = b"{}", owner: str = "") -> Response:
    fields = b"content-type: application/json\r\n"
    return await pool.send("POST", "/v1/x", fields, body, owner=owner)


async def whole(answer: UpstreamResponse) -> bytes:
    pieces = []
    while piece := await answer.read():
        pieces.append(piece)
    answer.close()
    return b"".join(pieces)


async def error_of(pool: UpstreamPool, body: bytes = b"{}") -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await whole(await post(pool, body))
    return caught.value


# What is sent


async def test_the_request_has_one_host_one_length_and_the_callers_fields() -> None:
    async with ScriptedUpstream(says(ok())).running() as server:
        pool: Upstream = UpstreamPool("test", f"http://127.0.0.1:{server.port}/base/")
        fields = [
            (b"Host", b"evil"),
            (b"Content-Length", b"9"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Connection", b"close"),
            (b"Authorization", b"Bearer x"),
            (b"X-Obs", b"\xff"),
        ]
        await whole(await pool.send("POST", "/v1/x?y=z", encode_fields(fields), b"body"))
        await whole(await pool.send("GET", "/v1/x", b"", b""))
        await whole(await pool.send("POST", "/v1/x", b"", b""))
        first, second, third = server.requests
        assert first.head.startswith(b"POST /base/v1/x?y=z HTTP/1.1\r\n")
        assert first.fields == [
            ("host", f"127.0.0.1:{server.port}"),
            ("authorization", "Bearer x"),
            ("x-obs", "\xff"),
            ("content-length", "4"),
        ]
        assert first.body == b"body"
        assert second.fields == [("host", f"127.0.0.1:{server.port}")]
        assert third.fields[-1] == ("content-length", "0")
        await pool.close()


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/x", (b"a", b"b\r\nc: d")),
        ("POST", "/x", (b"a", b"b\nc: d")),
        ("POST", "/x", (b"a", b"b\rc")),
        ("POST", "/x", (b"a\r\nb", b"c")),
        ("POST", "/x", (b"a", b"b\0")),
        ("POST", "/x y", (b"a", b"b")),
        ("POST", "/x\r\n", (b"a", b"b")),
        ("POST", "x", (b"a", b"b")),
        ("PO ST", "/x", (b"a", b"b")),
    ],
)
async def test_a_head_that_could_be_read_otherwise_is_never_sent(
    method: str, path: str, field: tuple[bytes, bytes]
) -> None:
    async with upstream(says(ok())) as (server, pool):
        with pytest.raises(ValueError):
            await pool.send(method, path, encode_fields([field]), b"")
        assert server.connections == 0


@pytest.mark.parametrize(
    "url", ["ftp://a", "http://", "a", "http://u:p@a", "http://a/?b", "http://a/#b"]
)
async def test_only_an_origin_with_a_path_is_a_base_url(url: str) -> None:
    with pytest.raises(ValueError):
        UpstreamPool("test", url)


async def test_a_big_body_arrives_whole() -> None:
    body = os.urandom(3_000_000)
    async with upstream(says(ok(b"done"))) as (server, pool):
        assert await whole(await post(pool, body)) == b"done"
        assert server.requests[0].body == body
        await whole(await post(pool))
        assert server.connections == 1


# What comes back

CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ANSWERS: dict[str, tuple[bytes, bytes, int]] = {
    "length": (ok(b"hello"), b"hello", 1),
    "empty": (ok(b""), b"", 1),
    "chunks": (CHUNKS + b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", b"hello", 1),
    "chunks with trailers": (CHUNKS + b"5\r\nhello\r\n0\r\nA: b\r\n\r\n", b"hello", 1),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", 1),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b"", 1),
    "interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + ok(b"hello"),
        b"hello",
        1,
    ),
    "connection: close": (ok(b"hello", b"connection: close"), b"hello", 2),
    "HTTP/1.0": (ok(b"hello").replace(b"1.1", b"1.0"), b"hello", 2),
    "HTTP/1.0 kept alive": (
        ok(b"hello", b"connection: keep-alive").replace(b"1.1", b"1.0"),
        b"hello",
        1,
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("cut", ["whole", "bytewise"])
async def test_each_framing_is_read_and_reused_as_it_allows(name: str, cut: str) -> None:
    raw, body, connections = ANSWERS[name]
    pieces = [raw] if cut == "whole" else [raw[i : i + 1] for i in range(len(raw))]
    async with upstream(says(*pieces)) as (server, pool):
        for _ in range(2):
            answer = await post(pool)
            assert await whole(answer) == body
            await asyncio.sleep(REST_AFTER_STREAM_S * 1.2)
        assert server.connections == connections
        assert not any(n.lower() in (b"connection", b"link") for n, _ in answer.headers)


async def test_a_body_until_close_ends_with_the_connection() -> None:
    raw = b"HTTP/1.1 200 OK\r\n\r\nhel"
    async with upstream(says(raw, b"lo", pause_s=0.02, close=True)) as (server, pool):
        assert await whole(await post(pool)) == b"hello"
        assert await whole(await post(pool)) == b"hello"
        assert server.connections == 2


async def test_head_has_no_body_whatever_its_length_says() -> None:
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
    async with upstream(says(raw)) as (_, pool):
        answer = await pool.send("HEAD", "/x", b"", b"")
        assert (answer.status, await whole(answer)) == (200, b"")
        answer = await pool.send("HEAD", "/x", b"", b"")
        assert (b"content-length", b"1000") in answer.headers


async def test_fields_of_the_hop_stay_here() -> None:
    raw = ok(
        b"", b"Connection: X-Hop, keep-alive", b"X-Hop: 1", b"Keep-Alive: timeout=5", b"X-End: 2"
    )
    async with upstream(says(raw)) as (_, pool):
        answer = await post(pool)
        assert answer.headers == [(b"x-end", b"2"), (b"content-length", b"0")]
        answer.close()


async def test_redirects_are_passed_on_not_followed() -> None:
    raw = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    async with upstream(says(raw)) as (server, pool):
        answer = await post(pool)
        assert answer.status == 302
        assert len(server.requests) == 1
        answer.close()


async def test_cookies_are_not_kept() -> None:
    async with upstream(says(ok(b"", b"set-cookie: a=b"))) as (server, pool):
        await whole(await post(pool))
        await whole(await post(pool))
        assert all(name != "cookie" for name, _ in server.requests[1].fields)


async def test_read_gives_what_has_arrived_at_once() -> None:
    pieces = [CHUNKS, b"1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n0\r\n\r\n"]
    async with upstream(says(*pieces, pause_s=0.05)) as (_, pool):
        answer = await post(pool)
        assert [await answer.read() for _ in range(3)] == [b"ab", b"c", b""]


# Faults

MALFORMED = {
    "not HTTP": b"hello\r\n\r\n",
    "not HTTP, without an end": b"hello",
    "status 000": ok().replace(b"200", b"000"),
    "status 099": ok().replace(b"200", b"099"),
    "status 600": ok().replace(b"200", b"600"),
    "status 999, without an end": b"HTTP/1.1 999",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "endless trailers": CHUNKS + b"0\r\n" + b"a: b\r\n" * 200,
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "CL and TE": CHUNKS[:-2] + b"content-length: 3\r\n\r\n0\r\n\r\n",
    "another transfer coding": CHUNKS.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
    "bad chunk": CHUNKS + b"zz\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "endless interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "a huge field": b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000 + b"\r\n\r\n",
    "a field without end": b"HTTP/1.1 200 OK\r\na: " + b"b" * 200_000,
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_answer_is_an_error_and_closes(name: str) -> None:
    async with upstream(says(MALFORMED[name])) as (server, pool):
        error = await error_of(pool)
        assert (error.sent, error.timeout) == (True, False)
        assert pool.idle_count == 0
        assert len(server.requests) == 1


async def test_bytes_behind_an_answer_close_the_connection_and_answer_nobody() -> None:
    async with upstream(says(ok(b"mine") + ok(b"slipped in"))) as (server, pool):
        for _ in range(2):
            assert await whole(await post(pool)) == b"mine"
        assert server.connections == 2


async def test_bytes_that_come_unasked_close_the_idle_connection() -> None:
    async with upstream(says(ok(b"mine"), ok(b"slipped in"), pause_s=0.05)) as (server, pool):
        assert await whole(await post(pool)) == b"mine"
        assert pool.idle_count == 1
        await asyncio.sleep(0.1)
        assert pool.open_count == 0
        assert await whole(await post(pool)) == b"mine"
        assert server.connections == 2


def resets(*pieces: bytes) -> Respond:
    async def respond(_: Received, _reader: Reader, writer: Writer) -> bool:
        for piece in pieces:
            writer.write(piece)
        await asyncio.sleep(0.03)
        reset(writer)
        return False

    return respond


async def test_reset_before_the_head_may_have_been_served() -> None:
    async with upstream(resets()) as (server, pool):
        assert (await error_of(pool)).sent
        assert len(server.requests) == 1


@pytest.mark.parametrize("end", ["reset", "close"])
async def test_what_came_before_a_cut_is_read_before_the_error(end: str) -> None:
    pieces = (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", b"hello")
    respond = resets(*pieces) if end == "reset" else says(*pieces, close=True)
    async with upstream(respond) as (_, pool):
        answer = await post(pool)
        await asyncio.sleep(0.1)
        assert await answer.read() == b"hello"
        for _ in range(2):
            with pytest.raises(UpstreamError) as caught:
                await answer.read()
            assert caught.value.sent
        assert pool.open_count == 0


async def test_nobody_listening_was_not_sent() -> None:
    async with ScriptedUpstream(says()).running() as server:
        pool = UpstreamPool("test", f"http://127.0.0.1:{server.port}")
    error = await error_of(pool)
    assert (error.sent, error.timeout) == (False, False)
    assert "ECONNREFUSED" in str(error)
    await pool.close()


async def test_a_name_that_does_not_resolve_was_not_sent() -> None:
    pool = UpstreamPool("test", "http://no-such-host.invalid")
    assert not (await error_of(pool)).sent
    await pool.close()


async def hangs(_: Received, reader: Reader, _writer: Writer) -> bool:
    await reader.read()
    return False


async def test_hang_while_connecting_is_a_timeout_not_sent() -> None:
    # Handshakes that nobody accepts: a TLS client waits for the server's hello.
    async with ScriptedUpstream(hangs).running() as server:
        pool = UpstreamPool("test", f"https://127.0.0.1:{server.port}", timeouts=QUICK)
        error = await error_of(pool)
        assert (error.sent, error.timeout) == (False, True)
        await pool.close()


async def test_hang_before_the_head_is_a_timeout_sent() -> None:
    async with upstream(hangs, timeouts=QUICK) as (_, pool):
        error = await error_of(pool)
        assert (error.sent, error.timeout) == (True, True)
        await asyncio.sleep(0.01)
        assert pool.open_count == 0


async def test_hang_in_the_head_is_a_timeout_sent() -> None:
    async with upstream(says(b"HTTP/1.1 200", b"", pause_s=9), timeouts=QUICK) as (_, pool):
        assert (await error_of(pool)).timeout


async def test_hang_while_the_request_is_written_is_a_timeout_sent() -> None:
    async def stuck(_: Received, _reader: Reader, writer: Writer) -> bool:
        await asyncio.sleep(9)
        return False

    async with upstream(stuck, timeouts=QUICK, read_body=False) as (_, pool):
        error = await error_of(pool, bytes(30_000_000))
        assert (error.sent, error.timeout) == (True, True)


async def test_hang_between_bytes_is_a_timeout_after_what_came() -> None:
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"
    async with upstream(says(raw, b"", pause_s=9), timeouts=QUICK) as (_, pool):
        answer = await post(pool)
        assert await answer.read() == b"hello"
        with pytest.raises(UpstreamError) as caught:
            await answer.read()
        assert caught.value.timeout


async def test_a_slow_reader_is_no_timeout() -> None:
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"
    async with upstream(says(raw, b"world", pause_s=0.02), timeouts=QUICK) as (_, pool):
        answer = await post(pool)
        await asyncio.sleep(0.5)
        assert await whole(answer) == b"helloworld"


async def test_the_total_bound_ends_an_answer_that_dribbles() -> None:
    times = UpstreamTimeouts(total_ms=300)
    dribble = [CHUNKS] + [b"1\r\nx\r\n"] * 1000
    async with upstream(says(*dribble, pause_s=0.02), timeouts=times) as (_, pool):
        assert (await error_of(pool)).timeout


async def test_an_early_refusal_of_a_big_body_is_an_answer() -> None:
    async def refuse(_: Received, reader: Reader, writer: Writer) -> bool:
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        await writer.drain()
        await asyncio.sleep(0.1)
        return False

    async with upstream(refuse, read_body=False) as (_, pool):
        answer = await post(pool, bytes(30_000_000))
        assert (answer.status, await whole(answer)) == (413, b"big")
        assert pool.idle_count == 0


async def test_an_early_success_does_not_stop_the_body() -> None:
    got = []

    async def echo(received: Received, reader: Reader, writer: Writer) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        await writer.drain()
        got.append(len(await reader.readexactly(5_000_000)))
        writer.write(b"ok")
        return True

    async with upstream(echo, read_body=False) as (_, pool):
        assert await whole(await post(pool, bytes(5_000_000))) == b"ok"
        assert got == [5_000_000]


# Keep-alive


async def test_a_connection_closed_while_idle_is_replaced_and_nothing_lost() -> None:
    async with upstream(says(ok(), close=True)) as (server, pool):
        for _ in range(20):
            await whole(await post(pool))
            await asyncio.sleep(0.01)
        assert len(server.requests) == 20


async def test_an_idle_connection_is_closed_before_servers_close_theirs() -> None:
    times = UpstreamTimeouts(idle_ms=80)
    async with upstream(says(ok()), timeouts=times) as (server, pool):
        await whole(await post(pool))
        assert pool.idle_count == 1
        await asyncio.sleep(0.3)
        assert pool.open_count == 0
        await whole(await post(pool))
        assert server.connections == 2


async def test_a_close_that_the_loop_has_not_seen_is_seen_before_the_next_request() -> None:
    async with upstream(says(ok())) as (server, pool):
        await whole(await post(pool))
        [connection] = pool._supply.connections
        assert connection.transport is not None
        connection.transport.pause_reading()  # the loop will not notice
        for task in asyncio.all_tasks():
            if task.get_coro().__qualname__.endswith("_serve"):  # type: ignore[union-attr]
                task.cancel()
        await asyncio.sleep(0.1)
        await whole(await post(pool))
        assert len(server.requests) == 2


async def test_stale_keep_alive_race_replays_nothing() -> None:
    """The upstream closes after each answer at a moment that falls around the next request."""
    seen: dict[str, int] = {}

    async def respond(received: Received, _: Reader, writer: Writer) -> bool:
        number = dict(received.fields)["x-number"]
        seen[number] = seen.get(number, 0) + 1
        writer.write(ok(b"x"))
        await asyncio.sleep((len(seen) % 7) * 0.0002)
        return len(seen) % 3 == 0

    answered, unknown, unsent = 0, 0, 0

    async def caller(pool: UpstreamPool, numbers: range) -> None:
        nonlocal answered, unknown, unsent
        for number in numbers:
            try:
                answer = await pool.send("POST", "/", b"x-number: %d\r\n" % number, b"{}")
                assert await whole(answer) == b"x"
                answered += 1
            except UpstreamError as error:
                unknown += error.sent
                unsent += not error.sent
            await asyncio.sleep((number % 5) * 0.0002)

    async with upstream(respond) as (_server, pool):
        share = REPLAY_REQUESTS // 8
        async with asyncio.TaskGroup() as group:
            for first in range(8):
                group.create_task(caller(pool, range(first * share, (first + 1) * share)))
        assert answered + unknown + unsent == share * 8
        assert max(seen.values()) == 1, "a POST was replayed"
        assert answered <= len(seen) <= answered + unknown
        assert answered > share


# The pool


async def test_connections_are_bounded_and_callers_wait_their_turn() -> None:
    async with upstream(says(b"", ok(), pause_s=0.01), connections_most=2) as (server, pool):
        answers = await asyncio.gather(*[post(pool) for _ in range(20)])
        assert [await whole(a) for a in answers] == [b"{}"] * 20
        assert server.connections == 2
        assert pool.waiting_count == 0


async def test_too_many_waiting_are_refused_unsent() -> None:
    async with upstream(hangs, connections_most=1, waiting_most=1) as (server, pool):
        served = asyncio.create_task(post(pool))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(post(pool))
        await asyncio.sleep(0)
        error = await error_of(pool)
        assert (error.sent, error.timeout) == (False, False)
        assert (len(server.requests), pool.waiting_count) == (1, 1)
        served.cancel()
        await asyncio.sleep(0.05)
        assert len(server.requests) == 2, "who waited has the place that became free"
        waiting.cancel()


async def test_waiting_is_bounded_in_time() -> None:
    times = UpstreamTimeouts(connect_ms=100)
    async with upstream(hangs, timeouts=times, connections_most=1) as (server, pool):
        first = asyncio.create_task(post(pool))
        await asyncio.sleep(0.02)
        error = await error_of(pool)
        assert (error.sent, error.cause) == (False, "busy")
        assert len(server.requests) == 1
        first.cancel()


async def test_a_cancelled_waiter_costs_nobody_a_connection() -> None:
    release = asyncio.Event()

    async def respond(_: Received, _reader: Reader, writer: Writer) -> bool:
        await release.wait()
        writer.write(ok())
        return True

    async with upstream(respond, connections_most=1) as (_, pool):
        first = asyncio.create_task(post(pool))
        await asyncio.sleep(0.02)
        waiters = [asyncio.create_task(post(pool)) for _ in range(3)]
        await asyncio.sleep(0.02)
        waiters[0].cancel()
        release.set()
        await whole(await first)
        waiters[1].cancel()
        await whole(await asyncio.wait_for(waiters[2], 2))
        assert (pool.idle_count, pool.open_count, pool.waiting_count) == (1, 1, 0)


async def test_a_cancelled_request_closes_its_connection() -> None:
    async with upstream(hangs) as (_, pool):
        task = asyncio.create_task(post(pool))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        assert pool.open_count == 0


async def test_close_in_the_middle_closes_the_connection_and_wakes_the_reader() -> None:
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"
    async with upstream(says(raw, b"", pause_s=9)) as (_, pool):
        answer = await post(pool)
        assert await answer.read() == b"hello"
        reading = asyncio.create_task(answer.read())
        await asyncio.sleep(0.01)
        answer.close()
        answer.close()
        with pytest.raises(UpstreamError):
            await reading
        await asyncio.sleep(0.05)
        assert pool.open_count == 0


async def test_closing_a_whole_answer_late_does_not_touch_who_has_its_connection_now() -> None:
    async with upstream(says(ok(b"a" * 10))) as (server, pool):
        first = await post(pool)
        second = await post(pool)
        first.close()
        assert await whole(second) == b"a" * 10
        assert server.connections == 1


async def test_closing_the_pool_ends_everything() -> None:
    async with upstream(hangs) as (_, pool):
        task = asyncio.create_task(post(pool))
        await asyncio.sleep(0.05)
        await pool.close()
        with pytest.raises(UpstreamError):
            await task
        error = await error_of(pool)
        assert not error.sent


# Back-pressure


async def test_a_reader_that_stops_stops_the_upstream_at_a_bound() -> None:
    written = 0

    async def flood(_: Received, _reader: Reader, writer: Writer) -> bool:
        nonlocal written
        writer.write(CHUNKS)
        for _piece in range(400):
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            await writer.drain()
            written += 65536
        writer.write(b"0\r\n\r\n")
        return True

    async with upstream(flood) as (_, pool):
        answer = await post(pool)
        await asyncio.sleep(0.3)
        assert isinstance(answer, PooledResponse)
        assert answer.size < BUFFER_HIGH_BYTES + 300_000
        stopped_at = written
        await asyncio.sleep(0.1)
        assert written == stopped_at < 400 * 65536
        assert len(await whole(answer)) == 400 * 65536
        assert pool.idle_count == 1


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return write_certificates(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def tls_upstream(
    certificates: tuple[Path, Path, Path], *, ask_client: bool = False
) -> AsyncIterator[ScriptedUpstream]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates[1], certificates[2])
    names: list[str | None] = []
    context.sni_callback = lambda _s, name, _c: names.append(name)
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates[0])

    async def respond(received: Received, _: Reader, writer: Writer) -> bool:
        writer.write(ok(str(names[-1]).encode() + b" %d" % len(received.body)))
        return True

    async with ScriptedUpstream(respond).running(ssl=context) as server:
        yield server


async def test_tls_with_its_own_ca_keeps_alive_and_carries_big_bodies(
    certificates: tuple[Path, Path, Path],
) -> None:
    async with tls_upstream(certificates) as server:
        tls = upstream_tls(ca_file=certificates[0])
        pool = UpstreamPool("test", f"https://localhost:{server.port}", tls=tls)
        assert await whole(await post(pool)) == b"localhost 2"
        assert await whole(await post(pool, bytes(2_000_000))) == b"localhost 2000000"
        assert server.connections == 1
        await pool.close()


async def test_tls_by_an_unknown_ca_is_refused_unsent(
    certificates: tuple[Path, Path, Path],
) -> None:
    async with tls_upstream(certificates) as server:
        pool = UpstreamPool("test", f"https://localhost:{server.port}")
        error = await error_of(pool)
        assert not error.sent
        assert server.requests == []
        await pool.close()


async def test_tls_for_another_name_is_refused_unsent(
    certificates: tuple[Path, Path, Path],
) -> None:
    async with tls_upstream(certificates) as server:
        pool = UpstreamPool(
            "test",
            f"https://localhost:{server.port}",
            tls=upstream_tls(ca_file=certificates[0]),
            server_name="other.example",
        )
        error = await error_of(pool)
        assert not error.sent
        assert server.requests == []
        await pool.close()


async def test_tls_verification_can_be_switched_off(certificates: tuple[Path, Path, Path]) -> None:
    async with tls_upstream(certificates) as server:
        pool = UpstreamPool(
            "test",
            f"https://127.0.0.1:{server.port}",
            tls=upstream_tls(verify=False),
            server_name="any.example",
        )
        assert await whole(await post(pool)) == b"any.example 2"
        await pool.close()


async def test_tls_client_certificate_is_shown(certificates: tuple[Path, Path, Path]) -> None:
    async with tls_upstream(certificates, ask_client=True) as server:
        url = f"https://localhost:{server.port}"
        without = UpstreamPool("test", url, tls=upstream_tls(ca_file=certificates[0]))
        await error_of(without)
        assert server.requests == []
        tls = upstream_tls(
            ca_file=certificates[0],
            client_certificate=certificates[1],
            client_key=certificates[2],
        )
        pool = UpstreamPool("test", url, tls=tls)
        assert await whole(await post(pool)) == b"localhost 2"
        await without.close()
        await pool.close()


async def test_after_a_stream_the_next_request_does_not_meet_a_silent_close() -> None:
    """As llama.cpp's server does: it closes after a chunked answer and has not said so."""

    async def stream_and_close(
        _: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
        return False

    async with ScriptedUpstream(stream_and_close).running() as upstream:
        pool = UpstreamPool("u", f"http://127.0.0.1:{upstream.port}")
        for _ in range(50):
            answer = await pool.send("POST", "/", b"", b"{}")
            while await answer.read():
                pass
            answer.close()
        await pool.close()
        assert len(upstream.requests) == 50


async def test_after_a_stream_a_connection_is_used_again_once_it_has_rested() -> None:
    async def stream(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")

    async with ScriptedUpstream(stream).running() as upstream:
        pool = UpstreamPool("u", f"http://127.0.0.1:{upstream.port}")
        for _ in range(3):
            answer = await pool.send("POST", "/", b"", b"{}")
            while await answer.read():
                pass
            answer.close()
            await asyncio.sleep(REST_AFTER_STREAM_S * 1.5)
        assert (upstream.connections, pool.idle_count) == (1, 1)
        await pool.close()
