"""What a stream that waits costs in memory: growth of the resident set of a fresh contender.

Invariants: streams are opened, have brought their first frame and then wait; nothing of an earlier load is
there that they could reuse. So the figure holds all that a stream needs, buffers, tasks and TLS
state of both sides, and a share of what grew once.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from loadtest.bench.cells import MODELS, headers, with_members
from loadtest.generator import Load
from loadtest.peers.target import Target
from loadtest.requests import Shot, chat_body, http_request, in_turn

_WAIT_MS: Final = 600_000
_AT_ONCE: Final = 32
_WARM: Final = 64
_SETTLE_S: Final = 2.0
_FIRST_FRAME_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Idle:
    """Memory of waiting streams. kib_each: growth of the serving processes over `streams`."""

    target: str
    upstream: str
    streams: int
    kib_each: float
    base_mib: float


def resident_kib(pids: Iterable[int]) -> int:
    """Resident memory of these processes."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


async def measure(target: Target, upstream: str, streams: int, settle_s: float = _SETTLE_S) -> Idle:
    """Open so many streams, let them wait, weigh. Raises OSError, TimeoutError when some fail."""
    url = target.url(upstream, True)
    fields = headers(target.fields(upstream))

    def request(line: str) -> bytes:
        body = chat_body(MODELS[upstream], stream=True, line=line)
        body = with_members(body, target.members(upstream))
        return http_request(target.path, body, fields)

    warm = Shot(request("sim: tokens=3"))
    await Load(url, in_turn([warm] * _WARM), connections=8).run()
    await asyncio.sleep(settle_s)
    pids = target.serving()
    before = resident_kib(pids)
    gate = asyncio.Semaphore(_AT_ONCE)
    data = request(f"sim: tokens=2 itl_ms={_WAIT_MS}")

    async def opened() -> asyncio.StreamWriter:
        parts = urlsplit(url)
        async with gate, asyncio.timeout(_FIRST_FRAME_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(data)
            status = await reader.readline()
            if b" 200 " not in status:
                raise OSError(f"{target.name} answers a stream with {status!r}")
            await reader.readuntil(b"data:")
            return writer

    opening = [asyncio.ensure_future(opened()) for _ in range(streams)]
    try:
        await asyncio.gather(*opening)
        await asyncio.sleep(settle_s)
        grown = resident_kib(pids) - before
    finally:
        for one in opening:
            one.cancel()
            if one.done() and not one.cancelled() and one.exception() is None:
                one.result().transport.abort()
        await asyncio.sleep(0)
    return Idle(target.name, upstream, streams, grown / streams, before / 1024)
