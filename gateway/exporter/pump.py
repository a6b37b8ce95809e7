"""Moves events from the outbox into one sink: read, write, acknowledge, again.

Invariants: the ledger trims only what the sink has committed. A kill at any point repeats work
and loses none: reading starts at what was acknowledged, the sink knows what it has. One event that
cannot be delivered does not block the others. `progress.py` keeps the places.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson
import structlog

from gateway.domain.delivery import DeadLetter, Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.progress import Load, Progress
from gateway.exporter.sink import Batch, Failure, Sink, SinkUnavailable
from gateway.exporter.tally import Tally
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.shard_records import Shard
from gateway.ledger.outbox import Outbox

log = structlog.get_logger()


class Acknowledger(Protocol):
    """Tells a shard up to where its outbox is stored; the ledger trims it. And shuts it when it has
    less than is stored."""

    async def ack(self, shard: int, epoch: int, seq: int) -> None:
        """Trim up to and including this place. Idempotent. Raises LedgerUnavailable, also if the
        outbox has never reached it."""
        ...

    async def freeze(self, shard: int, known: Place, *, conflict: bool = False) -> bool:
        """Shut a shard unless it has the entry `known`; whether it is shut now.

        conflict: the sink has another event at a place of its outbox. Raises LedgerUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class PumpOptions:
    """batch_limit: events per batch, about; linger_s: pause after a batch of less than half of that,
    so that a trickle is not one disk sync per event; attempts: of one event before it is a dead letter;
    backoff_s: first wait, doubled up to backoff_max_s; block_ms: wait for news in one read;
    watch_s: between looks at the shards' heads; acknowledge_s: between acknowledgements under load.
    """

    batch_limit: int = 4096
    linger_s: float = 0.05
    attempts: int = 8
    backoff_s: float = 0.1
    backoff_max_s: float = 10.0
    block_ms: int = 500
    watch_s: float = 1.0
    acknowledge_s: float = 0.1


