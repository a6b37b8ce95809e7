"""What clients can make a worker keep is bounded: buffers, connections, open files."""

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.http.budget import ByteBudget, Charge
from gateway.http.interface import BodyError, ClientGone, Exchange
from gateway.http.server.host import Handler
from gateway.http.server.limits import (
    FILES_RESERVED,
    ServerLimits,
    accept_backlog,
    client_bound,
    counted_address,
    raise_open_files,
)
from gateway.http.server.server import HttpServer
from tests.support.rawhttp import RawClient, free_socket

MIB = 1024 * 1024
HOST = b"Host: gate.example\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"


def post(length: int) -> bytes:
    return b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % length


def limits(**changes: float) -> ServerLimits:
    times = {"body_s": 5, "write_s": 5, "linger_s": 0.3, "starved_s": 0.3, "idle_s": 5}
    return ServerLimits(**(times | changes))  # type: ignore[arg-type]


@asynccontextmanager
async def serving(handler: Handler, limits: ServerLimits) -> AsyncIterator[tuple[HttpServer, int]]:
    sock = free_socket()
    server = HttpServer(handler, limits)
    await server.start(sock)
    try:
        yield server, sock.getsockname()[1]
    finally:
        await server.close(settle_s=1)
        assert (server.connection_count, server.busy_count) == (0, 0)
        assert server.budget.held_bytes == 0, "what was charged is released"


async def until(true: Callable[[], bool], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


async def echo_size(exchange: Exchange) -> None:
    try:
        body = await exchange.read_body(8 * MIB)
    except BodyError as error:
        await exchange.answer({"overloaded": 503}.get(error.kind, 400), b"", error.kind.encode())
        return
    await exchange.answer(200, b"", b"%d" % len(body))


# The budget


def test_a_charge_beyond_the_total_or_a_share_changes_nothing() -> None:
    budget = ByteBudget(100, 60)
    assert budget.charge("a", 60)
    assert not budget.charge("a", 1)
    assert budget.charge("b", 30)
    assert not budget.charge("b", 11)
    assert (budget.held_bytes, budget.held_by("a"), budget.held_by("b")) == (90, 60, 30)
    budget.release("a", 60)
    assert budget.charge("", 70), "an unknown owner has no share of his own"
    assert (budget.held_by("a"), budget.tight) == (0, True)


def test_a_charge_moves_to_its_owner_or_is_dropped() -> None:
    budget = ByteBudget(100, 50)
    first, second = Charge(budget), Charge(budget)
    assert first.add(40)
    assert first.move("a")
    assert second.add(20)
    assert not second.move("a")
    assert (second.size, budget.held_bytes, budget.held_by("a")) == (0, 40, 40)
    first.clear()
    first.clear()
    assert budget.held_bytes == 0


async def test_unfinished_bodies_stay_within_the_budget() -> None:
    """120 clients announce 4 MiB each and send all but the last byte."""
    held: list[int] = []
    bounds = limits(buffer_bytes=16 * MIB, body_s=60)
    async with serving(echo_size, bounds) as (server, port):
        clients = [await RawClient.connect(port) for _ in range(120)]
        for client in clients:
            client.send(post(4 * MIB))
            client.send(bytes(4 * MIB - 1))
            await asyncio.sleep(0)
            held.append(server.budget.held_bytes)
        answers = [asyncio.create_task(client.answer()) for client in clients]
        while not all(answer.done() for answer in answers[20:]):
            held.append(server.budget.held_bytes)
            await asyncio.sleep(0.01)
            if sum(answer.done() for answer in answers) >= 100:
                break
        refused = [answer.result() for answer in answers if answer.done()]
        assert {answer.status for answer in refused} == {503}
        assert max(held) <= 16 * MIB
        small = await RawClient.connect(port)
        small.send(post(2) + b"{}")
        assert (await small.answer()).status == 200, "small requests are served all the same"
        for each in answers:
            each.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
        for client in (*clients, small):
            client.reset()


async def test_a_body_waits_for_room_and_then_goes_on() -> None:
    async with serving(echo_size, limits(buffer_bytes=4 * MIB, starved_s=5)) as (server, port):
        first, second = await RawClient.connect(port), await RawClient.connect(port)
        first.send(post(3_900_000) + bytes(100_000))
        await until(lambda: server.crowded)
        second.send(post(1_000_000) + bytes(50_000))
        await until(lambda: len(server.starved) == 1)
        first.send(bytes(3_800_000))
        assert (await first.answer()).body == b"3900000"
        second.send(bytes(950_000))
        assert (await second.answer()).body == b"1000000"
        for client in (first, second):
            await client.close()


async def test_one_owner_cannot_use_up_what_others_need() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.owner = exchange.path
        await echo_size(exchange)

    bounds = limits(buffer_bytes=8 * MIB, buffer_share_bytes=2 * MIB)
    async with serving(handler, bounds) as (server, port):
        greedy = [await RawClient.connect(port) for _ in range(6)]
        for client in greedy:
            client.send(post(MIB + 10) + bytes(MIB))
        statuses = []
        tasks = [asyncio.create_task(client.answer()) for client in greedy]
        await until(lambda: sum(task.done() for task in tasks) >= 4)
        statuses = [task.result().status for task in tasks if task.done()]
        assert set(statuses) == {503}
        assert server.budget.held_by("/x") <= 2 * MIB
        other = await RawClient.connect(port)
        other.send(post(2 * MIB - 1).replace(b"/x", b"/y") + bytes(2 * MIB - 1))
        assert (await other.answer()).status == 200
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in (*greedy, other):
            client.reset()


async def test_streams_that_nobody_reads_stay_within_the_budget() -> None:
    """400 clients ask for a stream and read nothing: those unread for longest are cut."""
    gone = 0

    async def handler(exchange: Exchange) -> None:
        nonlocal gone
        try:
            await exchange.start(200, b"", None)
            while True:
                await exchange.write(bytes(64 * 1024))
        except ClientGone:
            gone += 1
            raise

    budget = 8 * MIB
    bounds = limits(buffer_bytes=budget, write_s=30)
    async with serving(handler, bounds) as (server, port):
        sockets = []
        for _ in range(400):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_sendall(client, GET)
            sockets.append(client)
            assert server.budget.held_bytes <= budget
        await until(lambda: server.requests_total == 400 and gone > 200)
        assert server.budget.held_bytes <= budget
        assert len(server.unread) <= budget // (64 * 1024)
        for client in sockets:
            client.close()


async def test_a_client_that_is_cut_for_room_does_not_take_a_reader_with_it() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start(200, b"", None)
        for _ in range(200):
            await exchange.write(bytes(32 * 1024))
        await exchange.end()

    async with serving(handler, limits(buffer_bytes=MIB)) as (_, port):
        idle = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in range(20)]
        for _, writer in idle:
            writer.write(GET)
        reader = await RawClient.connect(port)
        reader.send(GET)
        assert len((await reader.answer()).body) == 200 * 32 * 1024
        await reader.close()
        for _, writer in idle:
            writer.close()


