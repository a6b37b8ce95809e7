"""A request that has ended leaves no cycle: its memory is free at once, not when the collector looks.

The workers' collector looks seldom, and what it finds it stops the event loop for.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import pytest

from gateway.flow.context import RequestContext
from gateway.flow.reservation.growth import Growth
from gateway.flow.reservation.reservation import Reservation
from gateway.http.server.exchange import ServedExchange
from tests.flow.test_relay import JSON_ANSWER, frames_until, leave_after
from tests.flow.test_relay import serve as serve
from tests.flow.test_stream import ask, at_once
from tests.support.gate import Gate
from tests.support.rawhttp import Received, ok
from tests.support.until import until

Serve = Callable[..., AbstractAsyncContextManager[Gate]]
OF_REQUESTS = (Growth, RequestContext, Reservation, ServedExchange)


@contextmanager
def found_by_the_collector() -> Iterator[list[Any]]:
    """What of requests is unreachable, and still there, at the block's end."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [each for each in gc.garbage if isinstance(each, OF_REQUESTS)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def in_json(gate: Gate) -> None:
    assert (await gate.chat()).status_code == 200


async def in_events(gate: Gate) -> None:
    client = await ask(gate)
    await client.answer()
    await client.close()


async def with_its_cost_behind(gate: Gate) -> None:
    client = await ask(gate, **{"x-credits-trailer": "1"})
    assert b"x-credits-cost" in (await client.answer()).body
    await client.close()


async def refused(gate: Gate) -> None:
    answer = await gate.post("/v1/chat/completions", {"model": "small", "messages": 7})
    assert answer.status_code == 400


async def answer_json(
    received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    if b'"stream":true' in received.body:
        await at_once(received, reader, writer)
    else:
        writer.write(ok(JSON_ANSWER))


@pytest.mark.parametrize("request_once", [in_json, in_events, with_its_cost_behind, refused])
async def test_a_request_that_has_ended_leaves_no_cycle(
    serve: Serve, request_once: Callable[[Gate], Awaitable[None]]
) -> None:
    async with serve(answer_json) as gate:
        await request_once(gate)  # what is made once for all
        await until(lambda: not gate.service.live)
        with found_by_the_collector() as found:
            for _ in range(3):
                await request_once(gate)
            await until(lambda: not gate.service.live)
            await asyncio.sleep(0.05)
        assert found == []


async def test_a_client_that_leaves_leaves_no_cycle(serve: Serve) -> None:
    gone = asyncio.Event()
    async with serve(frames_until(gone)) as gate:
        with found_by_the_collector() as found:
            await leave_after(gate, b"data: ")
            await until(lambda: not gate.service.live)
            await asyncio.sleep(0.05)
        gone.set()
        assert found == []
