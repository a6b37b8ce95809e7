"""The coalescing runner against a real Valkey: order, isolation, unknown outcomes, recovery."""

import asyncio
import hashlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from gateway.ledger.client.connection import pack
from gateway.ledger.client.durability import WaitAof
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable
from gateway.ledger.client.faults import NOT_PRIMARY
from gateway.ledger.client.packing import pack_call
from gateway.ledger.client.runner import CoalescingRunner
from gateway.ledger.client.scripts import Script
from tests.ledger.relay import Relay
from tests.ledger.servers import server

COMMANDS = int(os.environ.get("CREDITGATE_RESP_COMMANDS", "10000"))
KILLS = int(os.environ.get("CREDITGATE_RESP_KILLS", "3"))


def script(name: str, body: str) -> Script:
    source = body.encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


ADD = script("add", "#!lua\nreturn {'ok', redis.call('INCRBY', KEYS[1], ARGV[1]), ARGV[2]}")
ECHO = script("echo", "#!lua flags=no-writes\nreturn {'ok', ARGV[1]}")
BROKEN = script("broken", "#!lua\nreturn {'ok', redis.call('GET')}")
TOUCHY = script("touchy", "#!lua\nreturn redis.error_reply(ARGV[1])")
PLAIN = script("plain", "#!lua\nreturn 1")
GUARDED = script("guarded", "#!lua\nredis.call('SET', KEYS[1], ARGV[1]) return {'ok'}")
ALLOWED = script(
    "allowed", "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], ARGV[1]) return {'ok'}"
)


@pytest.fixture
def endpoint(valkey_socket: Path) -> Endpoint:
    return Endpoint.from_socket(valkey_socket)


@pytest.fixture
async def runner(
    endpoint: Endpoint, valkey: redis.asyncio.Redis
) -> AsyncIterator[CoalescingRunner]:
    async with CoalescingRunner(endpoint, name="test") as started:
        yield started


@pytest.fixture
async def relay(valkey_socket: Path, tmp_path: Path) -> AsyncIterator[Relay]:
    between = Relay(valkey_socket)
    await between.listen_unix(tmp_path / "relay")
    yield between
    await between.close()


@pytest.fixture
async def through_relay(
    relay: Relay, tmp_path: Path, valkey: redis.asyncio.Redis
) -> AsyncIterator[CoalescingRunner]:
    """A runner that reaches the server through the relay, its script loaded."""
    endpoint = Endpoint.from_socket(tmp_path / "relay")
    async with CoalescingRunner(endpoint, name="test", timeout_s=0.2) as started:
        await started.run(ADD, [b"n"], [b"0", b""])
        yield started
        relay.mute = relay.cut_replies = False
        relay.reset_all()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.005)


async def outcome(call: Awaitable[list[Any]]) -> list[Any] | LedgerUnavailable:
    try:
        return await call
    except LedgerUnavailable as error:
        return error


async def test_a_missing_script_is_loaded_once_for_all_who_miss_it(
    runner: CoalescingRunner, valkey: redis.asyncio.Redis
) -> None:
    await valkey.script_flush()
    before = (await valkey.info("commandstats")).get("cmdstat_script|load", {"calls": 0})
    replies = await asyncio.gather(*(runner.run(ADD, [b"n"], [b"1", b"%d" % i]) for i in range(50)))
    assert sorted(reply[1] for reply in replies) == list(range(1, 51))
    assert [reply[2] for reply in replies] == [b"%d" % i for i in range(50)]
    after = (await valkey.info("commandstats"))["cmdstat_script|load"]
    assert after["calls"] == before["calls"] + 1


async def test_scripts_flushed_under_load_are_seen_by_no_caller(
    runner: CoalescingRunner, valkey: redis.asyncio.Redis
) -> None:
    async def flush_often() -> None:
        for _ in range(20):
            await valkey.script_flush()
            await asyncio.sleep(0.002)

    async def call_often(caller: int) -> None:
        for i in range(100):
            text = b"%d-%d" % (caller, i)
            assert (await runner.run(ADD, [b"n"], [b"1", text]))[2] == text

    await asyncio.gather(flush_often(), *(call_often(caller) for caller in range(20)))
    assert await valkey.get("n") == b"2000"


