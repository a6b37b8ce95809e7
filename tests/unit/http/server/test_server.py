"""The server against real clients: answers, keep-alive, slow and vanishing clients, drain."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from gateway.http.interface import BodyError, ClientGone, Exchange, encode_fields
from gateway.http.server.connection import Connection
from gateway.http.server.host import Handler
from gateway.http.server.limits import ServerLimits
from gateway.http.server.server import HttpServer
from tests.support.rawhttp import RawClient, free_socket

HOST = b"Host: gate.example\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}"
TEXT = b"content-type: text/plain\r\n"
SHORT = ServerLimits(head_s=0.4, body_s=0.4, idle_s=0.4, write_s=0.4, linger_s=0.3)


@asynccontextmanager
async def serving(
    handler: Handler, limits: ServerLimits | None = None
) -> AsyncIterator[tuple[HttpServer, int]]:
    sock = free_socket()
    server = HttpServer(handler, limits)
    await server.start(sock)
    try:
        yield server, sock.getsockname()[1]
    finally:
        await server.close(settle_s=1)
        assert (server.connection_count, server.busy_count) == (0, 0)


async def echo(exchange: Exchange) -> None:
    body = await exchange.read_body(10_000_000)
    await exchange.answer(200, TEXT, body)


async def until(true: Callable[[], bool], within_s: float = 5) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


# Requests


async def test_the_flow_sees_the_request_as_it_was_sent() -> None:
    seen = []

    async def handler(exchange: Exchange) -> None:
        seen.append(
            (
                exchange.method,
                exchange.path,
                exchange.query,
                exchange.remote,
                exchange.header("x-one"),
                exchange.header("x-none"),
                exchange.header_values("x-two"),
                exchange.headers(),
            )
        )
        await exchange.answer(200, TEXT, await exchange.read_body(10))

    async with serving(handler) as (_, port):
        client = await RawClient.connect(port)
        client.send(
            b"PUT /a/b?c=d%20e&f HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nX-Two: a\r\nx-two: b\r\n\r\n"
        )
        assert (await client.answer()).status == 200
        assert seen == [
            (
                "PUT",
                "/a/b",
                "c=d%20e&f",
                "127.0.0.1",
                "1",
                None,
                ["a", "b"],
                [("Host", "h"), ("X-One", "1"), ("X-Two", "a"), ("x-two", "b")],
            )
        ]
        await client.close()


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_arrive_whole_and_answers_go_out_whole(size: int, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 50_000):
            yield body[at : at + 50_000]

    async with serving(echo) as (_, port), aiohttp.ClientSession() as session:
        for _ in range(2):
            data = pieces() if chunked else body
            async with session.post(f"http://127.0.0.1:{port}/x", data=data) as answer:
                assert await answer.read() == body


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def handler(exchange: Exchange) -> None:
        await asyncio.sleep(0.001)
        await exchange.answer(200, TEXT, exchange.path.encode())

    async with serving(handler) as (server, port):
        client = await RawClient.connect(port)
        client.send(b"".join(b"GET /%d HTTP/1.1\r\n" % i + HOST + b"\r\n" for i in range(100)))
        for number in range(100):
            assert (await client.answer()).body == b"/%d" % number
        client.send(GET)
        assert (await client.answer()).body == b"/x"
        assert server.requests_total == 101
        await client.close()


async def test_pipelined_requests_wait_unparsed_beyond_a_bound() -> None:
    release = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer(200, TEXT, b"x")

    async with serving(handler) as (server, port):
        client = await RawClient.connect(port)
        client.send(GET * 20_000)
        await asyncio.sleep(0.2)
        (connection,) = server._connections
        assert isinstance(connection, Connection)
        assert len(connection._buffer) <= 512 * 1024
        release.set()
        for _ in range(20_000):
            assert (await client.answer()).status == 200
        await client.close()


async def test_a_head_in_many_pieces_is_one_request() -> None:
    async with serving(echo) as (_, port):
        client = await RawClient.connect(port)
        for at in range(len(POST)):
            client.send(POST[at : at + 1])
            await asyncio.sleep(0)
        assert (await client.answer()).body == b"{}"
        await client.close()


# Answers


async def test_an_answer_has_one_date_and_the_servers_own_framing() -> None:
    async def handler(exchange: Exchange) -> None:
        fields = [
            ("Date", "yesterday"),
            ("Content-Length", "99"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "upgrade"),
            ("X-Own", "caf\xe9"),
        ]
        await exchange.answer(201, encode_fields(fields), b"abc")

    async with serving(handler) as (_, port):
        client = await RawClient.connect(port)
        client.send(GET)
        answer = await client.answer()
        assert (answer.status, answer.body) == (201, b"abc")
        assert set(answer.headers) == {"date", "content-length", "x-own"}
        assert answer.headers["x-own"] == "caf\xe9"
        assert answer.headers["date"].endswith(" GMT")
        await client.close()


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb"])
async def test_a_line_break_in_a_field_never_goes_out(value: str) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.answer(200, encode_fields([("x", value)]), b"")

    async with serving(handler) as (server, port):
        client = await RawClient.connect(port)
        client.send(GET)
        assert (await client.answer()).status == 500
        assert server.crashes_total == 1
        await client.close()


Streamed = Callable[[Exchange], Awaitable[None]]


async def streamed(exchange: Exchange) -> None:
    await exchange.start(200, TEXT, None)
    for piece in (b"one", b"", b"two"):
        await exchange.write(piece)
    await exchange.end()


async def sized(exchange: Exchange) -> None:
    await exchange.start(200, TEXT, 6)
    await exchange.write(b"one")
    await exchange.write(b"two")
    await exchange.end()


async def at_once(exchange: Exchange) -> None:
    await exchange.answer(200, TEXT, b"onetwo")


@pytest.mark.parametrize("handler", [streamed, sized, at_once])
async def test_each_form_of_answer_suits_each_version_and_head(handler: Streamed) -> None:
    async with serving(handler) as (_, port):
        client = await RawClient.connect(port)
        for _ in range(2):
            client.send(GET)
            assert (await client.answer()).body == b"onetwo"
        client.send(GET.replace(b"GET", b"HEAD"))
        head = await client.answer(head_only=True)
        assert head.headers.get("content-length", "6") == "6"
        client.send(GET.replace(HOST, HOST + b"Connection: close\r\n"))
        last = await client.answer()
        assert (last.body, last.headers["connection"]) == (b"onetwo", "close")
        assert await client.closed()
        await client.close()

        old = await RawClient.connect(port)
        old.send(b"GET /x HTTP/1.0\r\n\r\n")
        answer = await old.answer()
        assert "transfer-encoding" not in answer.headers
        assert (answer.body, answer.headers["connection"]) == (b"onetwo", "close")
        assert await old.closed()
        await old.close()


async def test_http10_with_keep_alive_is_kept_when_the_length_is_known() -> None:
    async with serving(at_once) as (_, port):
        client = await RawClient.connect(port)
        for _ in range(2):
            client.send(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = await client.answer()
            assert (answer.body, answer.headers["connection"]) == (b"onetwo", "keep-alive")
        await client.close()


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_body_have_no_framing(status: int) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.answer(status, b"", b"ignored")

    async with serving(handler) as (_, port):
        client = await RawClient.connect(port)
        for _ in range(2):
            client.send(GET)
            answer = await client.answer()
            assert (answer.status, set(answer.headers)) == (status, {"date"})
        await client.close()


async def test_a_piece_of_a_stream_goes_out_before_the_next_is_there() -> None:
    more = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, TEXT, None)
        await exchange.write(b"first")
        await more.wait()
        await exchange.end()

    async with serving(handler) as (_, port):
        client = await RawClient.connect(port)
        client.send(GET)
        assert b"5\r\nfirst\r\n" in await client.reader.readuntil(b"first\r\n")
        more.set()
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"
        await client.close()


# Handlers that fail


async def raises(exchange: Exchange) -> None:
    raise KeyError("a secret")


async def says_nothing(exchange: Exchange) -> None:
    return


@pytest.mark.parametrize("handler", [raises, says_nothing])
async def test_a_handler_without_answer_is_a_500_that_tells_nothing(handler: Handler) -> None:
    async with serving(handler) as (server, port):
        client = await RawClient.connect(port)
        client.send(GET)
        answer = await client.answer()
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert b"Traceback" not in answer.body
        assert await client.closed()
        assert server.crashes_total == 1
        await client.close()


async def cut_short(exchange: Exchange) -> None:
    await exchange.start(200, TEXT, 10)
    await exchange.write(b"half")
    await exchange.end()


async def left_open(exchange: Exchange) -> None:
    await exchange.start(200, TEXT, None)
    await exchange.write(b"half")


async def aborts(exchange: Exchange) -> None:
    await exchange.start(200, TEXT, None)
    await exchange.write(b"half")
    exchange.abort()


@pytest.mark.parametrize("handler", [cut_short, left_open, aborts])
async def test_an_answer_that_is_not_whole_is_seen_as_cut(handler: Handler) -> None:
    async with serving(handler) as (_, port):
        client = await RawClient.connect(port)
        client.send(GET)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()
        await client.close()


async def test_one_task_serves_all_requests_of_a_connection() -> None:
    tasks = set()

    async def handler(exchange: Exchange) -> None:
        tasks.add(asyncio.current_task())
        await exchange.answer(200, TEXT, b"x")

    async with serving(handler) as (_, port):
        client = await RawClient.connect(port)
        for _ in range(5):
            client.send(GET)
            await client.answer()
        assert len(tasks) == 1
        await client.close()


@pytest.mark.parametrize("pipelined", [True, False])
async def test_a_cancellation_of_a_request_that_has_just_ended_spares_the_next(
    pipelined: bool,
) -> None:
    """A kill may cancel a handler in the moment in which it returns."""
    count = 0

    async def handler(exchange: Exchange) -> None:
        nonlocal count
        count += 1
        await exchange.answer(200, TEXT, await exchange.read_body(10))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        if count == 1:
            task.cancel()
            task.cancel()

    async with serving(handler) as (_, port):
        client = await RawClient.connect(port)
        client.send(POST * (2 if pipelined else 1))
        assert (await client.answer()).body == b"{}"
        if not pipelined:
            client.send(POST)
        assert (await client.answer()).body == b"{}"
        client.send(POST)
        assert (await client.answer()).body == b"{}"
        await client.close()


# Clients that leave


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_before_the_answer_is_told_and_the_handler_goes_on(
    how: str,
) -> None:
    events: list[str] = []
    done = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        exchange.on_gone(lambda: events.append("gone"))
        assert not exchange.client_gone()
        await asyncio.sleep(0.2)
        events.append(f"handler: {exchange.client_gone()}")
        with pytest.raises(ClientGone):
            await exchange.answer(200, TEXT, b"x")
        exchange.on_gone(lambda: events.append("gone before it asked"))
        done.set()

    async with serving(handler) as (server, port):
        client = await RawClient.connect(port)
        client.send(GET)
        await until(lambda: server.busy_count == 1)
        if how == "reset":
            client.reset()
        else:
            await client.close()
        await asyncio.wait_for(done.wait(), 5)
        assert events == ["gone", "handler: True", "gone before it asked"]


async def test_a_client_that_leaves_mid_stream_is_seen_by_the_next_writes() -> None:
    gone = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, TEXT, None)
        try:
            while True:
                await exchange.write(b"x" * 100)
                await asyncio.sleep(0.005)
        except ClientGone:
            gone.set()
            raise

    async with serving(handler) as (server, port):
        client = await RawClient.connect(port)
        client.send(GET)
        await client.reader.readuntil(b"xxx")
        await client.close()
        await asyncio.wait_for(gone.wait(), 5)
        await until(lambda: server.connection_count == server.busy_count == 0)
        assert server.crashes_total == 0


async def test_a_client_that_leaves_in_its_body_is_gone() -> None:
    caught: list[BaseException] = []

    async def handler(exchange: Exchange) -> None:
        try:
            await exchange.read_body(1000)
        except (ClientGone, BodyError) as error:
            caught.append(error)
            raise

    async with serving(handler) as (server, port):
        client = await RawClient.connect(port)
        client.send(POST.replace(b": 2", b": 9"))
        await until(lambda: server.busy_count == 1)
        await client.close()
        await until(lambda: bool(caught))
        assert isinstance(caught[0], ClientGone)


# Slow clients


async def test_a_client_that_does_not_read_is_cut_at_the_deadline_and_costs_bounded_memory() -> (
    None
):
    written = 0
    gone = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        nonlocal written
        await exchange.start(200, TEXT, None)
        try:
            while True:
                await exchange.write(bytes(65536))
                written += 65536
        except ClientGone:
            gone.set()

    async with serving(handler, SHORT) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET)
        await asyncio.sleep(0.2)
        (connection,) = server._connections
        assert isinstance(connection, Connection)
        assert connection.transport is not None
        assert connection.transport.get_write_buffer_size() < 300_000
        at_rest = written
        await asyncio.wait_for(gone.wait(), 5)
        assert written == at_rest
        writer.close()


async def test_a_client_that_reads_slowly_but_reads_gets_all() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, TEXT, None)
        for _ in range(100):
            await exchange.write(bytes(65536))
        await exchange.end()

    async with serving(handler, ServerLimits(write_s=5)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)
        writer.write(GET)
        size = 0
        while size < 100 * 65536:
            size += len(await reader.read(200_000))
            await asyncio.sleep(0.001)
        writer.close()


async def test_unread_answers_of_pipelined_requests_are_bounded_and_cut() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.answer(200, TEXT, bytes(500_000))

    async with serving(handler, SHORT) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET * 1000)
        await asyncio.sleep(0.25)
        assert server.requests_total < 50
        await until(lambda: server.connection_count == 0)
        writer.close()


@pytest.mark.parametrize("kind", ["head", "body"])
async def test_400_slow_clients_are_closed_while_healthy_ones_are_served(kind: str) -> None:
    part = GET[:-2] if kind == "head" else POST.replace(b": 2", b": 9")

    async def handler(exchange: Exchange) -> None:
        try:
            await exchange.answer(200, TEXT, await exchange.read_body(100))
        except BodyError as error:
            await exchange.answer(408, TEXT, error.kind.encode())

    async with serving(handler, SHORT) as (server, port):
        slow = await asyncio.gather(*[RawClient.connect(port) for _ in range(400)])
        for client in slow:
            client.send(part)
        await until(lambda: server.connection_count == 400)
        healthy = await RawClient.connect(port)
        for _ in range(20):
            healthy.send(POST)
            assert (await healthy.answer()).body == b"{}"
        for client in slow:
            assert (await client.answer()).status == 408
            assert await client.closed()
            await client.close()
        await healthy.close()
        await until(lambda: server.connection_count == 0)


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def handler(exchange: Exchange) -> None:
        await asyncio.sleep(0.8)
        await exchange.answer(200, TEXT, b"late")

    async with serving(handler, SHORT) as (_, port):
        idle, busy = await RawClient.connect(port), await RawClient.connect(port)
        busy.send(GET)
        assert await idle.closed(within_s=5)
        assert (await busy.answer()).body == b"late"
        assert await busy.closed(within_s=5)
        await idle.close()
        await busy.close()


async def test_a_client_that_sends_on_after_its_refusal_still_gets_it_and_is_closed() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.answer(402, TEXT, b"no credit")

    async with serving(handler, SHORT) as (server, port):
        client = await RawClient.connect(port)
        client.send(POST.replace(b": 2", b": 50000000"))
        for _ in range(20):
            client.send(bytes(100_000))
            await asyncio.sleep(0)
        answer = await client.answer()
        assert (answer.status, answer.body) == (402, b"no credit")
        assert answer.headers["connection"] == "close"
        await until(lambda: server.connection_count == 0)
        await client.close()


# Caps, drain, close


async def test_connections_per_address_are_capped_and_places_come_back() -> None:
    async with serving(echo, ServerLimits(connections_per_address=2)) as (server, port):
        held = [await RawClient.connect(port) for _ in range(2)]
        for client in held:
            client.send(POST)
            await client.answer()
        third = await RawClient.connect(port)
        assert (await third.answer()).status == 503
        assert await third.closed()
        await held[0].close()
        await until(lambda: server.connection_count == 1)
        fourth = await RawClient.connect(port)
        fourth.send(POST)
        assert (await fourth.answer()).status == 200
        assert server.refused_total[503] == 1
        for client in (held[1], third, fourth):
            await client.close()


async def test_at_the_cap_the_connection_idle_for_longest_makes_room() -> None:
    async with serving(echo, ServerLimits(connections_most=3)) as (server, port):
        clients = []
        for _ in range(3):
            clients.append(await RawClient.connect(port))
            clients[-1].send(POST)
            await clients[-1].answer()
        clients[0].send(POST)
        await clients[0].answer()
        clients.append(await RawClient.connect(port))
        clients[-1].send(POST)
        assert (await clients[-1].answer()).status == 200
        assert await clients[1].closed()
        for kept in (clients[0], clients[2]):
            kept.send(POST)
            assert (await kept.answer()).status == 200
        assert (server.shed_total, server.refused_total.total()) == (1, 0)
        for client in clients:
            await client.close()


async def test_a_flood_of_idle_connections_does_not_keep_a_client_out() -> None:
    async with serving(echo, ServerLimits(connections_most=50)) as (server, port):
        idle = [await RawClient.connect(port) for _ in range(200)]
        for client in idle[:150:3]:
            client.send(b"G")  # a part of a head does not protect it
        client = await RawClient.connect(port)
        client.send(POST)
        assert (await client.answer()).status == 200
        assert server.connection_count <= 60
        for each in (*idle, client):
            await each.close()


async def test_at_the_cap_running_requests_are_never_shed() -> None:
    release = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer(200, TEXT, b"x")

    async with serving(handler, ServerLimits(connections_most=2)) as (server, port):
        busy = [await RawClient.connect(port) for _ in range(2)]
        for client in busy:
            client.send(GET)
        await until(lambda: server.busy_count == 2)
        crowded_before = server.crowded
        refused = await RawClient.connect(port)
        answer = await refused.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        release.set()
        for client in busy:
            assert (await client.answer()).status == 200
        assert (crowded_before, server.crowded) == (True, False)
        for client in (*busy, refused):
            await client.close()


async def test_a_drain_closes_idle_connections_and_lets_running_requests_end() -> None:
    release = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, TEXT, None)
        await release.wait()
        await exchange.write(b"whole")
        await exchange.end()

    async with serving(handler) as (server, port):
        idle, busy = await RawClient.connect(port), await RawClient.connect(port)
        busy.send(GET)
        await until(lambda: server.busy_count == 1)
        draining = asyncio.create_task(server.drain(grace_s=5))
        assert await idle.closed()
        with pytest.raises(OSError):
            await RawClient.connect(port)
        release.set()
        assert (await busy.answer()).body == b"whole"
        assert await busy.closed()
        assert await draining == 0
        await idle.close()
        await busy.close()


async def test_a_drain_ends_at_its_grace_and_says_what_still_runs() -> None:
    ends: list[str] = []

    async def handler(exchange: Exchange) -> None:
        gone = asyncio.Event()
        exchange.on_gone(gone.set)
        await gone.wait()
        await asyncio.sleep(0.05)
        ends.append("settled")

    async with serving(handler) as (server, port):
        client = await RawClient.connect(port)
        client.send(GET)
        await until(lambda: server.busy_count == 1)
        assert await server.drain(grace_s=0.1) == 1
        await server.close(settle_s=2)
        assert ends == ["settled"]
        await client.close()


async def test_close_cancels_only_what_does_not_end_by_itself() -> None:
    async def handler(exchange: Exchange) -> None:
        await asyncio.sleep(60)

    async with serving(handler) as (server, port):
        client = await RawClient.connect(port)
        client.send(GET)
        await until(lambda: server.busy_count == 1)
        await server.close(settle_s=0.05)
        assert server.busy_count == 0
        await client.close()


async def test_errors_of_the_server_are_rendered_by_who_is_asked() -> None:
    sock = free_socket()
    server = HttpServer(echo, render_error=lambda status, message: b"%d!" % status)
    await server.start(sock)
    client = await RawClient.connect(sock.getsockname()[1])
    client.send(b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n")
    answer = await client.answer()
    assert (answer.status, answer.body) == (405, b"405!")
    assert "POST" in answer.headers["allow"]
    await client.close()
    await server.close()
