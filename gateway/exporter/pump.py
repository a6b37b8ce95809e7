"""Moves events from the outbox into the required store: read, write, acknowledge, again.

Invariants: the ledger trims only what the sink has committed. A kill at any point repeats work and loses none:
reading starts at what was acknowledged, the sink knows what it has. One event that cannot be delivered
does not block the others, nor does a cluster's node that is away: its shards wait in their outboxes. The
leases of all shards are one key; while its node is away, an exporter stops when its lease ends.
"""

import asyncio
import time
from collections.abc import Sequence, Set

import structlog

from gateway.domain.delivery import DeadLetter
from gateway.exporter.delivery import Delivery, log_dead
from gateway.exporter.holding import Holding
from gateway.exporter.interface import Acknowledger
from gateway.exporter.live import Live
from gateway.exporter.pacing import Pace, PumpOptions
from gateway.exporter.progress import Load, Progress
from gateway.exporter.refusals import count_into
from gateway.exporter.shard_heads import ShardHeads
from gateway.exporter.sharing import Sharing
from gateway.exporter.shut_shards import ShutShards
from gateway.exporter.sink import Batch, Sink, SinkUnavailable
from gateway.exporter.tally import Tally
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.outbox import Outbox

log = structlog.get_logger()


class Pump:
    """One sink's pump: `run` until `stop` is called; what was written by then is delivered."""

    def __init__(
        self,
        outbox: Outbox,
        acknowledger: Acknowledger,
        sink: Sink,
        *,
        options: PumpOptions | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        sharing = sharing or Sharing()
        self.tally = Tally()
        self.live = Live()
        self.followers = sharing.followers
        self._outbox = outbox
        self._acknowledger = acknowledger
        self._sink = sink
        self._options = options or PumpOptions()
        self._pace = Pace(self._options)
        self._delivery = Delivery(sharing.name, sink, self._pace, self.tally)
        self._holding = Holding(sharing.leases, outbox.shard_count, sharing.name)
        self._counter = count_into(sink, sharing.refusals, self.tally, self._holding)
        self._progress = Progress()
        self._heads = ShardHeads(outbox)
        self._shut = ShutShards(acknowledger, self._progress)
        self._servers = sharing.servers
        self._read_from = self._servers()
        self._oldest_ms: int | None = None
        """Time of the oldest event that was read and is not stored."""
        self._ended = asyncio.Event()

    @property
    def held(self) -> frozenset[int]:
        """Shards that are exported here."""
        return self._progress.held & self._holding.shards

    @property
    def halted(self) -> frozenset[int]:
        """Frozen ones of them. They are halted between two loads: the store has all that was read."""
        return self.held & self._progress.halted

    def stop(self, *, grace_s: float = 5.0) -> None:
        """Deliver what the outbox has now, within `grace_s`, then end. A second call only shortens it."""
        self._pace.stop(grace_s)

    async def run(self) -> None:
        """Pump until stopped. Waits out an unavailable ledger or sink; raises only on a bug."""
        following = [asyncio.create_task(follower.run()) for follower in self.followers]
        for task in following:
            task.add_done_callback(self._task_ended)
        if self._counter is not None:
            following.append(asyncio.create_task(self._counter.run()))
            following[-1].add_done_callback(self._task_ended)
        try:
            if not await self._open():
                return
            watch = asyncio.create_task(self._watch())
            watch.add_done_callback(self._task_ended)
            try:
                await self._pump()
            finally:
                self._ended.set()
                await watch  # not cancelled: a client cancelled in a reply may swallow it
        finally:
            for follower in self.followers:
                follower.stop(self._pace.remaining_s)
            if self._counter is not None:
                self._counter.stop()
            await asyncio.gather(*following)  # they read from the store, so it is closed after them
            await self._holding.leave()
            await self._sink.close()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.stop(grace_s=0.0)  # `run` raises what it was: a bug

    async def _open(self) -> bool:
        """Open the sink and take shards. False if stopped before that."""
        attempt = 0
        while not self._pace.stopping or attempt == 0:
            try:
                await self._take_shards()
            except (SinkUnavailable, LedgerUnavailable) as error:
                attempt = await self._delivery.wait(error, attempt)
                continue
            self.tally.waiting = 0
            return True
        return False

    async def _take_shards(self) -> None:
        """Begin with shards that are held, let go of others. Raises SinkUnavailable, LedgerUnavailable."""
        progress = self._progress
        if left := progress.held & self._holding.take_left():
            self._let_go(left)
        if not progress.held:
            await self._sink.open()  # only then it says which store it is
            await self._holding.refresh(self._sink)
        gained = self._gained
        if gained:
            # The heads first: who had the shards may deliver and acknowledge until now, and what is
            # acknowledged in the heads must not be missing from the cursors.
            heads = await self._heads.read()
            cursors = await self._sink.open()
            gained &= heads.keys()
            progress.begin(heads, cursors, gained)
            for shard in gained:
                if await self._shut.behind(shard, heads[shard], cursors.get(shard)):
                    progress.halt(shard, heads[shard].last)
            self._measure()
        self._let_go(self._lost)

    def _let_go(self, shards: Set[int]) -> None:
        self._progress.lose(shards)
        for follower in self.followers:
            follower.hold(self._progress.stored)

    @property
    def _gained(self) -> frozenset[int]:
        """Shards to begin with; one whose node is away waits for a look that finds it."""
        return self._holding.shards - self._progress.held - self._heads.away

    @property
    def _lost(self) -> frozenset[int]:
        return self._progress.held - self._holding.shards

    async def _pump(self) -> None:
        attempt, acknowledged_at = 0, 0.0
        while not self._pace.past_deadline:
            self._shut.apply()
            self._notice_other_servers()
            if time.monotonic() - acknowledged_at >= self._options.acknowledge_s:
                await self._acknowledge()
                acknowledged_at = time.monotonic()
            try:
                if self._holding.interrupted or self._gained or self._lost:
                    await self._take_shards()
                if self._progress.doubted:
                    self._progress.rewind(await self._heads.read())
                load = await self._read()
            except (SinkUnavailable, LedgerUnavailable) as error:
                attempt = await self._delivery.wait(error, attempt)
                continue
            attempt = self.tally.waiting = 0
            if load is not None:
                if not await self._deliver(load):
                    return
                if len(load.rows) * 2 < self._options.batch_limit:
                    await self._pace.pause(self._options.linger_s)
            elif self._pace.stopping:
                if await self._acknowledge():
                    return
                await self._pace.pause(self._pace.backoff_s(attempt))

    def _notice_other_servers(self) -> bool:
        servers = self._servers()
        other, self._read_from = servers != self._read_from, servers
        if other:
            self._progress.doubt()
        return other

    async def _read(self) -> Load | None:
        """Read the next load, or None if there was nothing to read."""
        progress = self._progress
        quick = progress.has_news or self._pace.stopping
        tails = await self._outbox.read(
            progress.read_to,
            limit=self._options.batch_limit,
            block_ms=0 if quick else self._options.block_ms,
            skip=progress.unread(self._outbox.shard_count),
        )
        if self._notice_other_servers():
            return None  # the old one and the new one may both have answered
        return progress.take(tails) if tails or progress.has_news else None

    async def _deliver(self, load: Load) -> bool:
        """Write one load until the store has everything. False if stopped before that."""
        self._oldest_ms = min((row.occurred_at_ms for row in load.rows), default=None)
        done = await self._delivery.deliver(
            Batch(load.rows, load.ends, load.dead, load.anomalies, load.signals)
        )
        if done is None:
            return False
        for shard in done.conflicts:
            self._halt_in(load, shard)
        self._oldest_ms = None
        new_rows = self._progress.new_rows(load)
        self._progress.committed(load)
        self.live.add(new_rows)
        self._report(load, [*load.dead, *done.dead])
        for follower in self.followers:
            follower.offer(load)
        return True

    def _report(self, load: Load, dead: Sequence[DeadLetter]) -> None:
        self.tally.dead_letters += len(dead)
        self.tally.anomalies += len(load.anomalies)
        log_dead(self._delivery.name, dead)
        for item in load.anomalies:
            after, found = (f"{each.epoch}-{each.seq}" for each in (item.after, item.found))
            log.error("anomaly", kind=item.kind, shard=item.shard, after=after, found=found)

    async def _acknowledge(self) -> bool:
        """Acknowledge to the ledger what the sink has committed. False if some of it must be retried.

        A shard that has lost a tail refuses; the others go on, and `_watch` notices.
        """
        waiting, self._progress.unacknowledged = self._progress.unacknowledged, {}
        answers = await asyncio.gather(
            *(self._acknowledger.ack(shard, *end) for shard, end in waiting.items()),
            return_exceptions=True,
        )
        left = self._progress.unacknowledged
        for (shard, end), answer in zip(waiting.items(), answers, strict=True):
            if isinstance(answer, LedgerUnavailable):
                left[shard] = end
            elif isinstance(answer, BaseException):
                raise answer
        return not left

    def _halt_in(self, load: Load, shard: int) -> None:
        """Drop a shard from a load and leave it alone: its places belong to other events than the stored ones."""
        end = load.ends.pop(shard)
        del load.begins[shard]
        load.rows = [row for row in load.rows if row.shard != shard]
        self._progress.halt(shard, end)
        self._shut.conflicts[shard] = end
        log.error("shard_conflicts_with_store", shard=shard, place=f"{end.epoch}-{end.seq}")

    # Watching

    async def _watch(self) -> None:
        """Watch lag and lost shards in a separate task: the lag is known while the sink is down."""
        while not await self._end_within(self._options.watch_s):
            stored = dict(self._progress.stored)  # before asking: it cannot be ahead of the answer
            try:
                await self._holding.refresh(self._sink)
                self.tally.standing_by = int(self._holding.standing_by)
                self.tally.shards_held = len(self._holding.shards)
                heads = await self._heads.read()
            except LedgerUnavailable:
                continue
            await self._shut.look_at(heads, stored)
            self._measure()

    def _measure(self) -> None:
        """Ages are from the ledger's clock and this machine's: off by the difference of the two."""
        self.tally.lag_events = self._progress.lag_events(self._heads.known)
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
