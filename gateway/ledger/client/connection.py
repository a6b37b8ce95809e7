"""One connection of the hot path: what is asked in one tick of the loop leaves in one write.

While nothing is waited for and the last write had one command, the next one leaves at once.

Invariants:
- replies come in the order of the commands, so `_sent` is all the bookkeeping: every reply
  takes the future at its head, done or not. A caller that was cancelled, or that timed out,
  leaves its (done) future in place, and nobody else notices;
- a future always gets a *result*: the reply, an error reply, or a `LedgerUnavailable` to raise.
  Whoever awaits it decides; nothing that a caller does runs in here;
- what was handed to the transport may have been executed (`unknown=True`); what was not, was
  not, and never will be;
- no timer per command: one sweep looks for what is overdue, while anything is outstanding.

With a `WaitAof` each write ends with one WAITAOF, and its replies wait for that answer.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, cast

from hiredis import HiredisError, Reader, ReplyError, pack_command

from gateway.ledger.client.durability import WaitAof
from gateway.ledger.client.endpoint import Successor
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.scripts import Script

WRITE_HIGH_WATER_BYTES: Final = 1 << 18
"""More than this unsent in the transport, and further commands wait in our own queue, where
they can still be taken back."""
STALL_TIMEOUTS: Final = 2
"""A connection that answers nothing for this many timeouts while commands wait is given up."""
_SWEEPS_PER_TIMEOUT: Final = 8
_NOT_KEPT: Final = "the ledger did not say it is on its disk"
_NOTHING: Final = object()

pack: Final = cast(Callable[[tuple[bytes, ...]], bytes], pack_command)
"""A command as RESP: hiredis's own packer, with the type that its stub gets wrong."""


