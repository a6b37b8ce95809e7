"""A client that leaves before the upstream has heard of its request pays nothing, and the
upstream hears nothing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from tests.ledger.servers import server
from tests.support.gate import Gate, running_gate
from tests.support.rawhttp import RawClient
from tests.support.until import until
from tests.support.upstreams import Sim


async def ask(gate: Gate, *, stream: bool) -> RawClient:
    """Send a request and do not wait for its answer."""
    client = await RawClient.connect(int(gate.url.rpartition(":")[2]))
    messages = [{"role": "user", "content": "hi\nsim: tokens=20"}]
    content = orjson.dumps({"model": "small", "stream": stream, "messages": messages})
    client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        + f"Authorization: {gate.headers['authorization']}\r\n".encode()
        + b"Content-Length: %d\r\n\r\n" % len(content)
        + content
    )
    return client


async def test_while_the_ledger_is_asked(tmp_path: Path, sim: Sim) -> None:
    with server(tmp_path / "own") as own:
        async with running_gate(tmp_path, own.socket, sim.url) as gate:
            await gate.chat("hi\nsim: tokens=3")
            await gate.settle_all()
            posts = sim.provider.served.posts
            os.kill(own.process.pid, signal.SIGSTOP)
            clients = [await ask(gate, stream=stream) for stream in (False, True)]
            await until(lambda: gate.service.ledger.admission.outstanding == 2)
            for client in clients:
                client.reset()
            await asyncio.sleep(0.05)
            os.kill(own.process.pid, signal.SIGCONT)
            await until(lambda: gate.service.server.busy_count == 0)
            await gate.settle_all()
            _, *left = await gate.events()
            assert [(event.kind, event.amount_nano) for event in left] == [("release", 0)] * 2
            assert all(event.facts["flags"] == ["client_gone"] for event in left)
            assert await gate.held_nano() == 0
            assert sim.provider.served.posts == posts


@asynccontextmanager
async def silent_listener() -> AsyncIterator[int]:
    """A server that takes connections and never says a word; yields its port."""
    quiet = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await quiet.wait()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    quiet.set()
    listening.close()


async def test_while_the_upstream_is_being_connected_to(
    tmp_path: Path, valkey_socket: Path
) -> None:
    async with silent_listener() as port:
        url = f"https://127.0.0.1:{port}"
        upstreams = {"sim": {"base_url": url, "timeouts": {"connect_ms": 5000}}}
        policy = {"disconnect_stream": "charge_hold", "drain_max_ms": 100}
        async with running_gate(
            tmp_path, valkey_socket, url, upstreams=upstreams, policy=policy
        ) as gate:
            clients = [await ask(gate, stream=stream) for stream in (False, True)]
            await until(lambda: len(gate.live) == 2)
            await asyncio.sleep(0.05)
            for client in clients:
                client.reset()
            await until(lambda: not gate.live, within_s=3)
            events = await gate.events()
            assert [(event.kind, event.amount_nano) for event in events] == [("release", 0)] * 2
            assert await gate.held_nano() == 0
