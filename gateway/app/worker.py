"""A child process, from its first instruction to its exit: it runs one service.

Invariants: it ends in one of three ways, and drains in each: the supervisor says so; it is sent
SIGTERM; its supervisor is gone (end of file on the control channel, or the parent-death
signal). Ctrl-C and hang-up on a shared terminal are the supervisor's business and ignored.

Started as `python -m gateway.app.worker CONTROL_FD LISTEN_FD PARENT_PID NAME`; a LISTEN_FD of
-1 means none.
"""

import asyncio
import gc
import os
import pickle
import signal
import socket
import sys
import threading
from typing import Any, Final

import structlog
import uvloop

from gateway.app.control import ChildRefused, ControlServer
from gateway.app.parent import die_with_parent
from gateway.app.private import UMASK
from gateway.app.roles import Assignment, CannotServe, Service, find_builder
from gateway.telemetry.logs import configure_logs, failure, log_loop_failures
from gateway.telemetry.metrics import Snapshot

log = structlog.get_logger("worker")

SETTLE_TIME_S: Final = 5.0
"""After the grace, what a service may still take to settle what it cut."""


YOUNG_MOST: Final = 20_000
"""New objects, less freed ones, before a search for cycles among them."""


class Process:
    """The service of this process and the verbs of its supervisor."""

    def __init__(self, listen: socket.socket | None) -> None:
        self._listen = listen
        self._service: Service | None = None
        self._starting: asyncio.Task[Any] | None = None
        self._grace_s = 0.0
        self._drained = asyncio.Event()
        self.drain_ordered = asyncio.Event()

    async def start(self, body: bytes) -> None:
        """Build the service that the assignment names and have it serve."""
        self._starting = asyncio.current_task()
        assignment: Assignment = pickle.loads(body)  # noqa: S301 - from our own supervisor
        self._grace_s = assignment.grace_s
        try:
            build = find_builder(assignment.builder)
            service = await build(assignment.settings, assignment.resources)
            await service.start(self._listen)
        except CannotServe as error:
            raise ChildRefused(str(error)) from error
        except Exception as error:
            log.error("start_failed", **failure(error))
            raise ChildRefused(f"failed to start: {failure(error)}") from error
        self._service = service
        self._starting = None
        _collect_seldom()

    async def prepare(self, body: bytes) -> None:
        """Prepare new settings, or refuse them."""
        try:
            await self._serving().prepare(pickle.loads(body))  # noqa: S301
        except CannotServe as error:
            raise ChildRefused(str(error)) from error
        except Exception as error:
            log.error("prepare_failed", **failure(error))
            raise ChildRefused(f"failed to prepare: {failure(error)}") from error

    async def commit(self, _: Any) -> None:
        """Serve by the prepared settings."""
        self._serving().commit()

    async def abort(self, _: Any) -> None:
        """Forget the prepared settings."""
        self._serving().abort()

    async def snapshot(self, _: Any) -> Snapshot:
        """The metrics so far."""
        return self._service.snapshot() if self._service else {}

    async def drain(self, grace_s: float) -> Snapshot:
        """Drain, and answer the last metrics; the process ends right after."""
        await self._drain(grace_s)
        self.drain_ordered.set()
        return await self.snapshot(None)

    async def drain_unasked(self) -> None:
        """Drain because nobody is left to say so."""
        await self._drain(self._grace_s)

    async def _drain(self, grace_s: float) -> None:
        if self._service is None:
            if self._starting is not None:
                self._starting.cancel()  # it holds nothing yet that the process' end leaves
            return
        if self._drained.is_set():
            return
        try:
            async with asyncio.timeout(grace_s + SETTLE_TIME_S):
                await self._service.drain(grace_s)
        except Exception as error:
            log.error("drain_failed", **failure(error))
        self._drained.set()

    def _serving(self) -> Service:
        if self._service is None:
            raise ChildRefused("not started yet")
        return self._service


def _collect_seldom() -> None:
    """What was built at the start is never garbage, and a request leaves next to none that reference
    counts do not free: looking for cycles at the interpreter's own pace took a tenth of the CPU.
    What a fault's traceback ties up meanwhile are some megabytes at most.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MOST, 10, 10)


async def run(control: socket.socket, listen: socket.socket | None) -> None:
    """Serve until a drain is ordered or the supervisor is gone; drained when this returns."""
    loop = asyncio.get_running_loop()
    log_loop_failures(loop)
    process = Process(listen)
    terminated = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    server = ControlServer(
        {
            "start": process.start,
            "prepare": process.prepare,
            "commit": process.commit,
            "abort": process.abort,
            "snapshot": process.snapshot,
            "drain": process.drain,
        }
    )
    orphaned = asyncio.create_task(server.run(control))
    ordered = asyncio.create_task(process.drain_ordered.wait())
    signalled = asyncio.create_task(terminated.wait())
    await asyncio.wait({orphaned, ordered, signalled}, return_when=asyncio.FIRST_COMPLETED)
    if ordered.done():
        await server.finish()
    else:
        log.warning("drains_unasked", supervisor_gone=orphaned.done())
        await process.drain_unasked()
    for task in (ordered, signalled, orphaned):
        task.cancel()
    await asyncio.gather(ordered, signalled, orphaned, return_exceptions=True)


def main() -> None:
    """The process, from its command line."""
    control_fd, listen_fd, parent_pid = map(int, sys.argv[1:4])
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    os.umask(UMASK)
    configure_logs(sys.argv[4])
    die_with_parent(parent_pid, signal.SIGTERM)
    listen = None if listen_fd < 0 else socket.socket(fileno=listen_fd)
    uvloop.run(run(socket.socket(fileno=control_fd), listen))
    # A library's thread that does not end must not keep a drained process.
    if any(not t.daemon for t in threading.enumerate() if t is not threading.main_thread()):
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
