"""The simulated provider: OpenAI's, Anthropic's and Gemini's endpoints on a raw protocol, cheap and exact.

    python -m loadtest.provider --port 0 [--sim "tokens=62 itl_ms=20"] [--cert … --key …]

prints its URL as its first line. In a program: `async with running(Provider()) as url`.
What it answers is controlled by `faults.py`; what it served is told at `GET /_served`
(`?rows=0` for the totals alone, `DELETE` to reset), see `served.py`.

Invariants: a healthy answer without delays is one dictionary look-up and one write; everything
else is played step by step (`sim_script.py`), never faster than the client reads.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import httptools
import orjson
import uvloop

from loadtest.faults import (
    NO_DELAY,
    BadControl,
    Controls,
    controls_of_document,
    parse_controls,
)
from loadtest.served import Row, Served
from loadtest.sim_answer import ID_MARK, Made
from loadtest.sim_gemini import PREFIX as GEMINI
from loadtest.sim_gemini import gemini_kind, read_gemini_ask
from loadtest.sim_request import KIND_OF_PATH, Ask, BadAsk, read_ask
from loadtest.sim_script import Step, build, error_answer, head, once, produce, steps

WRITE_LIMIT_BYTES: Final = 64 * 1024
"""What may wait in a connection's buffer; larger answers are played as the client reads."""

_KEPT_BODIES: Final = 1024
_KEPT_BODY_BYTES: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close sends RST


@dataclass(slots=True)
class _Entry:
    """A request body as understood; `quick` is its whole answer, split where its number goes."""

    ask: Ask
    controls: Controls
    made: Made | None = None
    quick: list[bytes] | None = None
    tokens: int = 0


class Provider:
    """One simulated provider: its controls, its random source, its ground truth.

    controls:      what every answer is like unless a request says otherwise
    seed:          of every draw (distributions, `rate`)
    api_key:       when set, requests must bring it (Bearer or x-api-key), else 401
    record:        keep headers and bodies in the ground truth's rows
    rows_limit:    rows kept; totals are exact beyond it
    idle_close_s:  close a connection idle for so long; None keeps it
    """

    def __init__(
        self,
        controls: Controls | None = None,
        *,
        seed: int = 0,
        api_key: str | None = None,
        record: bool = False,
        rows_limit: int = 200_000,
        idle_close_s: float | None = None,
        models: tuple[str, ...] = ("sim-small", "sim-large", "sim-embed", "sim-claude"),
    ) -> None:
        self.controls = controls or Controls()
        self.rng = random.Random(seed)
        self.api_key = api_key
        self.record = record
        self.idle_close_s = idle_close_s
        self.models = models
        self.served = Served(rows_limit)
        self.connections: set[_Connection] = set()
        self._entries: dict[tuple[bytes, str, bytes], _Entry] = {}

    def connection(self) -> asyncio.Protocol:
        """A protocol for one accepted connection."""
        return _Connection(self)

    def entry(self, body: bytes, kind: str, header: bytes) -> _Entry:
        """The request as understood, from memory when the same bytes came before.

        Raises BadAsk, BadControl.
        """
        entry = self._entries.get((body, kind, header))
        if entry is None:
            entry = self._understand(body, kind, header)
            if len(body) <= _KEPT_BODY_BYTES:
                if len(self._entries) >= _KEPT_BODIES:
                    self._entries.clear()
                self._entries[body, kind, header] = entry
        return entry

    def _understand(self, body: bytes, kind: str, header: bytes) -> _Entry:
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise BadAsk("the body is not JSON") from None
        if not isinstance(document, dict):
            raise BadAsk("the body is not a JSON object")
        read = read_gemini_ask if kind.startswith(GEMINI) else read_ask
        ask, last_text = read(kind, document)
        controls = controls_of_document(self.controls, document, last_text)
        if header:
            controls = parse_controls(controls, header.decode("latin-1"))
        entry = _Entry(ask, controls)
        delayed = controls.ttft_ms != NO_DELAY or controls.itl_ms != NO_DELAY
        if controls.tokens.fixed and not delayed and controls == controls.healthy():
            made = produce(ask, controls, self.rng)
            built = build(ask, made)
            data = once(ask, built)
            if len(data) < WRITE_LIMIT_BYTES:
                entry.made = made
                entry.quick = data.split(ID_MARK.encode())
                entry.tokens = sum(frame.tokens for frame in built.frames)
        return entry


