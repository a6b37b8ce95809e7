"""An upstream that sends another complete answer behind each of its answers.

    python -m loadtest.hostile.stray

prints its URL as its first line. Each answer repeats the last line of its request. A gate that reuses
the connection may take the second answer for that of its next request, perhaps another customer's.
"""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import orjson

from loadtest import child

_PAUSES_S: Final = (0, 0.0005, 0.002)
"""Before the second answer: it comes at once, while the next request is on its way, or later."""


def _answer(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    body = orjson.dumps(
        {
            "id": "stray",
            "object": "chat.completion",
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
        }
    )
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, EOFError, ValueError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = head.lower().partition(b"content-length:")[2]
            body = await reader.readexactly(int(fields.partition(b"\r\n")[0]))
            answer = _answer(orjson.loads(body)["messages"][-1]["content"].split("\n")[-1])
            writer.write(answer)
            await asyncio.sleep(random.choice(_PAUSES_S))
            writer.write(answer)
    writer.close()


async def _run() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def stray_upstream() -> Iterator[str]:
    """The URL of one that runs until the block ends."""
    command = [sys.executable, "-m", "loadtest.hostile.stray"]
    with child.running(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


if __name__ == "__main__":
    asyncio.run(_run())
