"""The supervisor: start, watch, drain, stop.

Invariants, in the order of a life:
- the data folder is locked and the sockets are bound before anything is started, so a taken
  port or a second gate on the same data costs nothing;
- the ledger is started first and stopped last; roles drain in the order that they ask for;
- whatever dies is replaced, with a growing pause, and counted;
- a new configuration is taken over by all or by none (`reload.py`).
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import structlog

from gateway.app.children import Child, Slot, Turn
from gateway.app.health_server import AdminServer, AdminSide, Readiness, admin_token
from gateway.app.lock import FolderLock
from gateway.app.parts import CannotStart, Current, Parts
from gateway.app.reload import Reloader
from gateway.app.reporting import Reported, keep_reporting
from gateway.app.roles import Assignment, CannotServe, Resources, Role
from gateway.app.sockets import address_of, bind_all
from gateway.app.tasks import end_tasks
from gateway.app.terminal import has_terminal
from gateway.app.watch import changes
from gateway.app.watching import LedgerWatch, NoticeWatch, keep_writing
from gateway.ledger.client.fitness import STORE_UNREADABLE
from gateway.telemetry.logs import failure, log_loop_failures
from gateway.telemetry.metrics import Snapshot, sum_snapshots
from gateway.telemetry.names import SupervisorMetrics

log = structlog.get_logger("supervisor")

HURRIED_GRACE_S: Final = 0.5
"""The grace after a second Ctrl-C; a third kills."""


@dataclass(frozen=True, slots=True)
class Running:
    """Where a started gate is reached: "host:port"."""

    admin: str
    admin_token: str
    ledger_url: str
    gate: str = ""
    """"" if only the console runs."""
    console: str = ""
    """"" without a console."""


class Supervisor:
    """Operates one gate until it is stopped."""

    def __init__(self, settings: Any, parts: Parts) -> None:
        self._parts = parts
        self._current = Current(settings, parts.plan(settings))
        self._grace_s: float | None = None
        self._metrics = SupervisorMetrics()
        self._turn = Turn()
        self._slots: dict[str, list[Slot]] = {}
        restarts = self._metrics.restarts.labels("ledger")
        self._ledger = LedgerWatch(parts, self._current, restarts)
        self._notices = NoticeWatch(parts, self._current)
        self._started = False
        self._stop_asked = asyncio.Event()
        self._signals = 0
        self._hurries: set[asyncio.Task[None]] = set()
        self._reloader = Reloader(parts, self._current, self._turn, self._children, self._metrics)

    async def run(self, on_ready: Callable[[Running], Awaitable[None]] | None = None) -> None:
        """Start, serve until SIGTERM or SIGINT (or `stop`), drain, stop. Nothing is left then.

        on_ready: called once everything serves. Raises CannotStart.
        """
        loop = asyncio.get_running_loop()
        log_loop_failures(loop)
        with contextlib.ExitStack() as held:
            held.enter_context(FolderLock(self._parts.data_dir))
            bound, admin = bind_all(self._current.plan, self._parts.roles, held)
            self._take_signals(loop, held)
            try:
                await self._serve(bound, admin, on_ready)
            finally:
                await self._parts.ledger.stop()
                log.info("stopped")

    def stop(self) -> None:
        """Ask for a drain, as SIGTERM does; a second time hurries, a third kills."""
        self._signals += 1
        self._stop_asked.set()
        if self._signals == 2:
            self._grace_s = HURRIED_GRACE_S
            for slot in self._all_slots():
                task = asyncio.create_task(slot.stop(HURRIED_GRACE_S))
                self._hurries.add(task)
                task.add_done_callback(self._hurries.discard)
        elif self._signals > 2:
            for slot in self._all_slots():
                slot.kill()

    async def metrics(self) -> Snapshot:
        """Fresh figures, summed over every process that lives or has lived."""
        await asyncio.gather(*(child.poll() for child in self._children()))
        for role, of_role in self._slots.items():
            ready = sum(slot.child is not None for slot in of_role)
            self._metrics.processes_ready.labels(role).set(ready)
        self._metrics.ledger_up.set(self._ledger.state.problem is None)
        live = [child.last_snapshot for child in self._children()]
        ended = [slot.ended for slot in self._all_slots()]
        return sum_snapshots([self._metrics.registry.snapshot(), *live], ended)

    def readiness(self) -> Readiness:
        """Whether requests can be gated now."""
        why = []
        if self._stop_asked.is_set():
            why.append("draining")
        elif not self._started:
            why.append("starting")
        serving = [r.name for r in self._parts.roles if r.serves]
        if not any(s.child for name in serving for s in self._slots.get(name, [])):
            why.append("no_worker")
        state, notices = self._ledger.state, set(self._notices.present)
        if state.problem == STORE_UNREADABLE:  # a running gate continues; events wait in the ledger
            notices.add(state.problem)
        elif state.problem is not None:
            why.append(state.problem)
        frozen = tuple(f"shard_{shard}_frozen" for shard in state.frozen)
        degraded = (*state.nodes, *frozen)
        return Readiness(not why, tuple(why), degraded=degraded, notices=tuple(sorted(notices)))

    # -- start -------------------------------------------------------------------------

    async def _serve(
        self,
        bound: dict[str, list[socket.socket]],
        admin: socket.socket,
        on_ready: Callable[[Running], Awaitable[None]] | None,
    ) -> None:
        shown = {name: address_of(sockets[0]) for name, sockets in bound.items()}
        shown["admin"] = address_of(admin)
        token = self._parts.admin_token or admin_token(self._parts.data_dir)
        side = AdminSide(self.readiness, self.metrics, token, self._parts.admin_routes)
        server = AdminServer(side, tls=self._current.admin_tls())
        await server.start(admin)
        keeping: list[asyncio.Task[None]] = []
        watching: list[asyncio.Task[None]] = []
        try:
            self._current.ledger_url = await self._parts.ledger.start()
            try:
                for step in (self._parts.ask, self._parts.write):
                    await step(self._current.settings, self._current.ledger_url)
            except CannotServe as error:
                raise CannotStart(str(error)) from error
            except Exception as error:
                raise CannotStart(
                    f"the ledger did not take the accounts: {failure(error)}"
                ) from error
            await self._ledger.look()
            failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._make_slots(bound)
            keeping += [asyncio.create_task(s.keep_filled(failed)) for s in self._all_slots()]
            watching += [
                asyncio.create_task(self._ledger.run()),
                asyncio.create_task(self._look_at_files()),
                asyncio.create_task(self._notices.run()),
                asyncio.create_task(keep_writing(self._parts)),
                asyncio.create_task(self._reloader.run()),
                asyncio.create_task(self._report(shown)),
            ]
            await self._until_started(failed)
            if self._started:
                log.info("serving", **shown)
            if self._started and on_ready is not None:
                ledger_url = self._current.ledger_url
                await on_ready(Running(**shown, admin_token=token, ledger_url=ledger_url))
            await self._stop_asked.wait()
        finally:
            self._stop_asked.set()
            await end_tasks(watching)
            for sock in chain(*bound.values()):
                sock.close()
            await self._drain()
            await asyncio.gather(*keeping, *self._hurries, return_exceptions=True)
            await server.close()

    def _make_slots(self, bound: dict[str, list[socket.socket]]) -> None:
        sockets = {name: iter(of_name) for name, of_name in bound.items()}
        for role in self._parts.roles:
            died = self._metrics.restarts.labels(role.name)
            self._slots[role.name] = [
                Slot(
                    f"{role.name}-{number}",
                    next(sockets[role.listens]) if role.listens else None,
                    self._assignment_for(role),
                    self._turn,
                    died.inc,
                )
                for number in range(role.count)
            ]

    def _assignment_for(self, role: Role) -> Callable[[str], Assignment]:
        def assign(process: str) -> Assignment:
            data_dir = str(self._parts.data_dir)
            resources = Resources(self._current.ledger_url, data_dir, process)
            grace_s = self._current.plan.grace_s
            if role.orphan_grace_s is not None:
                grace_s = role.orphan_grace_s
            settings = self._parts.settings_for(process, self._current.settings)
            return Assignment(role.builder, settings, resources, grace_s)

        return assign

    async def _until_started(self, failed: asyncio.Future[str]) -> None:
        ready = asyncio.gather(*(slot.ready.wait() for slot in self._all_slots()))
        asked = asyncio.create_task(self._stop_asked.wait())
        first: set[asyncio.Future[Any]] = {ready, failed, asked}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not ready.done():
            ready.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ready
        if failed.done():
            raise CannotStart(failed.result())
        self._started = not self._stop_asked.is_set()

    # -- while it runs -------------------------------------------------------------------

    async def _look_at_files(self) -> None:
        async for _ in changes(lambda: self._current.plan.files):
            self._reloader.ask()

    async def _report(self, shown: Mapping[str, str]) -> None:
        if self._parts.reporter is None:
            return

        async def look() -> Reported:
            ready = [slot.child is not None for slot in self._slots["worker"]]
            return Reported(shown, len(ready), sum(ready), self.readiness(), await self.metrics())

        await keep_reporting(self._parts.reporter(self._current.ledger_url), look)

    def _children(self) -> list[Child]:
        return [slot.child for slot in self._all_slots() if slot.child]

    # -- the end -------------------------------------------------------------------------

    async def _drain(self) -> None:
        log.info("draining", grace_s=self._current.plan.grace_s)
        waiting = {role.name: role for role in self._parts.roles if role.name in self._slots}
        while waiting:
            stage = [n for n, role in waiting.items() if not set(role.after) & waiting.keys()]
            for name in stage:
                del waiting[name]
            grace_s = self._current.plan.grace_s if self._grace_s is None else self._grace_s
            await asyncio.gather(*(s.stop(grace_s) for name in stage for s in self._slots[name]))

    def _all_slots(self) -> list[Slot]:
        return [slot for of_role in self._slots.values() for slot in of_role]

    def _take_signals(self, loop: asyncio.AbstractEventLoop, held: contextlib.ExitStack) -> None:
        had_terminal = has_terminal()

        def hang_up() -> None:
            if had_terminal and not has_terminal():
                self.stop()  # the terminal window was closed
            else:
                self._reloader.ask()

        for number, handler in (
            (signal.SIGTERM, self.stop),
            (signal.SIGINT, self.stop),
            (signal.SIGHUP, hang_up),
        ):
            loop.add_signal_handler(number, handler)
            held.callback(loop.remove_signal_handler, number)
