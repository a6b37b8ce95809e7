"""A small service that the supervisor's tests run in real child processes.

It answers every connection with one line, `GREETING PID`, where the greeting comes from the
settings. A request line `slow SECONDS` takes that long; `die` kills the process.
"""

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

from gateway.app.roles import CannotServe, Resources
from gateway.telemetry.metrics import Registry, Snapshot


class TrivialService:
    def __init__(self, settings: dict[str, Any], resources: Resources) -> None:
        self._settings = settings
        self._resources = resources
        self._prepared: dict[str, Any] | None = None
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._registry = Registry()
        self._answers = self._registry.counter("trivial_answers_total", "Answers.").labels()

    async def start(self, sock: socket.socket | None) -> None:
        if sock is not None:
            self._server = await asyncio.start_server(self._connected, sock=sock)

    async def prepare(self, settings: dict[str, Any]) -> None:
        if settings.get("refused_by") == self._resources.process:
            raise CannotServe(f"{self._resources.process} does not like it")
        self._prepared = settings

    def commit(self) -> None:
        assert self._prepared is not None
        self._settings, self._prepared = self._prepared, None

    def abort(self) -> None:
        self._prepared = None

    async def drain(self, grace_s: float) -> None:
        if self._server is not None:
            self._server.close()
        if grace_s < 1:
            self._hurry.set()
        if self._running:
            await asyncio.wait(set(self._running), timeout=grace_s)

    def snapshot(self) -> Snapshot:
        return self._registry.snapshot()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            greeting = self._settings["greeting"]
            line = (await reader.readline()).split()
            if line[:1] == [b"die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            if line[:1] == [b"slow"]:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), float(line[1]))
            self._answers.inc()
            writer.write(f"{greeting} {os.getpid()}\n".encode())
            await writer.drain()
        finally:
            self._running.discard(task)
            writer.close()


async def build(settings: dict[str, Any], resources: Resources) -> TrivialService:
    if settings.get("unbuildable"):
        raise CannotServe("these settings cannot be built")
    return TrivialService(settings, resources)
