"""What the supervisor does while the gate serves: it watches the ledger's server and operator notices,
and writes accounts that had to wait."""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from gateway.app.parts import Current, LedgerState, Parts
from gateway.app.roles import CannotServe
from gateway.telemetry.logs import failure
from gateway.telemetry.metrics import Counter

log = structlog.get_logger("supervisor")

LOOK_EVERY_S: Final = 1.0
NOTICE_EVERY_S: Final = 2.0
ANSWER_WITHIN_S: Final = 3.0
REST_EVERY_S: Final = 3.0


class LedgerWatch:
    """Looks at the ledger's server, restarts an embedded one that died, logs what changes."""

    def __init__(self, parts: Parts, current: Current, restarts: Counter) -> None:
        self.state = LedgerState("ledger_unreachable")
        self._ledger = parts.ledger
        self._write = parts.write
        self._current = current
        self._restarts = restarts
        self._frozen: frozenset[int] = frozenset()
        self._left_out = False
        self._refused = ""

    async def look(self) -> None:
        """Look once, without logging."""
        self.state = await self._ledger.look()
        self._frozen = frozenset(self.state.frozen)

    async def run(self) -> None:
        """Look without end."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    state = await self._ledger.look()
            except TimeoutError:
                state = LedgerState("ledger_unreachable", "the server does not answer")
            if state.problem is not None:
                await self._revive()
            if state.problem != self.state.problem:
                if state.problem is None:
                    log.warning("ledger_reachable", after=self.state.problem)
                else:
                    log.error(state.problem, detail=state.detail)
            for node in sorted(set(state.nodes) - set(self.state.nodes)):
                log.error("ledger_node_failed", node=node, detail=state.nodes[node])
            for node in sorted(set(self.state.nodes) - set(state.nodes)):
                log.warning("ledger_node_recovered", node=node)
            self.state = state
            if state.problem is None:
                frozen = frozenset(state.frozen)
                self._left_out |= bool(self._frozen - frozen)
                self._frozen = frozen
                await self._write_left_out()

    async def _write_left_out(self) -> None:
        """Write the configuration's customers when a shard is open again: a start or a reload meanwhile has
        left out those of a frozen one."""
        if not self._left_out:
            return
        try:
            await self._write(self._current.settings, self._current.ledger_url)
            self._left_out, self._refused = False, ""
        except Exception as error:  # the ledger is away, or refuses them: the next look tries again
            reason = str(error) if isinstance(error, CannotServe) else type(error).__name__
            if reason != self._refused:
                log.error("customers_not_written", reason=reason)
            self._refused = reason

    async def _revive(self) -> None:
        try:
            if await self._ledger.revive():
                self._restarts.inc()
                log.error("process_replaced", replaced="ledger")
        except Exception as error:
            log.error("ledger_does_not_start", **failure(error))


class NoticeWatch:
    """Logs each notice when its condition begins and when it ends."""

    def __init__(self, parts: Parts, current: Current) -> None:
        self.present: Mapping[str, str] = {}
        """Notices as word → explanation."""
        self._find = parts.notices
        self._current = current

    async def run(self) -> None:
        """Look without end; returns at once where there is nothing to ask."""
        if self._find is None:
            return
        while True:
            current = self._current
            try:
                found = dict(await self._find(current.settings, current.ledger_url))
            except Exception as error:  # the ledger is unreachable: what was known stays
                log.debug("notices_unknown", **failure(error))
            else:
                for word in found.keys() - self.present.keys():
                    log.warning(word, detail=found[word])
                for word in self.present.keys() - found.keys():
                    log.info(f"{word}_cleared")
                self.present = found
            await asyncio.sleep(NOTICE_EVERY_S)


async def keep_writing(parts: Parts) -> None:
    """Write what was left out of the ledger, without end; returns at once where nothing ever is."""
    if parts.write_rest is None:
        return
    reported = ""
    while True:
        await asyncio.sleep(REST_EVERY_S)
        try:
            await parts.write_rest()
            reported = ""
        except Exception as error:
            if str(error) != reported:
                log.error(
                    "accounts_half_written", repair="reload", problems=str(error).splitlines()
                )
            reported = str(error)
