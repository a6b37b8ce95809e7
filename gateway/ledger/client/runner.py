"""The hot path's runner of scripts: one connection whose commands of a loop tick leave together.

Callers are served through `Wire`; this file adds what outlives a connection: loading scripts on
NOSCRIPT, meaning of error replies, reconnecting in the background. While there is no connection
every call fails at once with `unknown=False`.

A worker has two of these, one to admit and one to settle, so that a burst of settlements never
delays an admission. Client cost of each pair of calls: `python -m loadtest.client_cost`.
"""

import asyncio
import random
from collections.abc import Sequence
from itertools import chain
from types import TracebackType
from typing import Any, Final

import structlog
from hiredis import ReplyError

from gateway.ledger.client.connection import Wire, pack
from gateway.ledger.client.durability import WaitAof
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerBug, LedgerUnavailable
from gateway.ledger.client.faults import MOVED, NOSCRIPT, NOT_EXECUTED, explain, first_word
from gateway.ledger.client.scripts import Script

BARRED: Final = "UNFIT"
"""`LedgerUnavailable.code` of what is not sent, for the server is not fit to hold a ledger now."""
FIRST_RETRY_S: Final = 0.05
LONGEST_RETRY_S: Final = 2.0

_COUNTS: Final = tuple(b"%d" % count for count in range(64))
_BEGINS: Final = tuple(b"*%d\r\n$7\r\nEVALSHA" % count for count in range(128))
_LENGTHS: Final = tuple(b"\r\n$%d\r\n" % length for length in range(4096))

_length_of: Final = _LENGTHS.__getitem__

_log = structlog.get_logger()


def pack_call(sha: bytes, keys: Sequence[bytes], args: Sequence[bytes]) -> bytes:
    """EVALSHA as RESP. The lengths between the words come from a table: hiredis formats each of them,
    at three times the cost of the rest."""
    words = (sha, _COUNTS[len(keys)], *keys, *args)
    try:
        pairs = zip(map(_length_of, map(len, words)), words)  # noqa: B905 - one length a word
        return b"".join((_BEGINS[1 + len(words)], *chain.from_iterable(pairs), b"\r\n"))
    except IndexError:  # a word that is seldom so long
        return pack((b"EVALSHA", *words))


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
    ) -> None:
        """name: shown by CLIENT LIST. timeout_s bounds each command, from its write to its
        answer. Beyond max_outstanding commands without an answer, calls fail at once."""
        self._endpoint = endpoint
        self._name = name
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._max_outstanding = max_outstanding
        self._waitaof = waitaof
        self._wire: Wire | None = None
        self._down = "the connection to the ledger has not been started"
        self._reconnecting: asyncio.Task[None] | None = None
        self._retry_s = FIRST_RETRY_S
        self._closed = False
        self.barred: str | None = None
        """Why no script is to be run now, although the server would; None while nothing is wrong."""
        self._refused: tuple[str, str] | None = None
        """The script and the word of a refusal that lasts."""
        self._known = endpoint.moves.count
        endpoint.moves.follow(self.leave)
        self.reconnects = 0
        """Connections made after the first."""

    def __repr__(self) -> str:
        state = "connected" if self.connected else "down"
        return f"CoalescingRunner({self._name}, {self._endpoint.shown}, {state})"

    @property
    def connected(self) -> bool:
        """Whether a call would be sent now."""
        return self._wire is not None and self._wire.open

    @property
    def down_reason(self) -> str | None:
        """Why calls fail at the moment; None while connected."""
        return None if self.connected else self._down

    @property
    def outstanding(self) -> int:
        """Commands that wait for their answer."""
        return 0 if self._wire is None else self._wire.outstanding

    async def start(self) -> None:
        """Connect. Raises LedgerUnavailable, and leaves nothing behind, if that fails."""
        self._wire = await self._connect()

    async def close(self, grace_s: float = 5.0) -> None:
        """Wait up to `grace_s` for the outstanding answers, then close. Safe to repeat."""
        self._closed = True
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
        if self.barred is not None:
            raise LedgerUnavailable(self.barred, code=BARRED)
        reply = await wire.send(packed)
        if type(reply) is list:
            if self._refused is not None:
                self._accepted(script)
            return reply
        return await self._unusual(wire, script, packed, reply)

    async def _unusual(self, wire: Wire, script: Script, packed: bytes, reply: Any) -> list[Any]:
        """Everything but a plain reply."""
        load = None
        if isinstance(reply, ReplyError) and first_word(reply) == NOSCRIPT:
            load = wire.load(script)
            reply = await wire.send(packed, again=True)
        if isinstance(reply, list):
            self._accepted(script)
            return reply
        if isinstance(reply, LedgerUnavailable):
            raise reply
        if not isinstance(reply, ReplyError):
            raise LedgerBug(f"script {script.name} answered a {type(reply).__name__}, not a list")
        word = first_word(reply)
        self._refuses(script, word)
        if word in MOVED:
            # This connection's own age counts: one that was made since is the new primary's.
            self._endpoint.moves.moved(self._known if wire is self._wire else 0)
        if word == NOSCRIPT and load is not None and load.done():
            refusal = load.result()
            if isinstance(refusal, ReplyError):
                raise explain(refusal, f"{script.name} (SCRIPT LOAD)")
        raise explain(reply, script.name)

    @property
    def refusal(self) -> str | None:
        """The word with which the server refuses scripts at the moment (`OOM`, `NOPERM`, …)."""
        return None if self._refused is None else self._refused[1]

    def _refuses(self, script: Script, word: str) -> None:
        if word in NOT_EXECUTED and word != NOSCRIPT and self._refused is None:
            self._refused = script.name, word
            reason = NOT_EXECUTED[word]
            _log.error("ledger_refuses", connection=self._name, code=word, reason=reason)

    def _accepted(self, script: Script) -> None:
        """A script was run; the one that was refused is what counts, for others are refused less."""
        if self._refused is not None and self._refused[0] == script.name:
            _log.warning("ledger_accepts", connection=self._name, after=self._refused[1])
            self._refused = None

    def leave(self) -> None:
        """The server is no longer the primary: reconnect to find the one that is."""
        if self._wire is not None:
            self._down = f"the ledger's server at {self._endpoint.shown} is the primary no more"
            self._wire.retire(self._down)

    async def _connect(self) -> Wire:
        self._known = self._endpoint.moves.count
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
        _log.warning("ledger_lost", connection=self._name, reason=reason)
        self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        while True:
            # Jitter, so that the gates of a fleet do not come back as one.
            await asyncio.sleep(self._retry_s * random.uniform(0.5, 1.0))  # noqa: S311
            self._retry_s = min(LONGEST_RETRY_S, 2 * self._retry_s)
            try:
                self._wire = await self._connect()
            except LedgerUnavailable as error:
                self._down = str(error)
            except Exception as error:  # whatever it is: a gate that gives up stays down
                self._down = f"the connection to the ledger fails: {type(error).__name__}"
                _log.exception("ledger_connect_failed", connection=self._name)
            else:
                self.reconnects += 1
                _log.info("ledger_found", connection=self._name)
                if self._known < self._endpoint.moves.count:
                    self.leave()  # it moved while this was being made
                return
