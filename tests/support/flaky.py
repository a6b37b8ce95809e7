"""An upstream whose troubles a test sets: which requests it received, what it did to each."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.rawhttp import Received, free_socket, reset

CHAT = {
    "id": "c",
    "object": "chat.completion",
    "model": "small",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
}
CHUNK = {"id": "c", "choices": [{"index": 0, "delta": {"content": "hello"}}]}


class FlakyUpstream:
    """Answers chat completions by `trouble`: "" answers 200; else one of

    reset (after the request's head), hang, half (an event of a stream, then a reset), goodbye (a 200,
    then closes without having said so), or a status such as "429".

    received: how many POSTs came with each `x-request-id`, counted when the head has arrived
    trouble:  may be replaced at any time; a callable decides for each request
    """

    def __init__(self) -> None:
        self.trouble = ""
        self.received: Counter[str] = Counter()
        self.heads: list[Received] = []
        with free_socket() as sock:
            self.port: int = sock.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> int:
        return self.received.total()

    def next_trouble(self) -> str:
        """The trouble of the next request."""
        return self.trouble

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def refuse(self, *, drop: bool = True) -> None:
        """Accept no more connections. drop: and close those that exist"""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers) if drop else ():
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FlakyUpstream"]:
        await self.listen()
        try:
            yield self
        finally:
            self.refuse()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                received = Received(await reader.readuntil(b"\r\n\r\n"), b"")
                fields = dict(received.fields)
                self.received[fields["x-request-id"]] += 1
                self.heads.append(received)
                trouble = self.next_trouble()
                if trouble == "reset":
                    reset(writer)
                    return
                received.body = await reader.readexactly(int(fields["content-length"]))
                if not await self._answer(trouble, received, writer):
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):  # the test closed it, or the gate did
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, trouble: str, received: Received, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays."""
        if trouble == "hang":
            await asyncio.sleep(3600)
        if trouble == "half":
            event = b"data: %b\n\n" % json.dumps(CHUNK).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(event), event)
            )
            await writer.drain()
            await asyncio.sleep(0.05)
            reset(writer)
            return False
        status, body, more = 200, CHAT, b""
        if trouble.isdigit():
            status, body = int(trouble), {"error": {"message": "no", "type": "x", "code": None}}
            more = b"retry-after: 7\r\n" if status == 429 else b""
        elif json.loads(received.body).get("stream"):
            self._stream(writer)
            return True
        payload = json.dumps(body).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
            % (status, more, len(payload), payload)
        )
        return trouble != "goodbye"

    def _stream(self, writer: asyncio.StreamWriter) -> None:
        end = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        usage = {"id": "c", "choices": [], "usage": CHAT["usage"]}
        events = b"".join(
            b"data: %b\n\n" % part
            for part in (*(json.dumps(each).encode() for each in (CHUNK, end, usage)), b"[DONE]")
        )
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b"
            % (len(events), events)
        )
