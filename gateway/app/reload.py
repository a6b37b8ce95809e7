"""Taking over a new configuration while running: by all children, or by none.

Invariants: nothing is changed, in the children or in the ledger, before everything that can refuse has
been asked: every child that serves has prepared the configuration, and the ledger would take its
accounts. Then the ledger is written, the price book last, and the children take over; a child that
fails at that is replaced by one that starts with what was decided. Requests go on throughout.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from gateway.app.children import Child, Turn
from gateway.app.control import ChildGone, ChildRefused
from gateway.app.parts import ConfigRefused, Current, Parts, Plan
from gateway.app.roles import CannotServe
from gateway.telemetry.logs import failure
from gateway.telemetry.names import SupervisorMetrics

log = structlog.get_logger("reload")


class Reloader:
    """Runs reloads one after the other; what is asked for meanwhile becomes one more."""

    def __init__(
        self,
        parts: Parts,
        current: Current,
        turn: Turn,
        children: Callable[[], Sequence[Child]],
        metrics: SupervisorMetrics,
    ) -> None:
        self._parts = parts
        self._current = current
        self._turn = turn
        self._children = children
        self._count = {
            result: metrics.reloads.labels(result) for result in ("committed", "refused")
        }
        self._asked = asyncio.Event()
        self._half_written = False
        """The ledger may hold parts of a configuration that is not in force."""

    def ask(self) -> None:
        """Reload the configuration soon."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever asked, without end."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            problems = await self.reload()
            self._count["refused" if problems else "committed"].inc()
            for problem in problems:
                log.error("configuration_problem", problem=problem)
            if problems:
                log.error("configuration_refused", kept="the one in force", problems=len(problems))

    async def reload(self) -> tuple[str, ...]:
        """Read the configuration and take it over, if it differs. Returns the problems if not."""
        try:
            settings = await asyncio.to_thread(self._parts.load)
            plan = self._parts.plan(settings)
        except ConfigRefused as error:
            return error.problems
        except Exception as error:
            return (f"cannot be read: {failure(error)}",)
        if plan.digest and plan.digest == self._current.plan.digest and not self._half_written:
            log.info("configuration_unchanged")
            return ()
        async with self._turn.reloading():
            children = self._children()
            given = [self._parts.settings_for(child.name, settings) for child in children]
            answers = await asyncio.gather(*map(_prepare, children, given))
            problems = tuple(dict.fromkeys(p for answer in answers for p in answer))
            if not problems:
                problems = await self._with_ledger(self._parts.ask, settings)
            if not problems:
                problems = await self._write(settings)
            if problems:
                await asyncio.gather(*(_abort(child) for child in children))
                return problems
            self._commit_ours(settings, plan)
            await asyncio.gather(*(_commit(child) for child in children))
        log.info("configuration_committed", processes=len(children))
        return ()

    async def _write(self, settings: Any) -> tuple[str, ...]:
        """Write the accounts into the ledger. If that fails half-way, the ones in force are written
        again; should the ledger not even take those, the next reload does it."""
        self._half_written = True
        problems = await self._with_ledger(self._parts.write, settings)
        if problems:
            undone = await self._with_ledger(self._parts.write, self._current.settings)
            self._half_written = bool(undone)
            if undone:
                log.error("accounts_half_written", repair="reload again", problems=list(undone))
        else:
            self._half_written = False
        return problems

    async def _with_ledger(
        self, step: Callable[[Any, str], Awaitable[None]], settings: Any
    ) -> tuple[str, ...]:
        try:
            await step(settings, self._current.ledger_url)
        except CannotServe as error:
            return tuple(str(error).splitlines())
        except Exception as error:
            return (f"the ledger did not take the accounts: {failure(error)}",)
        return ()

    def _commit_ours(self, settings: Any, plan: Plan) -> None:
        before, after = self._current.plan.fixed or {}, plan.fixed or {}
        waiting = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
        if waiting:
            log.warning("needs_a_restart", settings=waiting)
        self._current.settings, self._current.plan = settings, plan


async def _prepare(child: Child, settings: Any) -> tuple[str, ...]:
    """The problems that this child has with the settings. One that died has none."""
    try:
        await child.prepare(settings)
    except ChildGone:
        return ()
    except ChildRefused as error:
        return (str(error),)
    except Exception as error:
        return (f"{child.name} could not prepare: {failure(error)}",)
    return ()


async def _abort(child: Child) -> None:
    try:
        await child.abort()
    except ChildGone:
        return
    except (ChildRefused, TimeoutError) as error:
        log.error("abort_failed", process=child.name, **failure(error))
        child.kill()


async def _commit(child: Child) -> None:
    try:
        await child.commit()
    except (ChildGone, ChildRefused, TimeoutError) as error:
        log.error("commit_failed", process=child.name, **failure(error))
        child.kill()
