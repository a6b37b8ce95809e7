"""What one customer's requests must not do to another's: take their responses, or all connections."""

import asyncio
import os
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.http.client.limits import PoolLimits, UpstreamTimeouts
from gateway.http.client.opening import upstream_tls
from gateway.http.client.pool import UpstreamPool
from gateway.http.interface import CancelledUnsent, UpstreamError
from loadtest.certificates import write_certificates
from tests.support.rawhttp import Received, Respond, ScriptedUpstream, ok
from tests.support.until import until

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

TRIES = int(os.environ.get("SLIPPED_TRIES", "2000"))


@asynccontextmanager
async def upstream(
    respond: Respond,
    *,
    limits: PoolLimits,
    timeouts: UpstreamTimeouts | None = None,
) -> AsyncIterator[tuple[ScriptedUpstream, UpstreamPool]]:
    async with ScriptedUpstream(respond).running() as server:
        url = f"http://127.0.0.1:{server.port}"
        pool = UpstreamPool("test", url, limits=limits, timeouts=timeouts)
        try:
            yield server, pool
        finally:
            await pool.close()
            assert (pool.open_count, pool.waiting_count, pool._supply._shares.busy) == (0, 0, 0)


async def ask(pool: UpstreamPool, owner: str, what: bytes = b"{}") -> bytes:
    """The body of one response."""
    response = await pool.send("POST", "/", b"", what, owner=owner)
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    return b"".join(pieces)


# Bytes behind a response