def _watched_writes(runner: CoalescingRunner, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the runner writes from now on, one entry a write."""
    writes: list[bytes] = []

    class Counting:
        def __init__(self, transport: asyncio.Transport) -> None:
            self._transport = transport

        def write(self, data: bytes) -> None:
            writes.append(data)
            self._transport.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

    wire = runner._wire
    assert wire is not None
    assert wire._transport is not None
    monkeypatch.setattr(wire, "_transport", Counting(wire._transport))
    return writes


async def test_commands_of_one_tick_leave_in_one_write(
    runner: CoalescingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first of a crowd does not know that it is one.
    await asyncio.gather(*(runner.run(ADD, [b"n"], [b"0", b""]) for _ in range(3)))
    writes = _watched_writes(runner, monkeypatch)
    await asyncio.gather(*(runner.run(ADD, [b"n"], [b"1", b""]) for _ in range(32)))
    assert [data.count(b"EVALSHA") for data in writes] == [32]


async def test_a_command_leaves_at_once_while_there_is_no_crowd(
    runner: CoalescingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runner.run(ADD, [b"n"], [b"0", b""])
    writes = _watched_writes(runner, monkeypatch)
    wire = runner._wire
    assert wire is not None
    packed = pack_call(ADD.sha, [b"n"], [b"1", b""])
    answers = [wire.send(packed)]
    assert len(writes) == 1, "it waited for the end of the tick"
    answers += [wire.send(packed), wire.send(packed)]
    assert len(writes) == 1, "what follows in the same tick is collected"
    await asyncio.gather(*answers)
    assert [data.count(b"EVALSHA") for data in writes] == [1, 2]


async def test_thousands_of_commands_with_random_cancellations_keep_order_and_leak_nothing(
    runner: CoalescingRunner, valkey: redis.asyncio.Redis
) -> None:
    chance = random.Random(1)
    answered = cancelled = 0

    async def call(number: int) -> None:
        nonlocal answered
        text = b"%d" % number
        reply = await runner.run(ECHO, [b"k"], [text])
        assert reply == [b"ok", text]
        answered += 1

    for first in range(0, COMMANDS, 200):
        tasks = [asyncio.create_task(call(first + i)) for i in range(200)]
        for task in tasks:
            if chance.random() < 0.3:
                asyncio.get_running_loop().call_later(chance.random() * 0.004, task.cancel)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), result
            cancelled += result is not None
    assert answered + cancelled == COMMANDS
    assert cancelled > COMMANDS // 20
    await until(lambda: runner.outstanding == 0)
    wire = runner._wire
    assert wire is not None
    assert not wire._queue
    assert not wire._chunks
    await until(lambda: wire._timer is None)  # the sweep sleeps while nothing waits
    assert not wire._marks


async def test_an_exception_in_one_callers_callback_harms_no_other(
    runner: CoalescingRunner,
) -> None:
    seen: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: seen.append(str(context["exception"]))
    )

    async def careless() -> None:
        await runner.run(ECHO, [b"k"], [b"x"])
        raise ValueError("careless")

    def worse(_: object) -> None:
        raise ValueError("worse")

    tasks = [asyncio.create_task(careless()) for _ in range(5)]
    wire = runner._wire
    assert wire is not None
    wire.send(b"*1\r\n$4\r\nPING\r\n").add_done_callback(worse)
    others = await asyncio.gather(*(runner.run(ECHO, [b"k"], [b"%d" % i]) for i in range(50)))
    assert others == [[b"ok", b"%d" % i] for i in range(50)]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert seen == ["worse"]


async def test_a_script_that_fails_is_a_bug_and_is_not_retried(
    runner: CoalescingRunner, valkey: redis.asyncio.Redis
) -> None:
    with pytest.raises(LedgerBug, match="script broken failed"):
        await runner.run(BROKEN, [b"n"], [])
    with pytest.raises(LedgerBug, match="answered a int, not a list"):
        await runner.run(PLAIN, [b"n"], [])
    assert (await runner.run(ECHO, [b"k"], [b"x"])) == [b"ok", b"x"]


@pytest.mark.parametrize("word", ["BUSY", "LOADING", "MISCONF", "NOREPLICAS", "OOM", "MASTERDOWN"])
async def test_a_server_that_cannot_serve_is_unavailable_with_a_known_outcome(
    runner: CoalescingRunner, word: str
) -> None:
    with pytest.raises(LedgerUnavailable, match=word) as caught:
        await runner.run(TOUCHY, [b"n"], [f"{word} as the server would say".encode()])
    assert not caught.value.unknown
    assert (caught.value.code, runner.refusal) == (word, word)
    assert runner.connected == (word not in NOT_PRIMARY)


@pytest.mark.parametrize("word", ["CLUSTERDOWN", "TRYAGAIN", "MOVED 7", "ASK 7"])
async def test_what_is_said_of_one_slot_says_nothing_of_the_server(
    runner: CoalescingRunner, word: str
) -> None:
    with pytest.raises(LedgerUnavailable, match=word.split()[0]) as caught:
        await runner.run(TOUCHY, [b"n"], [f"{word} 127.0.0.1:7".encode()])
    assert not caught.value.unknown
    assert caught.value.code == word.split()[0]
    assert runner.connected
    assert runner.refusal is None


async def test_a_full_memory_stops_only_scripts_that_do_not_allow_it(
    runner: CoalescingRunner, valkey: redis.asyncio.Redis
) -> None:
    await valkey.config_set("maxmemory", "100kb")
    try:
        with pytest.raises(LedgerUnavailable, match="OOM") as caught:
            await runner.run(GUARDED, [b"k"], [b"v"])
        assert not caught.value.unknown
        assert await runner.run(ALLOWED, [b"k"], [b"v"]) == [b"ok"]
    finally:
        await valkey.config_set("maxmemory", "0")


async def test_a_busy_server_is_unavailable_with_a_known_outcome(tmp_path: Path) -> None:
    with server(tmp_path, "--busy-reply-threshold", "20") as own:
        async with (
            CoalescingRunner(Endpoint.from_socket(own.socket), name="test") as runner,
            CoalescingRunner(Endpoint.from_socket(own.socket), name="slow", timeout_s=10) as slow,
        ):
            endless = script("endless", "#!lua\nwhile true do end")
            stuck = asyncio.create_task(slow.run(endless, [b"k"], []))
            await asyncio.sleep(0.2)
            with pytest.raises(LedgerUnavailable, match="BUSY") as caught:
                await runner.run(ECHO, [b"k"], [b"x"])
            assert not caught.value.unknown
            killer = redis.asyncio.Redis(unix_socket_path=str(own.socket))
            await killer.script_kill()
            await killer.aclose()
            with pytest.raises(LedgerBug, match="killed"):
                await stuck


async def test_a_server_that_became_a_replica_is_left_and_found_again(tmp_path: Path) -> None:
    with server(tmp_path) as own:
        client = redis.asyncio.Redis(unix_socket_path=str(own.socket))
        async with CoalescingRunner(Endpoint.from_socket(own.socket), name="test") as runner:
            assert (await runner.run(ADD, [b"n"], [b"1", b""]))[1] == 1
            await client.replicaof("127.0.0.1", "1")
            with pytest.raises(LedgerUnavailable, match="replica") as caught:
                await runner.run(ADD, [b"n"], [b"1", b""])
            assert not caught.value.unknown
            await client.replicaof("NO", "ONE")
            await until(lambda: runner.reconnects >= 1 and runner.connected)
            assert (await runner.run(ADD, [b"n"], [b"1", b""]))[1] == 2
        await client.aclose()


async def test_a_lost_reply_is_an_unknown_outcome_of_an_executed_command(
    through_relay: CoalescingRunner, relay: Relay, valkey: redis.asyncio.Redis
) -> None:
    rounds, lost = 20, 0
    for _ in range(rounds):
        relay.cut_replies = True
        results = await asyncio.gather(
            *(outcome(through_relay.run(ADD, [b"n"], [b"1", b""])) for _ in range(3))
        )
        relay.cut_replies = False
        for result in results:
            assert isinstance(result, LedgerUnavailable)
            assert result.unknown
            lost += 1
        await until(lambda: through_relay.connected)
    assert relay.replies_cut == rounds
    assert await valkey.get("n") == b"%d" % lost


async def test_a_silent_server_is_an_unknown_outcome_at_the_deadline_then_given_up(
    through_relay: CoalescingRunner, relay: Relay
) -> None:
    relay.mute = True
    with pytest.raises(LedgerUnavailable, match=r"did not answer within 0.2 s") as caught:
        await through_relay.run(ADD, [b"n"], [b"1", b""])
    assert caught.value.unknown
    await until(lambda: not through_relay.connected)
    with pytest.raises(LedgerUnavailable, match="silent") as caught:
        await through_relay.run(ADD, [b"n"], [b"1", b""])
    assert not caught.value.unknown


async def test_a_late_reply_goes_to_nobody_else(
    through_relay: CoalescingRunner, relay: Relay
) -> None:
    relay.mute = True
    late = asyncio.create_task(outcome(through_relay.run(ADD, [b"n"], [b"1", b"late"])))
    assert isinstance(await late, LedgerUnavailable)
    following = asyncio.create_task(through_relay.run(ADD, [b"n"], [b"1", b"next"]))
    await asyncio.sleep(0)
    relay.mute = False
    assert (await following)[2] == b"next"
    assert through_relay.reconnects == 0


async def test_back_pressure_keeps_commands_where_they_can_be_taken_back(
    through_relay: CoalescingRunner, relay: Relay, valkey: redis.asyncio.Redis
) -> None:
    relay.mute = True
    wire = through_relay._wire
    assert wire is not None
    stuffing = [
        asyncio.create_task(outcome(through_relay.run(ADD, [b"n"], [b"1", b"x" * 300_000])))
        for _ in range(10)
    ]
    await until(lambda: wire._paused)
    kept = asyncio.create_task(outcome(through_relay.run(ADD, [b"n"], [b"1000", b""])))
    result = await kept
    assert isinstance(result, LedgerUnavailable)
    assert not result.unknown
    for each in await asyncio.gather(*stuffing):
        assert isinstance(each, LedgerUnavailable)
        assert each.unknown
    relay.mute = False
    await until(lambda: through_relay.connected)
    await asyncio.sleep(0.05)
    assert (await valkey.get("n")) in [
        b"%d" % i for i in range(11)
    ]  # the one that was taken back never ran


async def test_back_pressure_that_ends_delays_and_loses_nothing(
    relay: Relay, tmp_path: Path, valkey: redis.asyncio.Redis
) -> None:
    async with CoalescingRunner(Endpoint.from_socket(tmp_path / "relay"), name="t") as runner:
        await runner.run(ADD, [b"n"], [b"0", b""])
        relay.mute = True
        calls = []
        for i in range(20):
            text = b"%d" % i + b"x" * 100_000
            calls.append(asyncio.create_task(runner.run(ADD, [b"n"], [b"1", text])))
            await asyncio.sleep(0.001)
        wire = runner._wire
        assert wire is not None
        await until(lambda: wire._paused and bool(wire._queue))
        relay.mute = False
        replies = await asyncio.gather(*calls)
        assert [reply[2].rstrip(b"x") for reply in replies] == [b"%d" % i for i in range(20)]
        assert [reply[1] for reply in replies] == list(range(1, 21))


async def test_a_full_queue_refuses_at_once_but_not_a_retry(
    relay: Relay, tmp_path: Path, valkey: redis.asyncio.Redis
) -> None:
    await valkey.script_flush()
    endpoint = Endpoint.from_socket(tmp_path / "relay")
    async with CoalescingRunner(endpoint, name="test", max_outstanding=8) as runner:
        relay.mute = True
        waiting = [asyncio.create_task(runner.run(ECHO, [b"k"], [b"x"])) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(LedgerUnavailable, match="8 commands already wait") as caught:
            await runner.run(ECHO, [b"k"], [b"x"])
        assert not caught.value.unknown
        relay.mute = False
        assert await asyncio.gather(*waiting) == [[b"ok", b"x"]] * 8


async def test_a_server_killed_under_load_resolves_every_call_and_is_found_again(
    tmp_path: Path,
) -> None:
    ok = unknown = known = 0

    async def call_often(runner: CoalescingRunner, stop: asyncio.Event) -> None:
        nonlocal ok, unknown, known
        while not stop.is_set():
            result = await outcome(runner.run(ADD, [b"n"], [b"1", b""]))
            if isinstance(result, list):
                ok += 1
            elif result.unknown:
                unknown += 1
            else:
                known += 1
                await asyncio.sleep(0.005)

    with server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as own:
        runner = CoalescingRunner(Endpoint.from_socket(own.socket), name="test")
        await runner.start()
        stop = asyncio.Event()
        load = [asyncio.create_task(call_often(runner, stop)) for _ in range(32)]
        for _ in range(KILLS):
            goal = ok + 200
            await until(lambda: ok > goal)  # noqa: B023 - awaited at once
            goal = runner.reconnects + 1
            await asyncio.to_thread(own.kill_and_restart)
            await until(lambda: runner.reconnects == goal)  # noqa: B023
        goal = ok + 200
        await until(lambda: ok > goal)
        stop.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*load)
        [(_, executed, _)] = [await runner.run(ADD, [b"n"], [b"0", b""])]
        await runner.close()
    assert unknown > 0
    assert known > 0
    assert ok <= executed <= ok + unknown


async def test_while_the_server_is_away_calls_fail_at_once(tmp_path: Path) -> None:
    with server(tmp_path) as own:
        runner = CoalescingRunner(Endpoint.from_socket(own.socket), name="test")
        await runner.start()
    await until(lambda: not runner.connected)
    with pytest.raises(LedgerUnavailable) as caught:
        await runner.run(ECHO, [b"k"], [b"x"])
    assert not caught.value.unknown
    assert not runner.connected
    with server(tmp_path):
        await until(lambda: runner.connected)
        assert await runner.run(ECHO, [b"k"], [b"x"]) == [b"ok", b"x"]
        await runner.close()


async def test_start_says_why_it_cannot(tmp_path: Path) -> None:
    runner = CoalescingRunner(Endpoint.from_socket(tmp_path / "nothing"), name="test")
    with pytest.raises(LedgerUnavailable, match="cannot be reached"):
        await runner.start()
    with pytest.raises(LedgerUnavailable, match="not connected yet"):
        await runner.run(ECHO, [b"k"], [b"x"])


async def test_close_waits_for_answers_then_refuses(endpoint: Endpoint) -> None:
    runner = CoalescingRunner(endpoint, name="test")
    await runner.start()
    await runner.run(ECHO, [b"k"], [b"loaded"])
    calls = [asyncio.create_task(runner.run(ECHO, [b"k"], [b"%d" % i])) for i in range(100)]
    await asyncio.sleep(0)
    await runner.close()
    assert [(await call)[1] for call in calls] == [b"%d" % i for i in range(100)]
    with pytest.raises(LedgerUnavailable, match="closed"):
        await runner.run(ECHO, [b"k"], [b"x"])
    await runner.close()


async def test_close_gives_a_silent_server_up_after_its_grace(relay: Relay, tmp_path: Path) -> None:
    runner = CoalescingRunner(Endpoint.from_socket(tmp_path / "relay"), name="test", timeout_s=30)
    await runner.start()
    relay.mute = True
    call = asyncio.create_task(outcome(runner.run(ECHO, [b"k"], [b"x"])))
    await asyncio.sleep(0.01)
    await runner.close(grace_s=0.05)
    result = await call
    assert isinstance(result, LedgerUnavailable)
    assert result.unknown


async def test_close_ends_a_reconnection(tmp_path: Path) -> None:
    with server(tmp_path) as own:
        runner = CoalescingRunner(Endpoint.from_socket(own.socket), name="test")
        await runner.start()
    await until(lambda: runner._reconnecting is not None)
    task = runner._reconnecting
    assert task is not None
    await runner.close()
    assert task.done()


async def test_garbage_from_the_server_drops_the_connection_not_the_callers(
    tmp_path: Path,
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(b"+OK\r\n" if b"SETNAME" in data else b"?what\r\n")
        writer.close()

    imposter = await asyncio.start_unix_server(talk, tmp_path / "s")
    runner = CoalescingRunner(Endpoint.from_socket(tmp_path / "s"), name="test")
    await runner.start()
    with pytest.raises(LedgerUnavailable, match="does not speak the protocol") as caught:
        await runner.run(ECHO, [b"k"], [b"x"])
    assert caught.value.unknown
    await runner.close()
    imposter.close()


class TestWaitAof:
    async def test_replies_come_after_the_disk_and_one_fence_serves_a_whole_write(
        self, tmp_path: Path
    ) -> None:
        with server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as own:
            endpoint = Endpoint.from_socket(own.socket)
            client = redis.asyncio.Redis(unix_socket_path=str(own.socket))
            async with CoalescingRunner(endpoint, name="test", waitaof=WaitAof(500)) as runner:
                await runner.run(ADD, [b"n"], [b"0", b""])
                before = (await client.info("commandstats"))["cmdstat_waitaof"]["calls"]
                replies = await asyncio.gather(
                    *(runner.run(ADD, [b"n"], [b"1", b""]) for _ in range(64))
                )
                after = (await client.info("commandstats"))["cmdstat_waitaof"]["calls"]
                assert [reply[1] for reply in replies] == list(range(1, 65))
                assert after == before + 1
                await client.script_flush()
                assert (await runner.run(ADD, [b"n"], [b"1", b""]))[1] == 65
                assert runner.outstanding == 0
            await client.aclose()

    async def test_a_disk_that_does_not_answer_in_time_is_an_unknown_outcome(
        self, tmp_path: Path
    ) -> None:
        # `appendfsync no` never says that the disk has it: the wait runs into its timeout.
        with server(tmp_path, "--appendonly", "yes", "--appendfsync", "no") as own:
            endpoint = Endpoint.from_socket(own.socket)
            async with CoalescingRunner(endpoint, name="test", waitaof=WaitAof(20)) as runner:
                for _ in range(2):
                    with pytest.raises(LedgerUnavailable, match="on its disk") as caught:
                        await runner.run(ADD, [b"n"], [b"1", b""])
                    assert caught.value.unknown

    async def test_an_error_reply_stays_what_it_was_when_the_fence_fails(
        self, tmp_path: Path
    ) -> None:
        with server(tmp_path) as own:  # without an append-only file WAITAOF is an error
            endpoint = Endpoint.from_socket(own.socket)
            async with CoalescingRunner(endpoint, name="test", waitaof=WaitAof(20)) as runner:
                with pytest.raises(LedgerUnavailable, match="OOM") as caught:
                    await runner.run(TOUCHY, [b"n"], [b"OOM as the server would say"])
                assert not caught.value.unknown

    async def test_held_replies_time_out_with_their_fence(self, tmp_path: Path) -> None:
        with server(tmp_path, "--appendonly", "yes", "--appendfsync", "no") as own:
            endpoint = Endpoint.from_socket(own.socket)
            async with CoalescingRunner(
                endpoint, name="test", timeout_s=0.1, waitaof=WaitAof(400)
            ) as runner:
                with pytest.raises(LedgerUnavailable, match=r"within 0.1 s") as caught:
                    await runner.run(ADD, [b"n"], [b"1", b""])
                assert caught.value.unknown


async def test_a_stopped_server_fails_calls_within_the_timeout_and_serves_when_it_wakes(
    tmp_path: Path,
) -> None:
    with server(tmp_path) as own:
        endpoint = Endpoint.from_socket(own.socket)
        async with CoalescingRunner(endpoint, name="test", timeout_s=0.2) as runner:
            await runner.run(ADD, [b"n"], [b"1", b""])
            own.process.send_signal(signal.SIGSTOP)
            try:
                result = await outcome(runner.run(ADD, [b"n"], [b"1", b""]))
            finally:
                own.process.send_signal(signal.SIGCONT)
            assert isinstance(result, LedgerUnavailable)
            assert result.unknown
            assert (await runner.run(ADD, [b"n"], [b"1", b""]))[1] == 3


def test_the_repr_has_no_secret() -> None:
    endpoint = Endpoint.from_url("redis://gate:hush-hush@localhost:1/2")
    assert "hush" not in repr(CoalescingRunner(endpoint, name="test"))


@pytest.mark.parametrize("size", [0, 9, 10, 4095, 4096, 70_000])
def test_a_call_is_packed_as_the_library_packs_it(size: int) -> None:
    sha, keys, args = b"a" * 40, (b"k1", b"k\r\n2"), (b"", b"x" * size, b"\0\xff")
    assert pack_call(sha, keys, args) == pack((b"EVALSHA", sha, b"2", *keys, *args))


async def test_a_server_that_was_lost_is_not_waited_for(tmp_path: Path) -> None:
    with server(tmp_path / "own") as own:
        endpoint = Endpoint.from_socket(own.socket)
        async with CoalescingRunner(endpoint, name="test") as runner:
            own.kill()
            await until(lambda: not runner.connected)
            async with asyncio.timeout(0):  # anything to wait for would be too long
                await runner.reach()