async def test_bytes_behind_a_running_request_are_bounded() -> None:
    release = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await release.wait()
        await exchange.answer(200, b"", b"x")

    async with serving(handler, limits(buffer_bytes=MIB)) as (server, port):
        clients = [await RawClient.connect(port) for _ in range(30)]
        for client in clients:
            client.send(GET + b"garbage " * 100_000)
        await until(lambda: server.busy_count == 30)
        await asyncio.sleep(0.1)
        assert server.budget.held_bytes <= MIB
        release.set()
        for client in clients:
            assert (await client.answer()).status == 200
            client.reset()


async def test_one_byte_a_chunk_costs_no_object_each() -> None:
    async with serving(echo_size, limits(body_s=30)) as (server, port):
        client = await RawClient.connect(port)
        client.send(b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        client.send(b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        assert (await client.answer()).body == b"100000"
        assert server.budget.held_bytes == 0
        await client.close()


@pytest.mark.parametrize(
    ("limit_bytes", "buffer_bytes", "kind"),
    [(1000, MIB, b"too_large"), (MIB, 1000, b"overloaded")],
)
async def test_a_bound_holds_when_the_end_of_the_body_comes_with_what_exceeds_it(
    limit_bytes: int, buffer_bytes: int, kind: bytes
) -> None:
    reading = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        reading.set()
        try:
            await exchange.read_body(limit_bytes)
        except BodyError as error:
            await exchange.answer(400, b"", error.kind.encode())

    async with serving(handler, limits(buffer_bytes=buffer_bytes)) as (_, port):
        client = await RawClient.connect(port)
        client.send(b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        await reading.wait()
        client.send(b"7d0\r\n" + bytes(2000) + b"\r\n0\r\n\r\n")
        answer = await client.answer()
        assert (answer.body, answer.headers["connection"]) == (kind, "close")
        await client.close()


async def test_an_endless_trailer_is_refused() -> None:
    async with serving(echo_size, limits()) as (_, port):
        client = await RawClient.connect(port)
        client.send(b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        client.send(b"1\r\nx\r\n")
        await asyncio.sleep(0.05)
        client.send(b"0\r\nA: ")
        await asyncio.sleep(0.05)
        client.send(b"b" * 400_000)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        await client.close()


# Lingering close


async def test_a_response_that_closes_is_not_lost_while_bytes_still_arrive() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.answer(200, b"", b"y" * 200_000)

    async with serving(handler, limits()) as (server, port):
        for _ in range(20):
            client = await RawClient.connect(port)
            client.send(GET.replace(HOST, HOST + b"Connection: close\r\n") + b"more")
            for _ in range(10):
                client.send(b"and more" * 1000)
                await asyncio.sleep(0)
            assert len((await client.answer()).body) == 200_000
            assert await client.closed()
            await client.close()
        await until(lambda: server.connection_count == 0)


# Addresses and files


@pytest.mark.parametrize(
    ("remote", "counted"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("", ""),
    ],
)
def test_ipv6_clients_are_counted_by_their_64_bit_prefix(remote: str, counted: str) -> None:
    assert counted_address(remote) == counted


def test_clients_leave_descriptors_for_everything_else() -> None:
    for files, upstreams in ((1024, 100), (4096, 1024), (65536, 2048), (1024, 5000)):
        clients = client_bound(files, upstreams)
        assert clients >= files // 5 - 1
        if upstreams < files // 2:
            used = clients + accept_backlog(clients) + upstreams + FILES_RESERVED
            assert used <= files
    assert client_bound(1 << 20, 1024) == 20_000


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert raise_open_files() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