class _Connection(asyncio.Protocol):
    """One client connection: reads requests, answers them one after the other."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._parser = httptools.HttpRequestParser(self)
        self._player: _Player | None = None
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

    def _serve(self, row: Row, entry: _Entry) -> None:
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
        self._player = _Player(self, script, row)
        self._player.play()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        # the option belongs to the socket, not to the descriptor: set it through a copy
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class _Player:
    """Plays the steps of one answer on its connection."""

    def __init__(self, connection: _Connection, script: Iterator[Step], row: Row) -> None:
        self._connection = connection
        self._script = script
        self._row = row
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped_at: Step | None = None

    def play(self) -> None:
        """Perform all steps that are due; continue by timer or when the client has read."""
        for step in self._script:
            if step.delay_s:
                # counted from when the last step was due, so that a late timer delays nothing else
                self._due_s += step.delay_s
                self._timer = self._loop.call_at(self._due_s, self._timed, step)
                return
            if not self._perform(step):
                return
        self._row.state = "complete"
        self._connection.answered()

    def _timed(self, step: Step) -> None:
        self._timer = None
        if self._perform(step):
            self.play()

    def _perform(self, step: Step) -> bool:
        connection = self._connection
        if connection.paused:
            self._stopped_at = step
            return False
        if step.data:
            connection.transport.write(step.data)
        self._row.output += step.tokens
        if step.then == "rst":
            self._break_off()
            return False
        if step.then == "fin":
            self._row.state = "complete" if self._row.output == self._row.planned else "broken"
            connection.transport.close()
            return False
        return step.then != "hang"

    def _break_off(self) -> None:
        # a reset throws away what is still in the buffer: let it go out first
        if self._connection.transport.get_write_buffer_size():
            self._timer = self._loop.call_later(0.001, self._break_off)
        else:
            self._row.state = "broken"
            self._connection.reset()

    def resumed(self) -> None:
        """The client has read: go on where back-pressure stopped."""
        step, self._stopped_at = self._stopped_at, None
        if step is not None and self._perform(step):
            self.play()

    def broken(self) -> None:
        """The connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
        if self._row.state == "open":
            self._row.state = "broken"


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


def _side_answer(provider: Provider, method: str, path: str, query: str) -> bytes:
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


@contextlib.asynccontextmanager
async def running(
    provider: Provider,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve until the block ends; yields the URL. Open connections are cut at the end."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(provider.connection, host, port, ssl=tls, backlog=4096)
    scheme = "https" if tls else "http"
    try:
        yield f"{scheme}://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for connection in list(provider.connections):
            connection.transport.abort()
        await server.wait_closed()


async def _serve(arguments: argparse.Namespace) -> None:
    tls = None
    if arguments.cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.cert, arguments.key)
    provider = Provider(
        parse_controls(Controls(), arguments.sim),
        seed=arguments.seed,
        api_key=arguments.api_key,
        record=arguments.record,
        idle_close_s=arguments.idle_close_ms / 1e3 if arguments.idle_close_ms else None,
    )
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running(provider, host=arguments.host, port=arguments.port, tls=tls) as url:
        print(url, flush=True)
        await stopped.wait()


def main() -> None:
    """Entry point of `python -m loadtest.provider`."""
    parser = argparse.ArgumentParser(prog="loadtest.provider", description="A simulated provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--sim", default="", help="controls of every answer, see loadtest/faults.py"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every random draw")
    parser.add_argument("--api-key", help="refuse requests that do not bring this key")
    parser.add_argument("--record", action="store_true", help="keep headers and bodies in /_served")
    parser.add_argument("--idle-close-ms", type=float, help="close idle connections after this")
    parser.add_argument("--cert", help="PEM file of the certificate: serve TLS")
    parser.add_argument("--key", help="PEM file of its key")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