class Pump:
    """One sink's pump: `run` until `stop` is called; what was written by then is delivered."""

    def __init__(
        self,
        outbox: Outbox,
        acknowledger: Acknowledger,
        sink: Sink,
        *,
        tally: Tally | None = None,
        options: PumpOptions | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self._outbox = outbox
        self._acknowledger = acknowledger
        self._sink = sink
        self._options = options or PumpOptions()
        self._progress = Progress()
        self._shut: dict[int, Shard] = {}
        self._opened: dict[int, Shard] = {}
        """Found by `_watch`, applied by `_pump`: shards that were frozen, and repaired."""
        self._conflicts: dict[int, Place] = {}
        """Shards whose outbox has another event at a place that the sink has, until the ledger
        freezes them."""
        self._oldest_ms: int | None = None
        """Attempts per event that was read and is not stored."""
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._deadline = float("inf")

    def stop(self, *, grace_s: float = 5.0) -> None:
        """Deliver what the outbox has now, for at most `grace_s`, then end. A second call can
        only shorten the grace."""
        self._deadline = min(self._deadline, time.monotonic() + grace_s)
        self._stopping.set()

    async def run(self) -> None:
        """Pump until stopped. Waits out an unavailable ledger or sink; raises only on a bug."""
        try:
            if not await self._open():
                return
            watch = asyncio.create_task(self._watch())
            try:
                await self._pump()
            finally:
                self._ended.set()
                await watch  # not cancelled: a client cancelled in a reply may swallow it
        finally:
            await self._sink.close()

    async def _open(self) -> bool:
        """Open the sink and compare it with the ledger. False if stopped before that."""
        attempt = 0
        while not self._stopping.is_set() or attempt == 0:
            try:
                cursors = await self._sink.open()
                heads = await self._outbox.heads()
            except (SinkUnavailable, LedgerUnavailable) as error:
                attempt = await self._wait(error, attempt)
                continue
            self.tally.waiting = 0
            self._progress.begin(heads, cursors)
            try:
                for shard, head in enumerate(heads):
                    if await self._behind(shard, head, cursors.get(shard)):
                        self._progress.halt(shard, head.last)
            except LedgerUnavailable as error:
                attempt = await self._wait(error, attempt)
                continue
            self._measure(heads)
            return True
        return False

    async def _pump(self) -> None:
        attempt, acknowledged_at = 0, 0.0
        while not self._past_deadline():
            self._take_over()
            if time.monotonic() - acknowledged_at >= self._options.acknowledge_s:
                await self._acknowledge()
                acknowledged_at = time.monotonic()
            try:
                load = await self._read()
            except LedgerUnavailable as error:
                attempt = await self._wait(error, attempt)
                continue
            attempt = self.tally.waiting = 0
            if load is not None:
                if not await self._deliver(load):
                    return
                if len(load.rows) * 2 < self._options.batch_limit:
                    await self._pause(self._options.linger_s)
            elif self._stopping.is_set():
                if await self._acknowledge():
                    return
                await self._pause(self._backoff(attempt))

    async def _read(self) -> Load | None:
        """Read the next load, or None if there was nothing to read."""
        progress = self._progress
        quick = progress.has_news or self._stopping.is_set()
        tails = await self._outbox.read(
            progress.read_to,
            limit=self._options.batch_limit,
            block_ms=0 if quick else self._options.block_ms,
            skip=progress.halted,
        )
        return progress.take(tails) if tails or progress.has_news else None

    async def _deliver(self, load: Load) -> bool:
        """Write one load until the sink has all of it. False if stopped before that."""
        rows, dead, attempt = self._young_enough(load), load.dead, 0
        self._oldest_ms = min((row.occurred_at_ms for row in rows), default=None)
        while True:
            try:
                if self.tally.waiting:
                    await self._sink.open()
                batch = Batch(rows, load.ends, dead, load.anomalies, load.signals)
                written = await self._sink.write(batch)
            except SinkUnavailable as error:
                attempt = await self._wait(error, attempt)
                if self._past_deadline():
                    return False
                continue
            self.tally.waiting = 0
            self.tally.batches += 1
            self.tally.delivered += written.stored
            self.tally.duplicates += written.duplicates
            if not written.failed:
                break
            attempt += 1
            taken = {failure.row.shard for failure in written.failed if failure.place_taken}
            for shard in taken:
                self._halt_in(load, shard)
            failed = [failure for failure in written.failed if failure.row.shard not in taken]
            rows, buried = self._give_up(failed, attempt)
            dead = [letter for letter in dead if letter.shard not in taken]
            dead = [*dead, *buried]
            if rows:
                await self._pause(self._backoff(attempt))
                if self._past_deadline():
                    return False
        self._oldest_ms = None
        self._progress.committed(load)
        self._report(load, dead)
        return True

    def _give_up(
        self, failed: Sequence[Failure], attempt: int
    ) -> tuple[list[EventRow], list[DeadLetter]]:
        """Decide which failures are retried and which become dead letters."""
        last = attempt >= self._options.attempts
        again = [failure.row for failure in failed if failure.retry and not last]
        buried = [dead_letter(f.row, f.reason) for f in failed if last or not f.retry]
        return again, buried

    def _young_enough(self, load: Load) -> list[EventRow]:
        """Drop events that the receiver could no longer recognise as duplicates."""
        if self._sink.max_replay_age_ms is None:
            return load.rows
        oldest_ms = time.time() * 1000 - self._sink.max_replay_age_ms
        load.dead += [
            dead_letter(row, "older than the sink's max_replay_age")
            for row in load.rows
            if row.occurred_at_ms < oldest_ms
        ]
        return [row for row in load.rows if row.occurred_at_ms >= oldest_ms]

    def _report(self, load: Load, dead: Sequence[DeadLetter]) -> None:
        self.tally.dead_letters += len(dead)
        self.tally.anomalies += len(load.anomalies)
        for letter in dead:
            log.error(
                "dead_letter",
                shard=letter.shard,
                place=f"{letter.epoch}-{letter.seq}",
                event_id=letter.event_id,
                reason=letter.reason,
            )
        for item in load.anomalies:
            log.error(
                "anomaly", kind=item.kind, shard=item.shard, after=item.after, found=item.found
            )

    async def _acknowledge(self) -> bool:
        """Acknowledge to the ledger what the sink has committed. False if some of it must be retried.

        A shard that has lost a tail refuses; the others and the reading go on, and `_watch`
        notices.
        """
        waiting, self._progress.unacknowledged = self._progress.unacknowledged, {}
        answers = await asyncio.gather(
            *(self._acknowledger.ack(shard, *end) for shard, end in waiting.items()),
            return_exceptions=True,
        )
        for (shard, end), answer in zip(waiting.items(), answers, strict=True):
            if isinstance(answer, LedgerUnavailable):
                self._progress.unacknowledged[shard] = end
            elif isinstance(answer, BaseException):
                raise answer
        return not self._progress.unacknowledged

    def _halt_in(self, load: Load, shard: int) -> None:
        """Drop a shard from a load and leave it alone: its places belong to other events than the stored ones."""
        end = load.ends.pop(shard)
        self._progress.halt(shard, end)
        self._conflicts[shard] = end
        log.error("shard_conflicts_with_store", shard=shard, place=f"{end.epoch}-{end.seq}")

    # Watching

    def _take_over(self) -> None:
        """Apply what `_watch` has found, between two loads, so that a load belongs to one epoch."""
        for shard, head in self._shut.items():
            self._progress.halt(shard, head.last)
        for shard, head in self._opened.items():
            self._progress.resume(shard, head)
        self._shut, self._opened = {}, {}

    async def _behind(self, shard: int, head: Shard, stored: Place | None) -> bool:
        """Whether a shard has less than is stored, and is frozen for it now.

        What the head says may be a replica's, which lags: the ledger itself decides.
        """
        if stored is None or head.frozen or head.last >= stored:
            return False
        return await self._acknowledger.freeze(shard, stored)

    async def _watch(self) -> None:
        """Watch lag and lost shards in a separate task, so that the lag is known while the sink is down."""
        while not await self._end_within(self._options.watch_s):
            stored = dict(self._progress.stored)  # before asking: it cannot be ahead of the answer
            try:
                heads = await self._outbox.heads()
            except LedgerUnavailable:
                continue
            try:
                await self._look_at(heads, stored)
            except LedgerUnavailable:
                continue
            self._measure(heads)

    async def _look_at(self, heads: Sequence[Shard], stored: dict[int, Place]) -> None:
        progress = self._progress
        for shard, place in list(self._conflicts.items()):
            await self._acknowledger.freeze(shard, place, conflict=True)
            del self._conflicts[shard]
        for shard, head in enumerate(heads):
            if shard in progress.halted:
                if not head.frozen and head.last.epoch > progress.stored[shard].epoch:
                    self._opened[shard] = head
            elif head.frozen or await self._behind(shard, head, stored[shard]):
                self._shut[shard] = head

    def _measure(self, heads: Sequence[Shard]) -> None:
        """Compute ages from the ledger's clock and this machine's; they are off by the difference
        of the two."""
        self.tally.lag_events = self._progress.lag_events(heads)
        if self._oldest_ms is not None:
            self.tally.lag_seconds = max(0.0, time.time() - self._oldest_ms / 1000)
        elif self.tally.lag_events == 0:
            self.tally.lag_seconds = 0.0

    async def _end_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            return False
        return True

    # Waiting

    async def _wait(self, error: Exception, attempt: int) -> int:
        """Back off before retrying; return the number of the next attempt."""
        self.tally.waiting = 1
        self.tally.retries += 1
        log.warning("exporter_waits", sink=self._sink.name, reason=str(error), attempt=attempt)
        await self._pause(self._backoff(attempt))
        return attempt + 1

    def _backoff(self, attempt: int) -> float:
        bound = min(self._options.backoff_max_s, self._options.backoff_s * 2.0 ** min(attempt, 20))
        return bound * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    def _past_deadline(self) -> bool:
        return time.monotonic() >= self._deadline

    async def _pause(self, seconds: float) -> None:
        """Sleep; wake when stopping, and then pause only briefly."""
        if self._stopping.is_set():
            await asyncio.sleep(min(seconds, 0.05))
            return
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


def dead_letter(row: EventRow, reason: str) -> DeadLetter:
    """Keep an event that was read but could not be delivered as a dead letter."""
    return DeadLetter(
        row.shard, row.epoch, row.seq, row.event_id, reason, orjson.dumps(row._asdict())
    )
