"""One simulated provider: its controls, the requests as it understands them, and its server."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator
from typing import Final

import orjson

from loadtest.faults import NO_DELAY, Controls, controls_of_document, parse_controls
from loadtest.provider.connection import WRITE_LIMIT_BYTES, Connection, Entry
from loadtest.served import Served
from loadtest.sim_answer import ID_MARK
from loadtest.sim_gemini import PREFIX as GEMINI
from loadtest.sim_gemini import read_gemini_ask
from loadtest.sim_request import BadAsk, read_ask
from loadtest.sim_script import build, once, produce

_KEPT_BODIES: Final = 1024
_KEPT_BODY_BYTES: Final = 64 * 1024


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
        self.connections: set[Connection] = set()
        self._entries: dict[tuple[bytes, str, bytes], Entry] = {}

    def connection(self) -> asyncio.Protocol:
        """A protocol for one accepted connection."""
        return Connection(self)

    def entry(self, body: bytes, kind: str, header: bytes) -> Entry:
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

    def _understand(self, body: bytes, kind: str, header: bytes) -> Entry:
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
        entry = Entry(ask, controls)
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