class Slipping:
    """An upstream that echoes, and some time later sends one more response that nobody asked for.

    It does so only while no request is on its way: one that is answered by what arrives after it was
    written cannot know better.
    """

    def __init__(self, seed: int) -> None:
        self.asking = False
        self.slipped = 0
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()

    async def respond(self, received: Received, _: Reader, writer: Writer) -> None:
        writer.write(ok(received.body))
        task = asyncio.ensure_future(self._slip(writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _slip(self, writer: Writer) -> None:
        if self._random.random() < 0.8:
            for _ in range(self._random.randrange(12)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self._random.random() * 0.002)
        if not self.asking and not writer.is_closing():
            self.slipped += 1
            writer.write(ok(b"slipped"))

    async def attack(self, pool: UpstreamPool, tries: int) -> None:
        """Ask so many times; each response must be that of its request."""
        for number in range(tries):
            what = b"%d" % number
            self.asking = True
            try:
                assert await ask(pool, f"c{number % 7}", what) == what
            finally:
                self.asking = False
            for _ in range(self._random.randrange(12)):
                await asyncio.sleep(0)
        assert self.slipped > tries // 10


async def test_bytes_behind_a_response_never_answer_the_next_request() -> None:
    slipping = Slipping(1)
    async with upstream(slipping.respond, limits=PoolLimits()) as (_, pool):
        await slipping.attack(pool, TRIES)


async def test_nor_do_they_through_tls(tmp_path: Path) -> None:
    ca, certificate, key = write_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    slipping = Slipping(2)
    async with ScriptedUpstream(slipping.respond).running(ssl=context) as server:
        url = f"https://localhost:{server.port}"
        pool = UpstreamPool("test", url, tls=upstream_tls(ca_file=ca))
        await slipping.attack(pool, TRIES // 8)
        await pool.close()


async def test_separate_pools_keep_even_early_answers_with_their_customer() -> None:
    """An upstream that answers requests which it has not read yet, or mixes up its answers."""

    async def respond(received: Received, _: Reader, writer: Writer) -> None:
        owner = received.body.partition(b" ")[0]
        writer.write(ok(received.body))
        if owner == b"evil":
            # Sent while the next request may be on its way already.
            asyncio.get_running_loop().call_soon(writer.write, ok(b"evil's"))

    limits = PoolLimits(connections_most=10, separate=True)
    wrong: dict[str, int] = {"evil": 0, "good": 0}

    async def caller(pool: UpstreamPool, owner: str) -> None:
        for number in range(TRIES // 4):
            what = b"%b %d" % (owner.encode(), number)
            wrong[owner] += await ask(pool, owner, what) != what
            await asyncio.sleep(0)

    async with upstream(respond, limits=limits) as (_, pool):
        await asyncio.gather(caller(pool, "evil"), caller(pool, "good"))
    assert wrong["good"] == 0


async def test_separate_connections_are_kept_by_owner_and_make_room_for_others() -> None:
    async def echo(received: Received, _: Reader, writer: Writer) -> None:
        writer.write(ok(received.body))

    limits = PoolLimits(connections_most=2, separate=True)
    async with upstream(echo, limits=limits) as (server, pool):
        for owner in "abab":
            await ask(pool, owner)
        assert server.connections == 2
        await ask(pool, "c")
        await asyncio.sleep(0.01)
        assert (server.connections, pool.open_count) == (3, 2)
        await ask(pool, "b")
        assert server.connections == 3, "the one that was idle longest made room"


# Shares


class Holding:
    """An upstream that answers `slow` requests when it is released, all others at once."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def respond(self, received: Received, _: Reader, writer: Writer) -> None:
        if received.body == b"slow":
            await self.release.wait()
        writer.write(ok(received.body))


async def test_slow_requests_of_one_customer_leave_connections_to_others() -> None:
    holding = Holding()
    limits = PoolLimits(connections_most=20)
    async with upstream(holding.respond, limits=limits) as (server, pool):
        slow = [asyncio.create_task(ask(pool, "greedy", b"slow")) for _ in range(60)]
        await until(lambda: len(server.requests) == 16)
        async with asyncio.timeout(10):
            for number in range(200):
                assert await ask(pool, f"c{number % 9}", b"quick") == b"quick"
            assert await asyncio.gather(*[ask(pool, "d", b"quick") for _ in range(40)])
        assert sum(task.done() for task in slow) == 0
        assert pool.waiting_count == 44
        holding.release.set()
        assert await asyncio.gather(*slow) == [b"slow"] * 60
        assert server.connections <= 20


async def test_who_uses_the_fewest_is_served_first() -> None:
    holding = Holding()
    limits = PoolLimits(connections_most=4)
    order: list[str] = []

    async def one(pool: UpstreamPool, owner: str, what: bytes) -> None:
        await ask(pool, owner, what)
        order.append(owner)

    async with upstream(holding.respond, limits=limits) as (server, pool):
        tasks = [asyncio.create_task(one(pool, "greedy", b"slow")) for _ in range(12)]
        await until(lambda: len(server.requests) == 4)
        tasks.append(asyncio.create_task(one(pool, "late", b"quick")))
        await asyncio.sleep(0.01)
        assert pool.waiting_count == 9
        holding.release.set()
        await asyncio.gather(*tasks)
    assert order.index("late") <= 5


async def test_a_full_queue_refuses_the_customer_who_fills_it() -> None:
    holding = Holding()
    limits = PoolLimits(connections_most=4, waiting_most=10)
    async with upstream(holding.respond, limits=limits) as (_, pool):
        greedy = [asyncio.create_task(ask(pool, "greedy", b"slow")) for _ in range(20)]
        await asyncio.sleep(0.05)
        assert pool.waiting_count == 10
        refused = [task.exception() for task in greedy if task.done()]
        assert len(refused) == 6
        others = [asyncio.create_task(ask(pool, f"c{n}", b"quick")) for n in range(5)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in others)
        assert sum(task.done() for task in greedy) == 11
        holding.release.set()
        assert await asyncio.gather(*others) == [b"quick"] * 5
        results = await asyncio.gather(*greedy, return_exceptions=True)
    errors = [each for each in results if isinstance(each, UpstreamError)]
    assert len(errors) == 11
    assert all((each.cause, each.sent) == ("busy", False) for each in errors)


async def test_a_wait_that_takes_too_long_is_an_honest_busy() -> None:
    holding = Holding()
    times = UpstreamTimeouts(connect_ms=100)
    limits = PoolLimits(connections_most=1)
    async with upstream(holding.respond, limits=limits, timeouts=times) as (server, pool):
        first = asyncio.create_task(ask(pool, "a", b"slow"))
        await asyncio.sleep(0.02)
        with pytest.raises(UpstreamError) as caught:
            await ask(pool, "b")
        assert (caught.value.cause, caught.value.sent) == ("busy", False)
        holding.release.set()
        await first
        assert len(server.requests) == 1


async def test_cancelled_waiters_and_lost_connections_return_their_shares() -> None:
    """Whatever happens to requests, afterwards nobody is counted as using anything."""

    async def moody(received: Received, _: Reader, writer: Writer) -> bool:
        mood = received.body[0] % 4
        if mood == 1:
            await asyncio.sleep(0.002)
        if mood != 2:
            writer.write(ok(b"x") if mood else b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n")
        if mood == 0:
            writer.write(b"\r\n1\r\nx\r\n0\r\n\r\n")
        return mood != 3

    drawn = random.Random(3)
    limits = PoolLimits(connections_most=6, waiting_most=20)
    async with upstream(moody, limits=limits) as (_, pool):

        async def one() -> None:
            asking = ask(pool, f"c{drawn.randrange(5)}", bytes([drawn.randrange(256)]))
            try:
                async with asyncio.timeout(drawn.random() * 0.02):
                    await asking
            except (UpstreamError, TimeoutError, CancelledUnsent):
                return

        for _ in range(40):
            await asyncio.gather(*[one() for _ in range(25)])
        await asyncio.sleep(0.05)
        assert (pool._supply._shares.busy, pool._supply._shares._used, pool._supply._opening) == (
            0,
            {},
            [],
        )
        assert pool.waiting_count == 0
        assert pool.open_count <= 6
        assert await asyncio.gather(*[ask(pool, "a", b"\x04") for _ in range(6)]) == [b"x"] * 6
