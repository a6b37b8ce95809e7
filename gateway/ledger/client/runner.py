"""The hot path's runner of scripts: one connection whose commands of a loop tick leave together.

Callers are served through `Wire`; this file adds what outlives a connection: loading scripts on
NOSCRIPT, meaning of error replies, reconnecting in the background. While there is no connection
every call fails at once with `unknown=False`.

A worker has two of these for each server, one to admit and one to settle, so that a burst of
settlements never delays an admission. Client cost of each pair: `python -m loadtest.client_cost`.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final

import structlog
from hiredis import ReplyError

from gateway.ledger.client.connection import Wire
from gateway.ledger.client.durability import WaitAof
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable
from gateway.ledger.client.faults import (
    NOSCRIPT,
    NOT_PRIMARY,
    REDIRECTS,
    explain,
    first_word,
    redirected,
)
from gateway.ledger.client.packing import ASKING, pack_call, send_together
from gateway.ledger.client.refusing import LastingRefusal
from gateway.ledger.client.scripts import Script

BARRED: Final = "UNFIT"
"""`LedgerUnavailable.code` of what is not sent, for the server is not fit to hold a ledger now."""
FIRST_RETRY_S: Final = 0.05
LONGEST_RETRY_S: Final = 2.0

_log = structlog.get_logger()


class CoalescingRunner:
    """Runs scripts over one connection (`Runner` of `gateway/ledger/client/scripts.py`).

    Use it from one event loop: `await start()` … `await close()`, or `async with`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str,
        timeout_s: float = 1.0,
        connect_timeout_s: float = 2.0,
        max_outstanding: int = 20_000,
        waitaof: WaitAof | None = None,
        on_trouble: Callable[[], None] | None = None,
    ) -> None:
        """name: shown by CLIENT LIST. timeout_s bounds each command, from write to answer. Beyond
        max_outstanding commands without one, calls fail at once. on_trouble: the server is away"""
        self._endpoint = endpoint
        self._name = name
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_outstanding = max_outstanding
        self._waitaof = waitaof
        self._on_trouble = on_trouble
        self._tried = asyncio.Event()
        self._wire: Wire | None = None
        self._down = f"the ledger at {endpoint.shown} is not connected yet"
        self._reconnecting: asyncio.Task[None] | None = None
        self._retry_s = FIRST_RETRY_S
        self._closed = False
        self._barred: str | None = None
        self._refused = LastingRefusal(name)
        endpoint.moves.follow(self.leave)
        endpoint.moves.drop_at_switch(self)
        self.reconnects = 0
        """Connections made in the background."""

    def __repr__(self) -> str:
        state = "connected" if self.connected else "down"
        return f"CoalescingRunner({self._name}, {self._endpoint.shown}, {state})"

    @property
    def connected(self) -> bool:
        """Whether a call would be sent now."""
        return self._wire is not None and self._wire.open

    @property
    def down(self) -> tuple[str, ...]:
        """The server, while no call can be sent to it."""
        return () if self.connected else (self._endpoint.shown,)

    @property
    def server_changes(self) -> int:
        """Grows whenever another server may run the scripts than before."""
        return self._endpoint.moves.count + self.reconnects

    @property
    def outstanding(self) -> int:
        """Commands that wait for their answer."""
        return 0 if self._wire is None else self._wire.outstanding

    async def start(self) -> None:
        """Connect. Raises LedgerUnavailable, and leaves nothing behind, if that fails."""
        self._tried.set()
        self._wire = await self._connect()

    def begin(self) -> None:
        """Connect in the background, unless connected: again and again until it succeeds."""
        if self._wire is None and self._reconnecting is None and not self._closed:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(wait_s=0))

    async def reach(self) -> None:
        """Return once it has been tried to connect; at once where that was tried before."""
        self.begin()
        if self._wire is None:
            await self._tried.wait()

    def bar(self, _server: str, sentence: str | None) -> None:
        """Run nothing, for a reason; None: run scripts again. _server: there is but one"""
        self._barred = sentence

    async def close(self, grace_s: float = 5.0) -> None:
        """Wait up to `grace_s` for the outstanding answers, then close. Safe to repeat."""
        self._closed = True
        self._tried.set()
        self._down = "the connection to the ledger is closed"
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
            self._reconnecting = None
        wire, self._wire = self._wire, None
        if wire is None:
            return
        wire.retire(self._down)
        await asyncio.wait([wire.lost], timeout=grace_s)
        if not wire.lost.done():
            wire.abort(self._down)
            await asyncio.wait([wire.lost])

    async def __aenter__(self) -> "CoalescingRunner":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def run(self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        """The script's reply: bytes and ints. Loads the script on NOSCRIPT and retries once.

        Raises LedgerUnavailable, whose `unknown` says whether the script may have run, and
        LedgerBug if the script itself failed. A cancelled call has an unknown outcome too.
        """
        wire = self._wire
        if wire is None:
            raise LedgerUnavailable(self._down)
        packed = pack_call(script.sha, keys, args)
        if self._barred is not None:
            raise LedgerUnavailable(self._barred, code=BARRED)
        reply = await wire.send(packed)
        if type(reply) is list:
            if self._refused.word is not None:
                self._refused.accepted(script)
            return reply
        return await self._unusual(wire, script, (packed,), reply)

    async def run_asking(
        self, script: Script, keys: Sequence[bytes], args: Sequence[bytes]
    ) -> list[Any]:
        """`run` for a call that another node has sent here, because its slot is on its way to this one."""
        if (wire := self._wire) is None:
            raise LedgerUnavailable(self._down)
        packed = ASKING, pack_call(script.sha, keys, args)
        return await self._unusual(wire, script, packed, await send_together(wire, packed))

    async def _unusual(
        self, wire: Wire, script: Script, packed: Sequence[bytes], reply: Any
    ) -> list[Any]:
        """Everything but a plain reply."""
        load = None
        if isinstance(reply, ReplyError) and first_word(reply) == NOSCRIPT:
            load = wire.load(script)
            reply = await send_together(wire, packed)
        if isinstance(reply, list):
            self._refused.accepted(script)
            return reply
        if isinstance(reply, LedgerUnavailable):
            raise reply
        if not isinstance(reply, ReplyError):
            raise LedgerBug(f"script {script.name} answered a {type(reply).__name__}, not a list")
        word = first_word(reply)
        if word in REDIRECTS:
            raise redirected(reply, self._endpoint.address[0])
        self._refused.refused(script, word)
        if word in NOT_PRIMARY:
            # This connection's own age counts: one that was made since is the new primary's.
            self._endpoint.moves.moved(wire.known_moves)
        if word == NOSCRIPT and load is not None and load.done():
            refusal = load.result()
            if isinstance(refusal, ReplyError):
                raise explain(refusal, f"{script.name} (SCRIPT LOAD)")
        raise explain(reply, script.name)

    @property
    def refusal(self) -> str | None:
        """The word with which the server refuses scripts at the moment (`OOM`, `NOPERM`, …)."""
        return self._refused.word

    def _tell(self) -> None:
        if self._on_trouble is not None:
            self._on_trouble()

    def leave(self) -> None:
        """The server is no longer the primary: reconnect to find the one that is."""
        if self._wire is not None:
            self._tell()
            self._down = f"the ledger's server at {self._endpoint.shown} is the primary no more"
            self._wire.retire(self._down)

    def drop(self, reason: str) -> None:
        """Another server has taken over: give up what is in flight, and connect to that one now."""
        self._retry_s = FIRST_RETRY_S
        if self._wire is not None:
            self._tell()
            self._down = reason
            self._wire.abort(reason)
        elif self._reconnecting is not None:
            self._reconnecting.cancel()  # it may be waiting for the old one, or for its next try
            self._reconnect_soon()

    async def _connect(self) -> Wire:
        return await self._endpoint.take_over(
            self._new_wire, name=self._name, timeout_s=self._connect_timeout_s
        )

    def _new_wire(self) -> Wire:
        return Wire(
            timeout_s=self._timeout_s,
            max_outstanding=self._max_outstanding,
            waitaof=self._waitaof,
            on_lost=self._lose,
        )

    def _lose(self, wire: Wire, reason: str) -> None:
        if wire is not self._wire:
            return
        self._wire = None
        if self._closed:
            return
        self._down = reason
        if wire.answered and not wire.retired:
            self._retry_s = FIRST_RETRY_S
        _log.warning(
            "ledger_lost", connection=self._name, server=self._endpoint.shown, reason=reason
        )
        self._tell()
        self._reconnect_soon()

    def _reconnect_soon(self) -> None:
        task = self._reconnect(self._pause_s())
        self._reconnecting = asyncio.get_running_loop().create_task(task)

    def _pause_s(self) -> float:
        # Jitter, so that the gates of a fleet do not come back as one.
        return self._retry_s * random.uniform(0.5, 1.0)  # noqa: S311

    async def _reconnect(self, wait_s: float) -> None:
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._pause_s()
            self._retry_s = min(LONGEST_RETRY_S, 2 * self._retry_s)
            try:
                self._wire = await self._connect()
            except LedgerUnavailable as error:
                self._down = str(error)
                self._tell()
            except Exception as error:  # whatever it is: a gate that gives up stays down
                self._down = f"the connection to the ledger fails: {type(error).__name__}"
                _log.exception("ledger_connect_failed", connection=self._name)
            self._tried.set()
            if self._wire is not None:
                self.reconnects, self._reconnecting = self.reconnects + 1, None
                _log.info("ledger_found", connection=self._name, server=self._endpoint.shown)
                if self._wire.known_moves < self._endpoint.moves.count:
                    self.leave()  # it moved while this was being made
                return