class Wire(Successor):
    """One open connection. Made by `Endpoint.take_over`, replaced, never reused, when lost."""

    def __init__(
        self,
        *,
        timeout_s: float,
        max_outstanding: int,
        waitaof: WaitAof | None,
        on_lost: Callable[["Wire", str], None],
    ) -> None:
        """on_lost is called once, after every outstanding command has its result."""
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._limit = max_outstanding
        self._on_lost = on_lost
        self._reader = Reader(notEnoughData=_NOTHING)
        self._fence = (
            None if waitaof is None else pack((b"WAITAOF", b"1", b"0", b"%d" % waitaof.timeout_ms))
        )
        self._queue: list[asyncio.Future[Any]] = []
        self._chunks: list[bytes] = []  # one for each of _queue
        self._queued: deque[tuple[float, int]] = deque()  # since when, up to which of _queue
        self._sent: deque[asyncio.Future[Any] | None] = deque()  # None: the fence
        self._written = 0  # everything that ever went into _sent
        self._marks: deque[tuple[float, int]] = deque()  # since when, up to which _written
        self._held: list[tuple[asyncio.Future[Any], Any]] = []  # answered, before their fence
        self._loads: dict[bytes, asyncio.Future[Any]] = {}
        self._scheduled = False
        self._alone = waitaof is None  # the last write had one command, and no fence
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._answered_then = 0
        self._heard_at = 0.0
        self._refusing: str | None = None
        self._transport: asyncio.Transport | None = None
        self.retired = False
        self.lost = self._loop.create_future()
        """Done when the connection is gone and every command has its result."""

    @property
    def outstanding(self) -> int:
        """Commands without a result yet, timed-out ones included while their reply is due."""
        return len(self._sent) + len(self._queue) + len(self._held)

    @property
    def open(self) -> bool:
        """Whether `send` takes commands."""
        return self._refusing is None

    @property
    def answered(self) -> int:
        """Replies that have come over this connection."""
        return self._written - len(self._sent)

    def send(self, packed: bytes, *, again: bool = False) -> asyncio.Future[Any]:
        """Queue a packed command for this tick's write; the future gets what became of it.

        again: it was admitted once already, so a full queue does not stop it
        Raises LedgerUnavailable at once when the queue is full or the connection is closing.
        """
        if self._refusing is not None:
            raise LedgerUnavailable(self._refusing)
        queue = self._queue
        waiting = len(self._sent) + len(queue) + len(self._held)
        if waiting >= self._limit and not again:
            raise LedgerUnavailable(f"{self._limit} commands already wait for the ledger")
        future = self._loop.create_future()
        queue.append(future)
        self._chunks.append(packed)
        if not waiting and self._alone:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def load(self, script: Script) -> asyncio.Future[Any]:
        """Queue a SCRIPT LOAD, unless one of this script is on its way."""
        future = self._loads.get(script.sha)
        if future is None:
            future = self.send(pack((b"SCRIPT", b"LOAD", script.source)), again=True)
            self._loads[script.sha] = future
            future.add_done_callback(lambda _: self._loads.pop(script.sha, None))
        return future

    def retire(self, reason: str) -> None:
        """Take no more commands; close once the outstanding ones are answered."""
        self.retired = True
        self._refusing = self._refusing or reason
        if not self.outstanding and self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once: what was written and not answered has an unknown outcome."""
        self._refusing = reason
        if self._transport is not None:
            self._transport.abort()

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        sent = self._sent
        try:
            reader.feed(data)
            if self._fence is not None:
                self._receive_fenced()
            else:
                gets = reader.gets
                while (reply := gets()) is not _NOTHING:
                    future = sent.popleft()
                    assert future is not None
                    if not future.done():
                        future.set_result(reply)
        except (HiredisError, IndexError):
            # Not RESP, or a reply that nobody asked for: from here on order means nothing.
            self.abort("the ledger's server does not speak the protocol")
            return
        if self.retired and not self.outstanding and self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def connection_lost(self, error: Exception | None) -> None:
        # The server's words only: an OSError's text names errno, never an argument.
        reason = self._refusing or f"the connection to the ledger was lost: {error or 'closed'}"
        self._refusing = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future in (*(held for held, _ in self._held), *self._sent):
            if future is not None and not future.done():
                future.set_result(LedgerUnavailable(reason, unknown=True))
        for future in self._queue:
            if not future.done():
                future.set_result(LedgerUnavailable(reason))
        for emptied in (self._held, self._sent, self._queue, self._chunks):
            emptied.clear()
        self.lost.set_result(None)
        self._on_lost(self, reason)

    # Writing

    def _flush(self) -> None:
        self._scheduled = False
        queue = self._queue
        transport = self._transport
        if not queue or transport is None or transport.is_closing():
            return  # if closing, connection_lost is about to answer them as not sent
        now = self._loop.time()
        if self._timer is None:
            self._heard_at = now
            self._answered_then = self.answered
            self._timer = self._loop.call_later(self._timeout_s / _SWEEPS_PER_TIMEOUT, self._sweep)
        if self._paused:
            self._queued.append((now, len(queue)))
            return
        for since, upto in self._queued:
            self._marks.append((since, self._written + upto))
        self._queued.clear()
        self._sent.extend(queue)
        self._written += len(queue)
        self._alone = len(queue) == 1 and self._fence is None
        if self._fence is not None:
            self._chunks.append(self._fence)
            self._sent.append(None)
            self._written += 1
        self._marks.append((now, self._written))
        packed = b"".join(self._chunks)
        queue.clear()
        self._chunks.clear()
        transport.write(packed)

    # Reading behind a fence

    def _receive_fenced(self) -> None:
        gets = self._reader.gets
        while (reply := gets()) is not _NOTHING:
            future = self._sent.popleft()
            if future is not None:
                self._held.append((future, reply))
                continue
            # WAITAOF answers [local, replicas]: how many have it on their disk.
            kept = isinstance(reply, list) and reply[0] >= 1
            for future, answer in self._held:
                if future.done():
                    continue
                if kept or isinstance(answer, ReplyError):
                    future.set_result(answer)
                else:
                    future.set_result(LedgerUnavailable(_NOT_KEPT, unknown=True))
            self._held.clear()

    # Deadlines

    def _sweep(self) -> None:
        """Answer what is overdue; give the connection up if it has gone silent."""
        self._timer = None
        if not self.outstanding:
            self._marks.clear()
            return
        now = self._loop.time()
        self._time_out_written(now - self._timeout_s)
        self._time_out_queued(now - self._timeout_s)
        if self.answered != self._answered_then:
            self._answered_then = self.answered
            self._heard_at = now
        elif now - self._heard_at > STALL_TIMEOUTS * self._timeout_s and self._sent:
            self.abort(f"the ledger has been silent for {now - self._heard_at:.1f} s")
            return
        self._timer = self._loop.call_later(self._timeout_s / _SWEEPS_PER_TIMEOUT, self._sweep)

    def _time_out_written(self, overdue_since: float) -> None:
        answered = self.answered
        while self._marks and self._marks[0][1] <= answered:
            self._marks.popleft()
        overdue = 0
        for since, upto in self._marks:
            if since > overdue_since:
                break
            overdue = upto - answered
        fence_overdue = False
        for future in islice(self._sent, overdue):
            fence_overdue = fence_overdue or future is None
            self._time_out(future, unknown=True)
        if fence_overdue:
            for future, _ in self._held:
                self._time_out(future, unknown=True)

    def _time_out_queued(self, overdue_since: float) -> None:
        """Take back what back-pressure has kept here too long: it is never sent."""
        overdue = 0
        while self._queued and self._queued[0][0] <= overdue_since:
            overdue = self._queued.popleft()[1]
        if not overdue:
            return
        for future in self._queue[:overdue]:
            self._time_out(future, unknown=False)
        del self._queue[:overdue], self._chunks[:overdue]
        self._queued = deque((since, upto - overdue) for since, upto in self._queued)

    def _time_out(self, future: asyncio.Future[Any] | None, *, unknown: bool) -> None:
        if future is not None and not future.done():
            late = f"the ledger did not answer within {self._timeout_s:g} s"
            future.set_result(LedgerUnavailable(late, unknown=unknown))
