"""One connection of a load: sends a request, times its answer, reads what an error calls itself."""

import asyncio
import contextlib
import itertools
import time
from typing import Final, Protocol, cast

import httptools
import orjson

from loadtest.generator.result import Answer, Ending
from loadtest.requests import Shot

_KEPT_ERROR_BYTES: Final = 2048


class Owner(Protocol):
    """The load that a connection belongs to."""

    def opened(self, connection: "Connection") -> None:
        """It is established and may send."""

    def ready(self, connection: "Connection") -> None:
        """It is free for its next request."""

    def lost(self, connection: "Connection") -> None:
        """It is closed."""

    def ended(self, connection: "Connection", ending: Ending, now_s: float) -> None:
        """Its request has ended."""


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Owner) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport
        self.shot: Shot | None = None
        self.started_s = 0.0
        self.first_byte_s = 0.0
        self.status = 0
        self.body_bytes = 0
        self.error = b""
        self._now_s = 0.0
        self._sent_s = 0.0
        self._frame_s = 0.0
        self._half_end = False
        self._gaps_s: list[float] = []
        self._whole = False
        self._keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._load.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._finish("cut")
        self._load.lost(self)

    def send(self, shot: Shot, intended_s: float) -> None:
        """Send a request; its latency counts from intended_s, or from now when that is 0."""
        self.shot = shot
        self._sent_s = time.monotonic()
        self.started_s = intended_s or self._sent_s
        self.first_byte_s = 0.0
        self.status = self.body_bytes = 0
        self.error = b""
        self._frame_s = 0.0
        self._half_end = False
        self._gaps_s = []
        self.transport.write(shot.data)

    def give_up(self, ending: Ending) -> None:
        """End the running request, if any, and the connection."""
        self._finish(ending)
        self.transport.abort()

    def answer(self, ending: Ending, now_s: float) -> Answer:
        """How the running request ended."""
        assert self.shot is not None
        return Answer(
            self.shot,
            ending,
            self.status,
            code_of(self.error) if self.error else "",
            self.started_s,
            self._sent_s,
            self.first_byte_s,
            now_s,
            self._gaps_s,
        )

    def data_received(self, data: bytes) -> None:
        self._now_s = time.monotonic()
        if not self.first_byte_s:
            self.first_byte_s = self._now_s
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.give_up("cut")
            return
        shot = self.shot
        if self._whole:
            # after the parser has returned: it must not be fed the next answer from inside
            self._whole = False
            self._finish("whole")
            if self._keep:
                self._load.ready(self)
            else:
                self.transport.close()
        elif (
            shot is not None
            and shot.leave_after_bytes is not None
            and self.body_bytes >= shot.leave_after_bytes
        ):
            self.give_up("left")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body_bytes += len(data)
        if self.status >= 400:
            if len(self.error) < _KEPT_ERROR_BYTES:
                self.error += data
        elif self.shot is not None and self.shot.frames:
            self._frames(data)

    def _frames(self, data: bytes) -> None:
        """Note when each server-sent event ended, and one that says the answer failed."""
        ends = data.count(b"\n\n") + (self._half_end and data.startswith(b"\n"))
        self._half_end = data.endswith(b"\n") and not data.endswith(b"\n\n")
        if ends:
            if self._frame_s:
                self._gaps_s.append(self._now_s - self._frame_s)
            # what came in one piece came at the same time
            self._gaps_s.extend(itertools.repeat(0.0, ends - 1))
            self._frame_s = self._now_s
        if b'"error"' in data and not self.error:
            self.error = _error_of_event(data)

    def on_message_complete(self) -> None:
        self._whole = self.status >= 200  # 1xx is not the answer
        self._keep = self._parser.should_keep_alive()  # known here alone

    def _finish(self, ending: Ending) -> None:
        if self.shot is not None:
            self._load.ended(self, ending, time.monotonic())
            self.shot = None


def _error_of_event(data: bytes) -> bytes:
    """The document of an event that reports an error; empty when none of these is one."""
    for line in data.splitlines():
        if line.startswith(b"data: {"):
            with contextlib.suppress(orjson.JSONDecodeError):
                if isinstance(orjson.loads(line[6:]).get("error"), dict):
                    return line[6:]
    return b""


def code_of(body: bytes) -> str:
    """What an error body calls itself: its code, else its type."""
    try:
        error = orjson.loads(body)["error"]
        return str(error.get("code") or error.get("type") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return ""
