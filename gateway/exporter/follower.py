"""Feeds one optional sink: from the pump while it keeps up, from the required store when it has fallen behind.

Invariants: nothing that the required store has is skipped; a sink that is away costs the pump nothing. The
sink's cursor is kept in the required store and moved after the sink has the events, so that a kill repeats
and loses none; the receiver recognises repeats by the event's id.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from gateway.domain.delivery import START, DeadLetter, Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.delivery import Delivery, dead_letter, log_dead
from gateway.exporter.pacing import Pace, PumpOptions
from gateway.exporter.progress import Load
from gateway.exporter.sink import Batch, Sink, SinkUnavailable, Store
from gateway.exporter.tally import Tally

log = structlog.get_logger()

QUEUE_LOADS: Final = 8
"""Loads kept for a sink that is slower than the store for a moment; beyond them it reads from the store."""
IDLE_S: Final = 0.5
FLUSH_S: Final = 5.0


class Follower:
    """One optional sink's loop: `run` until `stop`. name: of the sink as configured."""

    def __init__(
        self, name: str, sink: Sink, store: Store, options: PumpOptions | None = None
    ) -> None:
        self.name = name
        self.tally = Tally()
        self._store = store
        self._pace = Pace(options or PumpOptions())
        self._delivery = Delivery(name, sink, self._pace, self.tally)
        self._queue: deque[Load] = deque()
        self._wake = asyncio.Event()
        self._stored: dict[int, Place] = {}
        """How far the required store is, on the shards that this exporter holds."""
        self._cursors: dict[int, Place] = {}
        """How far the sink has been fed, on the same shards once they are known."""
        self._holds = 0
        """How often `hold` was called."""
        self._flushed_at = 0.0
        self._gathering_since: float | None = None

    def stop(self, grace_s: float) -> None:
        """Deliver what the store has, for at most `grace_s`. A second call can only shorten that."""
        self._pace.stop(grace_s)
        self._wake.set()

    def hold(self, stored: Mapping[int, Place]) -> None:
        """Follow these shards from now on and no others. stored: how far the store is on each"""
        self._holds += 1
        self._stored = dict(stored)
        for shard in self._cursors.keys() - stored.keys():
            del self._cursors[shard]
        self._wake.set()

    def offer(self, load: Load) -> None:
        """Take what the required store has just committed. Never blocks."""
        for shard, end in load.ends.items():
            self._stored[shard] = end
        self.tally.lag_events = self._lag()
        if len(self._queue) >= QUEUE_LOADS:
            self._queue.clear()  # the store has it all; what is missing shows as a gap
        else:
            self._queue.append(load)
        self._wake.set()

    async def run(self) -> None:
        """Follow until stopped. Waits out an unavailable sink or store; raises only on a bug."""
        try:
            if not await self._open():
                return
            attempt = 0
            while not self._pace.past_deadline:
                try:
                    busy = await self._step()
                except SinkUnavailable as error:  # the required store's: the sink's are waited out
                    attempt = await self._delivery.wait(error, attempt)
                    continue
                attempt = 0
                if busy:
                    continue
                if self._pace.stopping:
                    return
                await self._idle()
        finally:
            await self._delivery.sink.close()

    async def _open(self) -> bool:
        attempt = 0
        if not self._stored:
            await self._idle()  # until the pump has opened the store
        while not self._pace.stopping or attempt == 0:
            try:
                # A sink that starts "now" starts when it is configured, not when it answers first.
                await self._find_cursors()
                await self._delivery.sink.open()
            except SinkUnavailable as error:
                attempt = await self._delivery.wait(error, attempt)
                continue
            self.tally.waiting = 0
            return True
        return False

    async def _step(self) -> bool:
        """Deliver one batch. False if there was nothing to deliver."""
        await self._find_cursors()
        if self._delivery.sink.batch_events is not None:
            self._queue.clear()  # too small; the store has it all
            return not self._gathering() and await self._catch_up()
        while self._queue:
            load = self._queue.popleft()
            if any(self._cursors.get(s, before) < before for s, before in load.begins.items()):
                self._queue.clear()
                break
            rows = [row for row in load.rows if row.place > self._cursors.get(row.shard, row.place)]
            ends = {s: end for s, end in load.ends.items() if end > self._cursors.get(s, end)}
            if ends:
                return await self._deliver(rows, ends)
        return await self._catch_up()

    def _gathering(self) -> bool:
        """Whether a sink that wants larger batches waits for more."""
        sink, lag, now = self._delivery.sink, self._lag(), time.monotonic()
        if lag == 0 or lag >= (sink.batch_events or 0) or self._pace.stopping:
            self._gathering_since = None
            return False
        if self._gathering_since is None:
            self._gathering_since = now
        if now < self._gathering_since + (sink.linger_ms or 0) / 1000:
            return True
        self._gathering_since = None
        return False

    async def _catch_up(self) -> bool:
        """Deliver the next batch from the store."""
        stored, cursors = dict(self._stored), dict(self._cursors)
        behind = {s: place for s, place in cursors.items() if place < stored.get(s, place)}
        if not behind:
            await self._flush()
            return False
        limit = self._delivery.sink.batch_events or self._pace.options.batch_limit
        rows = await self._store.read_beyond(behind, limit)
        # Where nothing more is stored the cursor moves to the end: dead letters may be the last.
        ends = {shard: stored[shard] for shard in behind} if len(rows) < limit else {}
        # While they were read, shards may have gone to another exporter, and come back.
        same = {shard for shard in behind if self._cursors.get(shard) == behind[shard]}
        rows = [row for row in rows if row.shard in same]
        ends = {shard: end for shard, end in ends.items() if shard in same}
        for row in rows:
            ends[row.shard] = max(row.place, ends.get(row.shard, row.place))
        return await self._deliver(rows, ends)

    async def _flush(self) -> None:
        """Tell a sink that holds events back that nothing more is waiting."""
        if not self._delivery.sink.holds_back or time.monotonic() < self._flushed_at + FLUSH_S:
            return
        self._flushed_at = time.monotonic()
        await self._deliver((), dict(self._cursors))

    async def _deliver(self, rows: Sequence[EventRow], ends: Mapping[int, Place]) -> bool:
        begins = {shard: self._cursors[shard] for shard in ends}
        done = await self._delivery.deliver(Batch(rows, ends, begins=begins))
        if done is None:
            return False
        dead: list[DeadLetter] = [
            *done.dead,
            *(
                dead_letter(row, "the sink has another event at its place")
                for row in rows
                if row.shard in done.conflicts
            ),
        ]
        self.tally.dead_letters += len(dead)
        log_dead(self.name, dead)
        reached = ends if done.reached is None else done.reached
        await self._store.note_sink(self.name, reached, dead)
        for shard, end in ends.items():
            if shard in self._cursors:  # else it was given up meanwhile
                self._cursors[shard] = end
        self.tally.lag_events = self._lag()
        return True

    async def _find_cursors(self) -> None:
        """Learn where the sink is on shards that are new to this exporter."""
        new = self._stored.keys() - self._cursors.keys()
        if not new:
            return
        holds, stored = self._holds, dict(self._stored)
        known = await self._store.sink_cursors(self.name)
        from_now = self._delivery.sink.starts == "now"
        first = {s: stored[s] if from_now else START for s in new - known.keys()}
        if first:
            await self._store.note_sink(self.name, first)
        if holds != self._holds:
            return  # another exporter may have had them meanwhile: ask again
        for shard in new:
            self._cursors[shard] = known.get(shard) or first[shard]
        self.tally.lag_events = self._lag()

    def _lag(self) -> int:
        """Events that the store has and the sink has not. Of earlier epochs none is counted."""
        lag = 0
        for shard, stored in self._stored.items():
            cursor = self._cursors.get(shard, START)
            since = cursor.seq if cursor.epoch == stored.epoch else -1
            lag += max(0, stored.seq - since)
        return lag

    async def _idle(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), IDLE_S)
        except TimeoutError:
            return
        self._wake.clear()
