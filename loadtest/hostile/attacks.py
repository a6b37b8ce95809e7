"""The attacks. Each returns what its requests were answered, by status.

`share` scales an attack: 1 is the size at which it once hurt, less is for a quick check.
"""

import asyncio
import contextlib
import gzip
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.hostile.arena import BROKE, FUNDED, HONEST, MODEL, NARROW, STRAY, Arena
from loadtest.hostile.wire import NO_ANSWER, chat, connected, exchange, read_answer, request

CHAT: Final = "/v1/chat/completions"
COUNT: Final = "/v1/messages/count_tokens"
BODY_BYTES: Final = 4 * 1024 * 1024
PATIENCE_S: Final = 30.0

Found = Counter[str]
Run = Callable[[Arena, float], Awaitable[Found]]


@dataclass(frozen=True, slots=True)
class Attack:
    """What is done, and what must not come of it.

    allowed:   what its requests may be answered ("402", "closed", …); None for anything
    victim:    the honest client's model
    expected:  what the honest client's answers contain
    most_growth_bytes: of the worker's memory while it lasts
    day_events: events that the funded customer already has today
    """

    name: str
    run: Run
    allowed: frozenset[str] | None = None
    victim: str = MODEL
    expected: bytes = b'"usage"'
    most_growth_bytes: int = 96 * 1024 * 1024
    day_events: int = 0


async def _all(arena: Arena, requests: Sequence[bytes], at_once: int) -> Found:
    """Send these, so many at a time."""
    found: Found = Counter()
    todo = list(requests)

    async def sender() -> None:
        while todo:
            answer = await exchange(arena.address, todo.pop(), within_s=PATIENCE_S)
            found["closed" if answer.status == NO_ANSWER else str(answer.status)] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(sender())
    return found


def _listed(item: bytes, count: int, head: bytes = b"") -> bytes:
    items = b",".join([item] * count)
    return b'{"model":"%b",%b"messages":[%b]}' % (MODEL.encode(), head, items)


