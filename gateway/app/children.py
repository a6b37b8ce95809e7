"""One child process as the supervisor sees it, and one slot that is kept filled with one.

Invariants: a child's listening socket belongs to the supervisor, who hands the same socket to the
replacement: connections that arrive between the two wait in its queue and are not refused.
"""

import asyncio
import contextlib
import os
import pickle
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from gateway.app.control import ChildGone, ChildRefused, ControlClient
from gateway.app.private import child_environment
from gateway.app.roles import Assignment
from gateway.app.worker import SETTLE_TIME_S
from gateway.telemetry.logs import failure
from gateway.telemetry.metrics import Snapshot, sum_snapshots

log = structlog.get_logger("supervisor")

START_WITHIN_S: Final = 60.0
PREPARE_WITHIN_S: Final = 30.0
COMMIT_WITHIN_S: Final = 10.0
ANSWER_WITHIN_S: Final = 5.0
STALLED_AFTER_S: Final = 30.0
"""A child that has not answered for so long is killed and replaced."""
POLL_EVERY_S: Final = 1.0
_FIRST_BACKOFF_S: Final = 0.05
_LAST_BACKOFF_S: Final = 5.0
_HEALTHY_AFTER_S: Final = 10.0


class Child:
    """One running child process."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, control: ControlClient
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.last_snapshot: Snapshot = {}
        self._process = process
        self._control = control
        self._answered_at = time.monotonic()

    @classmethod
    async def spawn(cls, name: str, listen: socket.socket | None) -> "Child":
        """Start the process; it serves nothing until it is given an assignment."""
        ours, theirs = socket.socketpair()
        listen_fd = -1 if listen is None else listen.fileno()
        fds = [theirs.fileno(), *([] if listen is None else [listen_fd])]
        arguments = [str(theirs.fileno()), str(listen_fd), str(os.getpid()), name]
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway.app.worker",
                *arguments,
                env=child_environment(),
                pass_fds=fds,
                stdin=asyncio.subprocess.DEVNULL,
            )
        finally:
            theirs.close()
        ours.setblocking(False)
        return cls(name, process, await ControlClient.over(ours))

    async def start(self, assignment: Assignment) -> None:
        """Have it serve. Raises ChildGone, ChildRefused, TimeoutError."""
        await self._control.call("start", pickle.dumps(assignment), timeout_s=START_WITHIN_S)
        self._answered_at = time.monotonic()

    async def prepare(self, settings: Any) -> None:
        """Have it prepare new settings. Raises ChildGone, ChildRefused, TimeoutError."""
        await self._control.call("prepare", pickle.dumps(settings), timeout_s=PREPARE_WITHIN_S)

    async def commit(self) -> None:
        """Have it serve by the prepared settings. Raises as `prepare` does."""
        await self._control.call("commit", timeout_s=COMMIT_WITHIN_S)

    async def abort(self) -> None:
        """Have it forget the prepared settings. Raises as `prepare` does."""
        await self._control.call("abort", timeout_s=COMMIT_WITHIN_S)

    async def poll(self) -> None:
        """Fetch its metrics; what it last said stays when it does not answer in time."""
        with contextlib.suppress(ChildGone, ChildRefused, TimeoutError):
            self.last_snapshot = await self._control.call("snapshot", timeout_s=ANSWER_WITHIN_S)
            self._answered_at = time.monotonic()

    def stalled(self) -> bool:
        """Whether it has been silent for too long."""
        return time.monotonic() - self._answered_at > STALLED_AFTER_S

    async def drain(self, grace_s: float) -> None:
        """Have it drain and end; it is killed if it has not ended in time."""
        limit_s = grace_s + 2 * SETTLE_TIME_S
        try:
            async with asyncio.timeout(limit_s):
                with contextlib.suppress(ChildGone, ChildRefused):
                    self.last_snapshot = await self._control.call(
                        "drain", grace_s, timeout_s=limit_s
                    )
                await self._process.wait()
        except TimeoutError:
            log.error("killed_while_draining", process=self.name, pid=self.pid)
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def wait(self) -> int:
        """Its exit status, once it has ended; the channel is closed then."""
        status = await self._process.wait()
        await self._control.close()
        return status


class Turn:
    """Starts of children may overlap one another; a reload excludes them and they it."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._starting = 0
        self._reloading = False

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Held while a child starts."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._reloading)
            self._starting += 1
        try:
            yield
        finally:
            async with self._changed:
                self._starting -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def reloading(self) -> AsyncIterator[None]:
        """Held while all children take over a configuration."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._reloading)
            self._reloading = True
            try:
                await self._changed.wait_for(lambda: self._starting == 0)
            except BaseException:
                self._reloading = False
                raise
        try:
            yield
        finally:
            async with self._changed:
                self._reloading = False
                self._changed.notify_all()


class Slot:
    """One place for a child of a role, filled again whenever the child dies."""

    def __init__(
        self,
        name: str,
        listen: socket.socket | None,
        assign: Callable[[str], Assignment],
        turn: "Turn",
        on_death: Callable[[], None],
    ) -> None:
        """assign: makes the assignment by the settings now in force.

        turn: keeps starts and reloads apart, so that a child is either prepared with the
        others or started with what they agreed on.
        """
        self.name = name
        self.ended: Snapshot = {}
        self.child: Child | None = None
        """The child that serves, None while there is none."""
        self.ready = asyncio.Event()
        self._listen = listen
        self._assign = assign
        self._turn = turn
        self._on_death = on_death
        self._newest: Child | None = None
        self._stopped = asyncio.Event()

    async def keep_filled(self, failed_first: asyncio.Future[str]) -> None:
        """Run children one after the other until `stop`.

        A child that cannot even start while none has ever served ends the supervisor's
        start: its reason becomes the result of `failed_first`.
        """
        backoff_s = _FIRST_BACKOFF_S
        ever_ready = False
        try:
            while not self._stopped.is_set():
                began = time.monotonic()
                problem = await self._run_one()
                ever_ready = ever_ready or self.ready.is_set()
                self.ready.clear()
                if self._stopped.is_set():
                    return
                if not ever_ready:
                    if not failed_first.done():
                        failed_first.set_result(f"{self.name}: {problem}")
                    return
                self._on_death()
                if time.monotonic() - began > _HEALTHY_AFTER_S:
                    backoff_s = _FIRST_BACKOFF_S
                log.error("process_replaced", replaced=self.name, why=problem, after_s=backoff_s)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), backoff_s)
                backoff_s = min(backoff_s * 2, _LAST_BACKOFF_S)
        finally:
            self.child = None

    async def stop(self, grace_s: float) -> None:
        """Drain the child, if any, and fill the slot no more. Called again it hurries."""
        self._stopped.set()
        if self._newest is not None:
            await self._newest.drain(grace_s)

    def kill(self) -> None:
        """End the child at once."""
        if self._newest is not None:
            self._newest.kill()

    async def _run_one(self) -> str:
        """Spawn, start, wait for the end. Returns why it ended."""
        async with self._turn.starting():
            if self._stopped.is_set():
                return "stopping"
            child = self._newest = await Child.spawn(self.name, self._listen)
            try:
                await child.start(self._assign(self.name))
            except (ChildGone, ChildRefused, TimeoutError) as error:
                child.kill()
                status = await child.wait()
                self._newest = None
                if isinstance(error, ChildRefused):
                    return str(error)
                return f"did not start (exit status {status})"
            except BaseException:
                child.kill()
                await child.wait()
                raise
            self.child = child
            self.ready.set()
        polling = asyncio.create_task(self._poll(child))
        try:
            status = await child.wait()
        finally:
            polling.cancel()
            self.child = self._newest = None
            self.ended = sum_snapshots([], [self.ended, child.last_snapshot])
        return f"exit status {status}"

    async def _poll(self, child: Child) -> None:
        while True:
            await asyncio.sleep(POLL_EVERY_S)
            try:
                await child.poll()
            except Exception as error:
                log.error("poll_failed", process=self.name, **failure(error))
            if child.stalled():
                log.error("killed_because_silent", process=self.name, pid=child.pid)
                child.kill()
                return
