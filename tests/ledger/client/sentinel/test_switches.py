"""What happens to connections when the Sentinels replace the primary of a ledger in use."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.exceptions

from gateway.domain.reservation import Hold
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.client.scripts import Script
from gateway.ledger.client.sentinel.endpoint import SentinelEndpoint
from gateway.ledger.outbox_watermark import OutboxWatermark
from loadtest.topology.node import Node
from loadtest.topology.sentinels import Sentinels
from tests.ledger.bench import Bench
from tests.support.loose_ledger import LooseLedger
from tests.support.until import until

pytestmark = pytest.mark.slow

SOURCE = b"#!lua\nreturn {'ok', redis.call('INCRBY', KEYS[1], 1)}"
ADD = Script("add", SOURCE, hashlib.sha1(SOURCE, usedforsecurity=False).hexdigest().encode())
LONG_S = 60.0
"""Longer than any switch: what is answered sooner was dropped, not timed out."""


class Unknowing(OutboxWatermark):
    """Of a process that knows of no entry, so that a shard without its last ones goes on."""

    def note(self, shard: int, epoch: int, seq: int) -> None:
        pass


@pytest.fixture
async def following(endpoint: SentinelEndpoint) -> AsyncIterator[None]:
    task = asyncio.create_task(endpoint.follow_switches())
    yield
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
async def runner(
    watched: Sentinels, endpoint: SentinelEndpoint, following: None
) -> AsyncIterator[CoalescingRunner]:
    await asyncio.to_thread(watched.wait_settled)
    runner = CoalescingRunner(endpoint, name="hot", timeout_s=LONG_S, connect_timeout_s=LONG_S)
    async with runner:
        yield runner


async def add(runner: CoalescingRunner, key: bytes) -> int:
    return int((await runner.run(ADD, [key], []))[1])


OURS = {"hot", "off-path"}


def serving(node: Node) -> set[str]:
    """Which of our connections a server has. Sentinels cut all when they make it a replica."""
    while True:
        try:
            lines: str = node.ask("CLIENT", "LIST")
        except redis.exceptions.ConnectionError:
            continue
        return OURS & {word[5:] for word in lines.split() if word.startswith("name=")}


async def test_a_server_that_says_it_is_a_replica_is_not_used(
    watched: Sentinels, endpoint: SentinelEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = watched.replicas()[0].address

    async def misled() -> tuple[str, int, int]:
        return replica.host, replica.port, 0

    monkeypatch.setattr(endpoint.finder, "find", misled)
    says = f"{replica}, which the sentinels name as the primary, is a replica"
    with pytest.raises(LedgerUnavailable, match=says) as caught:
        await CoalescingRunner(endpoint, name="t").start()
    assert (caught.value.code, caught.value.unknown) == ("READONLY", False)
    client = endpoint.client(name="t")
    with pytest.raises(LedgerUnavailable, match=says):
        await client.get("n")
    await client.aclose()


async def test_a_killed_primary_is_followed_under_load(
    watched: Sentinels, endpoint: SentinelEndpoint, runner: CoalescingRunner
) -> None:
    client = endpoint.client(name="off-path", timeout_s=5.0)
    bench = Bench(client)
    await bench.open(1_000_000_000)
    bench.ledger = LooseLedger(runner, shard_count=1, seen=Unknowing(), clock_ms=lambda: bench.now)
    settled: list[str] = []
    unknown: list[str] = []

    async def insist(call: Any, rid: str) -> Any:
        """Ask again with the same id until the ledger says something."""
        while True:
            try:
                return await call()
            except LedgerUnavailable as error:
                if error.unknown:
                    unknown.append(rid)
                await asyncio.sleep(0.01)

    async def load(caller: int) -> None:
        number = 0
        while not stopping.is_set():
            rid = f"r{caller}-{number}"
            number += 1
            hold = await insist(lambda rid=rid: bench.reserve(rid, 10), rid)
            assert isinstance(hold, Hold)
            await insist(lambda rid=rid: bench.settle(rid, 4), rid)
            settled.append(rid)

    stopping = asyncio.Event()
    callers = [asyncio.create_task(load(n)) for n in range(8)]
    old = watched.primary()
    try:
        await until(lambda: len(settled) > 200)
        old.freeze()
        await until(lambda: runner.outstanding)  # so that the kill leaves calls without an answer
        new = await asyncio.to_thread(watched.kill, old)
        mark = len(settled)
        await until(lambda: len(settled) > mark + 200)
    finally:
        stopping.set()
    await asyncio.gather(*callers)
    assert unknown, "nothing was in flight when the primary was killed"
    assert "hot" in serving(new)
    wallet = await bench.wallet()
    # Replication is asynchronous: what the killed one had not passed on is lost. Nothing is charged
    # twice, although everything that was in flight was sent again.
    assert len(settled) - mark <= wallet.settled_nano / 4 <= len(settled)
    assert await bench.differences() == []
    await client.aclose()
    await asyncio.to_thread(watched.rejoin, old)


async def test_a_frozen_primary_is_dropped_at_the_switch_and_gets_no_write_when_it_thaws(
    watched: Sentinels, endpoint: SentinelEndpoint, runner: CoalescingRunner
) -> None:
    client = endpoint.client(name="off-path", timeout_s=LONG_S)
    assert await add(runner, b"n") == 1
    old = watched.primary()
    # Stop it under a call: it is sent, and no answer comes.
    old.freeze()
    hot = asyncio.create_task(add(runner, b"n"))
    cold: asyncio.Future[Any] = asyncio.ensure_future(client.get("n"))
    new = await asyncio.to_thread(watched.wait_for_switch, old)
    with pytest.raises(LedgerUnavailable, match=f"has been replaced by {new.address}") as caught:
        await asyncio.wait_for(hot, LONG_S / 2)
    assert caught.value.unknown
    with pytest.raises(redis.exceptions.ConnectionError):
        await asyncio.wait_for(cold, LONG_S / 2)
    await until(lambda: runner.connected)
    assert await add(runner, b"n") == 2
    assert await client.get("n") == b"2"
    old.thaw()
    await until(lambda: not serving(old))  # it learns what was closed while it was frozen
    for written in range(3, 100):  # it takes some seconds to be told that it is no primary
        assert await add(runner, b"n") == written
        assert not serving(old)
    await asyncio.to_thread(watched.rejoin, old)
    assert await client.get("n") == str(written).encode()
    await client.aclose()


async def test_a_healthy_primary_that_is_replaced_is_left_although_it_still_says_it_is_one(
    watched: Sentinels, endpoint: SentinelEndpoint, runner: CoalescingRunner
) -> None:
    client = endpoint.client(name="off-path")
    await client.ping()
    old = watched.primary()
    new = await asyncio.to_thread(watched.failover)
    await until(lambda: runner.connected and "hot" in serving(new))
    assert await add(runner, b"m") == 1
    await client.ping()
    assert serving(new) == OURS
    await until(lambda: not serving(old))
    await client.aclose()


async def test_a_switch_is_followed_with_one_sentinel_down(
    watched: Sentinels, runner: CoalescingRunner
) -> None:
    down = watched.sentinels[0]
    down.kill9()
    try:
        await asyncio.to_thread(watched.failover)
        new = watched.primary()
        await until(lambda: runner.connected and "hot" in serving(new))
    finally:
        await asyncio.to_thread(down.restart)