async def json_values(arena: Arena, share: float) -> Found:
    """Bodies of millions of empty objects."""
    body = _listed(b"{}", (BODY_BYTES - 100) // 3)
    keys = (BROKE, FUNDED) * max(1, round(12 * share))
    return await _all(arena, [request("POST", CHAT, key, body) for key in keys], 8)


async def slow_json(arena: Arena, share: float) -> Found:
    """Bodies just below the limit of values, half of which must be read the exact, slow way."""
    bodies = [
        _listed(b'{"a":{"b":1}}', 24_000, head)
        for head in (b'"seed":18446744073709551615,', b'"model":"twice",')
    ]
    requests = [request("POST", CHAT, FUNDED, body) for body in bodies] * max(1, round(12 * share))
    return await _all(arena, requests, 8)


async def gzip_members(arena: Arena, share: float) -> Found:
    """Bodies of 100,000 empty gzip members."""
    body = gzip.compress(b"") * 100_000
    asked = request("POST", CHAT, FUNDED, body, "content-encoding: gzip")
    return await _all(arena, [asked] * max(2, round(24 * share)), 8)


async def idle_connections(arena: Arena, share: float) -> Found:
    """More idle connections without a key than the worker has file descriptors."""
    found: Found = Counter()
    async with contextlib.AsyncExitStack() as stack:
        readers = []
        for _ in range(round(1200 * share)):
            try:
                reader, _ = await stack.enter_async_context(connected(arena.address))
                readers.append(reader)
            except OSError:
                found["refused"] += 1
        await asyncio.sleep(3 * share)
        for reader in readers:
            found["shed" if reader.at_eof() else "kept"] += 1
    return found


async def unread_streams(arena: Arena, share: float) -> Found:
    """Streams that are never read."""
    found: Found = Counter()
    body = chat(MODEL, "sim: tokens=16000", stream=True, max_tokens=16_000)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(round(300 * share)):
            reader, writer = await stack.enter_async_context(connected(arena.address))
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(request("POST", CHAT, FUNDED, body))
        await asyncio.sleep(4 * share)
        found["opened"] = round(300 * share)
    return found


async def unfinished_bodies(arena: Arena, share: float) -> Found:
    """Bodies of which the last byte never comes."""
    found: Found = Counter()
    data = request("POST", CHAT, FUNDED, b" " * BODY_BYTES)[:-1]

    async def one() -> None:
        with contextlib.suppress(OSError, EOFError, ValueError):
            async with asyncio.timeout(1 + 5 * share), connected(arena.address) as (reader, writer):
                writer.write(data)
                found[str((await read_answer(reader)).status)] += 1
                return
        found["waiting"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(round(120 * share)):
            group.create_task(one())
    return found


async def free_route(arena: Arena, share: float) -> Found:
    """Requests to a free route whose clients leave while the upstream hangs.

    How long the upstream is read on is the policy's `disconnect_json`: what is left is only shown.
    """
    found: Found = Counter()
    body = chat(NARROW, "sim: hang=before_head")
    asked = request("POST", COUNT, BROKE, body, "anthropic-version: 2023-06-01")

    async def one() -> None:
        answer = await exchange(arena.address, asked, within_s=0.5)
        found["left" if answer.status == NO_ANSWER else str(answer.status)] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(round(100 * share)):
            group.create_task(one())
    await asyncio.sleep(2 * share)
    found["still upstream"] = arena.narrow_connections()
    return +found


async def bytes_behind(arena: Arena, share: float) -> Found:
    """An upstream that sends a second answer behind each: no other customer may get it."""
    found: Found = Counter()
    asked = request("POST", CHAT, FUNDED, chat(STRAY, FUNDED))
    for _ in range(round(400 * share)):
        answer = await exchange(arena.address, asked, within_s=PATIENCE_S)
        right = answer.status != 200 or FUNDED.encode() in answer.body
        found[str(answer.status) if right else "another's answer"] += 1
    return found


async def slow_requests(arena: Arena, share: float) -> Found:
    """One customer's slow requests to an upstream of few connections."""
    asked = request("POST", CHAT, FUNDED, chat(NARROW, f"sim: ttft_ms={round(6000 * share)}"))
    return await _all(arena, [asked] * 60, 60)


async def credits_storm(arena: Arena, share: float) -> Found:
    """The balance of a customer with a busy day, by many at once."""
    requests = [request("GET", "/v1/credits", FUNDED)] * max(60, round(600 * share))
    return await _all(arena, requests, 60)


async def garbage_behind(arena: Arena, share: float) -> Found:
    """Garbage behind a valid request: the answer stays whole."""
    asked = request("POST", CHAT, FUNDED, chat(MODEL)) + b"\0\r\n\xff garbage \r\n\r\n" * 20
    return await _all(arena, [asked] * max(5, round(100 * share)), 8)


async def closing(arena: Arena, share: float) -> Found:
    """`Connection: close` while bytes still arrive: the answer is not lost."""
    found: Found = Counter()
    asked = request("POST", CHAT, FUNDED, chat(MODEL), "connection: close")

    async def one() -> None:
        with contextlib.suppress(OSError, EOFError, ValueError):
            async with asyncio.timeout(PATIENCE_S), connected(arena.address) as (reader, writer):
                writer.write(asked)
                for _ in range(40):
                    writer.write(b"x" * 4096)
                    await asyncio.sleep(0.001)
                found[str((await read_answer(reader)).status)] += 1
                return
        found["lost"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(max(5, round(60 * share))):
            group.create_task(one())
    return found


async def admin_port(arena: Arena, share: float) -> Found:
    """Idle connections to the admin side; its health must still be answered."""
    found: Found = Counter()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(round(1200 * share)):
            with contextlib.suppress(OSError):
                await stack.enter_async_context(connected(arena.admin))
        answer = await exchange(arena.admin, request("GET", "/readyz"), within_s=5)
        found[f"readyz {answer.status}"] += 1
    return found


def _only(*words: str) -> frozenset[str]:
    return frozenset(words)


ATTACKS: Final = (
    Attack("JSON values", json_values, _only("400", "402", "429", "503")),
    Attack("slow JSON", slow_json, _only("400", "429", "503")),
    Attack("gzip members", gzip_members, _only("400", "429", "503")),
    Attack("idle connections", idle_connections),
    Attack("unread streams", unread_streams),
    Attack("unfinished bodies", unfinished_bodies, _only("waiting", "402", "408", "429", "503")),
    Attack("free route", free_route, _only("left", "still upstream", "402", "429", "503")),
    Attack("bytes behind an answer", bytes_behind, _only("200", "502"), STRAY, HONEST.encode()),
    Attack("one customer's slow requests", slow_requests, None, NARROW),
    Attack("credits storm", credits_storm, _only("200", "429"), day_events=200_000),
    Attack("garbage behind a request", garbage_behind, _only("200")),
    Attack("Connection: close", closing, _only("200")),
    Attack("admin port", admin_port, _only("readyz 200")),
)
