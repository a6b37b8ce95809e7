"""Both ends of the control channel over a real socket pair."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.app.control import ChildGone, ChildRefused, ControlClient, ControlServer

Ends = tuple[ControlClient, "asyncio.Task[None]"]


async def echo(body: Any) -> Any:
    return body


async def slow(body: Any) -> Any:
    await asyncio.sleep(body)
    return "slow"


async def refuse(body: Any) -> Any:
    raise ChildRefused(f"no {body}")


async def break_down(_: Any) -> Any:
    raise ValueError("sk-canary")


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    verbs = {"echo": echo, "slow": slow, "refuse": refuse, "break": break_down}
    served = asyncio.create_task(ControlServer(verbs).run(theirs))
    client = await ControlClient.over(ours)
    yield client, served
    await client.close()
    await asyncio.wait_for(served, 5)


async def test_calls_are_answered_each_its_own_in_any_order(ends: Ends) -> None:
    client, _ = ends
    late = asyncio.create_task(client.call("slow", 0.2, timeout_s=5))
    big = {"blob": b"x" * 3_000_000, "n": [1, None, "ü"]}
    assert await client.call("echo", big, timeout_s=5) == big
    assert not late.done()
    assert await late == "slow"


async def test_a_refusal_carries_its_reason_and_a_fault_only_its_type(ends: Ends) -> None:
    client, _ = ends
    with pytest.raises(ChildRefused, match="no thanks"):
        await client.call("refuse", "thanks", timeout_s=5)
    with pytest.raises(ChildRefused) as told:
        await client.call("break", timeout_s=5)
    assert str(told.value) == "ValueError"
    with pytest.raises(ChildRefused):
        await client.call("unknown", timeout_s=5)


async def test_a_late_answer_is_no_answer_to_the_next_call(ends: Ends) -> None:
    client, _ = ends
    with pytest.raises(TimeoutError):
        await client.call("slow", 0.2, timeout_s=0.05)
    assert await client.call("echo", 1, timeout_s=5) == 1
    await asyncio.sleep(0.3)
    assert await client.call("echo", 2, timeout_s=5) == 2


async def test_the_servers_run_returns_when_the_supervisor_is_gone(ends: Ends) -> None:
    client, served = ends
    await client.close()
    await asyncio.wait_for(served, 5)


async def test_calls_fail_once_the_child_is_gone() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    client = await ControlClient.over(ours)
    waiting = asyncio.create_task(client.call("echo", timeout_s=5))
    await asyncio.sleep(0)
    theirs.close()
    with pytest.raises(ChildGone):
        await waiting
    with pytest.raises(ChildGone):
        await client.call("echo", timeout_s=5)
    await client.close()


async def test_an_absurd_length_ends_the_channel() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    client = await ControlClient.over(ours)
    waiting = asyncio.create_task(client.call("echo", timeout_s=5))
    await asyncio.sleep(0)
    theirs.sendall(struct.pack(">I", 0xFFFFFFFF))
    with pytest.raises(ChildGone):
        await waiting
    theirs.close()
    await client.close()
