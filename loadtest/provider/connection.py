"""One client connection of the simulated provider: reads requests, answers them one after the other."""

import asyncio
import os
import random
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import httptools
import orjson

from loadtest.faults import BadControl, Controls
from loadtest.provider.player import Player
from loadtest.served import Row, Served
from loadtest.sim_answer import ID_MARK, Made
from loadtest.sim_gemini import PREFIX as GEMINI
from loadtest.sim_gemini import gemini_kind
from loadtest.sim_request import KIND_OF_PATH, Ask, BadAsk
from loadtest.sim_script import build, error_answer, head, produce, steps

WRITE_LIMIT_BYTES: Final = 64 * 1024
"""What may wait in a connection's buffer; larger answers are played as the client reads."""

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close sends RST


@dataclass(slots=True)
class Entry:
    """A request body as understood; `quick` is its complete response, split where its number goes."""

    ask: Ask
    controls: Controls
    made: Made | None = None
    quick: list[bytes] | None = None
    tokens: int = 0


class Simulator(Protocol):
    """The provider that a connection belongs to; see `Provider`."""

    rng: random.Random
    api_key: str | None
    record: bool
    idle_close_s: float | None
    models: tuple[str, ...]
    served: Served
    connections: "set[Connection]"

    def entry(self, body: bytes, kind: str, header: bytes) -> Entry:
        """The request as understood. Raises BadAsk, BadControl."""


class Connection(asyncio.Protocol):
    """One client connection: reads requests, answers them one after the other."""

    def __init__(self, provider: Simulator) -> None:
        self._provider = provider
        self._parser = httptools.HttpRequestParser(self)
        self._player: Player | None = None
        self._waiting: deque[tuple[str, bytes, dict[bytes, bytes], list[bytes]]] = deque()
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._idle: asyncio.TimerHandle | None = None
        self.paused = False
        self.stale = False
        self.transport: asyncio.Transport

    # -- the event loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT_BYTES)
        self._provider.connections.add(self)
        served = self._provider.served
        served.connections += 1
        served.connections_open += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._provider.connections.discard(self)
        self._provider.served.connections_open -= 1
        self._waiting.clear()
        if self._idle is not None:
            self._idle.cancel()
        if self._player is not None:
            self._player.broken()

    def data_received(self, data: bytes) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(error_answer("chat", 400, "not an HTTP request"))
            self.transport.close()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._player is not None:
            self._player.resumed()

    # -- the parser's side

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        if self._player is not None or self._waiting:
            self._waiting.append((method, self._url, self._headers, self._body))
        else:
            self._answer(method, self._url, self._headers, self._body)

    # -- answering

    def answered(self) -> None:
        """The player has ended; the connection is free for the next request."""
        self._player = None
        while self._waiting and self._player is None:
            self._answer(*self._waiting.popleft())
        self._rest()

    def _rest(self) -> None:
        seconds = self._provider.idle_close_s
        if seconds is not None and self._player is None and not self.transport.is_closing():
            self._idle = asyncio.get_running_loop().call_later(seconds, self.transport.close)

    def _answer(
        self, method: str, url: bytes, headers: dict[bytes, bytes], body: list[bytes]
    ) -> None:
        path, _, query = url.decode("latin-1").partition("?")
        kind = KIND_OF_PATH.get(path) or gemini_kind(path, query)
        if kind is None or method != "POST":
            self.transport.write(_side_answer(self._provider, method, path, query))
            self._rest()
            return
        provider = self._provider
        data = body[0] if len(body) == 1 else b"".join(body)
        row = Row(
            headers.get(b"x-request-id", b"").decode("latin-1"),
            headers.get(b"x-client-request-id", b"").decode("latin-1"),
            provider.served.posts + 1,
            kind.partition(" ")[0],
        )
        provider.served.add(row)
        if provider.record:
            row.headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in headers.items()]
            row.body = data.decode("utf-8", "replace")
        if self.stale:
            row.state = "broken"
            self.reset()
            return
        if provider.api_key is not None and not _brings(headers, provider.api_key):
            self._refuse(row, kind, 401, "no valid key of this provider was given")
            return
        try:
            self._serve(row, provider.entry(data, kind, headers.get(b"x-sim", b"")))
        except (BadAsk, BadControl) as error:
            self._refuse(row, kind, 400, str(error))

    def _refuse(self, row: Row, kind: str, status: int, message: str) -> None:
        row.status = status
        row.state = "complete"
        number = b"%012d" % row.number
        self.transport.write(error_answer(kind, status, message).replace(ID_MARK.encode(), number))
        self._rest()

    def _serve(self, row: Row, entry: Entry) -> None:
        ask = entry.ask
        row.model = ask.model
        row.stream = ask.stream
        number = b"%012d" % row.number
        if entry.quick is not None and entry.made is not None and not self.paused:
            _note(row, entry.controls, entry.made, entry.tokens)
            row.output = row.planned
            row.state = "complete"
            self.transport.write(number.join(entry.quick))
            if self._provider.idle_close_s is not None:
                self._rest()
            return
        rng = self._provider.rng
        controls = entry.controls
        if controls.rate < 1 and rng.random() >= controls.rate:
            controls = controls.healthy()
        made = produce(ask, controls, rng)
        built = build(ask, made)
        script = steps(ask, built, controls, rng, number)
        if controls.status:
            row.status = controls.status
            row.tag = controls.tag
        else:
            _note(row, controls, made, sum(frame.tokens for frame in built.frames))
        self.stale = controls.stale
        self._player = Player(self, script, row)
        self._player.play()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        # the option belongs to the socket, not to the descriptor: set it through a copy
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


def _note(row: Row, controls: Controls, made: Made, tokens: int) -> None:
    row.status = 200
    row.tag = controls.tag
    row.planned = tokens
    row.reasoning = made.reasoning
    if row.kind not in ("count_tokens", f"{GEMINI}_count"):
        row.input = made.input
        row.cached = made.cached
        row.cache_write = made.cache_write + made.cache_write_1h


def _brings(headers: dict[bytes, bytes], key: str) -> bool:
    bearer = headers.get(b"authorization") == b"Bearer " + key.encode()
    own = (headers.get(b"x-api-key"), headers.get(b"x-goog-api-key"))
    return bearer or key.encode() in own


def _side_answer(provider: Simulator, method: str, path: str, query: str) -> bytes:
    document: Any
    if path == "/v1/models" and method == "GET":
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "simulated"}
            for name in provider.models
        ]
        document = {"object": "list", "data": listed}
    elif path == "/_served" and method == "GET":
        document = provider.served.report(rows="rows=0" not in query)
    elif path == "/_served" and method == "DELETE":
        provider.served.reset()
        document = provider.served.report(rows=False)
    else:
        status = 405 if path in KIND_OF_PATH else 404
        return error_answer("chat", status, f"no such endpoint: {method}")
    body = orjson.dumps(document)
    return head(200, "application/json", len(body)) + body
