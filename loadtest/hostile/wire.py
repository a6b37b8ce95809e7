"""HTTP/1.1 by hand, for clients that break its rules: each request on a new connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import orjson

Address = tuple[str, int]
NO_ANSWER: Final = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. status: `NO_ANSWER` when none came, or not all of it."""

    status: int
    body: bytes = b""


def request(
    method: str, path: str, key: str | None = None, body: bytes = b"", *fields: str
) -> bytes:
    """A request's bytes, with a correct length."""
    lines = [f"{method} {path} HTTP/1.1", "host: gate", *fields]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join((*lines, "", "")).encode() + body


def chat(model: str, line: str = "", *, stream: bool = False, max_tokens: int = 64) -> bytes:
    """The body of a chat request. line: the simulated provider's controls."""
    document = {
        "model": model,
        "messages": [{"role": "user", "content": f"hello\n{line}"}],
        "max_tokens": max_tokens,
        "stream": stream,
    }
    return orjson.dumps(document)


@contextlib.asynccontextmanager
async def connected(
    address: Address,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection until the block ends. Raises OSError."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer. Raises EOFError, ValueError."""
    head = await reader.readuntil(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").lower().split("\r\n")
    fields = dict(each.split(": ", 1) for each in lines if ": " in each)
    status = int(line.split(" ")[1])
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return Answer(status, body)
    if "content-length" in fields:
        return Answer(status, await reader.readexactly(int(fields["content-length"])))
    return Answer(status, await reader.read())


async def exchange(address: Address, data: bytes, *, within_s: float) -> Answer:
    """Send bytes, return the answer."""
    try:
        async with asyncio.timeout(within_s), connected(address) as (reader, writer):
            writer.write(data)
            return await read_answer(reader)
    except (OSError, EOFError, ValueError):  # of these are TimeoutError and IncompleteReadError
        return Answer(NO_ANSWER)
