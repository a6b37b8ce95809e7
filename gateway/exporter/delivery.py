"""Writes one batch into one sink until the sink has all of it: retries, dead letters, replay age.

Used by the pump for the required store and by each follower for its sink. Invariants: only what failed is
sent again; one event that cannot be delivered does not hold up the others.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson
import structlog

from gateway.domain.delivery import DeadLetter, Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.pacing import Pace
from gateway.exporter.sink import Batch, Failure, Sink, SinkUnavailable
from gateway.exporter.tally import Tally

log = structlog.get_logger()


@dataclass(slots=True)
class Delivered:
    """dead: events that were given up; conflicts: shards of whose places the sink has other events;
    reached: see `Written`"""

    dead: list[DeadLetter] = field(default_factory=list)
    conflicts: set[int] = field(default_factory=set)
    reached: Mapping[int, Place] | None = None


class Delivery:
    """Deliver batches to one sink. name: of the sink as configured, for logs."""

    def __init__(self, name: str, sink: Sink, pace: Pace, tally: Tally) -> None:
        self.name = name
        self.sink = sink
        self._pace = pace
        self._tally = tally

    async def deliver(self, batch: Batch) -> Delivered | None:
        """Write a batch until the sink has it; None if stopped before that.

        What is given up is written with the batch, so that a store keeps it in the same transaction.
        A shard whose places are taken is left out from then on: its entries must stay in the outbox.
        """
        done = Delivered()
        young, done.dead = self._young_enough(batch.rows)
        batch = replace(batch, rows=young, dead=[*batch.dead, *done.dead])
        attempt = 0
        while True:
            try:
                if self._tally.waiting:
                    await self.sink.open()
                written = await self.sink.write(batch)
            except SinkUnavailable as error:
                attempt = await self.wait(error, attempt)
                if self._pace.past_deadline:
                    return None
                continue
            self._tally.waiting = 0
            self._tally.batches += 1
            self._tally.delivered += written.stored
            self._tally.duplicates += written.duplicates
            done.reached = written.reached
            if not written.failed:
                return done
            attempt += 1
            batch = self._again(batch, written.failed, attempt, done)
            if batch.rows:
                await self._pace.pause(self._pace.backoff_s(attempt))
                if self._pace.past_deadline:
                    return None

    async def wait(self, error: Exception, attempt: int) -> int:
        """Back off before retrying; return the number of the next attempt."""
        self._tally.waiting = 1
        self._tally.retries += 1
        log.warning("exporter_waits", sink=self.name, reason=str(error), attempt=attempt)
        await self._pace.pause(self._pace.backoff_s(attempt))
        return attempt + 1

    def _again(
        self, batch: Batch, failed: Sequence[Failure], attempt: int, done: Delivered
    ) -> Batch:
        """What remains of a batch after these failures."""
        taken = {failure.row.shard for failure in failed if failure.place_taken}
        done.conflicts |= taken
        failed = [failure for failure in failed if failure.row.shard not in taken]
        last = attempt >= self._pace.options.attempts
        again = [failure.row for failure in failed if failure.retry and not last]
        buried = [dead_letter(f.row, f.reason) for f in failed if last or not f.retry]
        done.dead = [letter for letter in done.dead if letter.shard not in taken] + buried
        return Batch(
            again,
            {shard: end for shard, end in batch.ends.items() if shard not in taken},
            [*(letter for letter in batch.dead if letter.shard not in taken), *buried],
            batch.anomalies,
            batch.signals,
        )

    def _young_enough(
        self, rows: Sequence[EventRow]
    ) -> tuple[Sequence[EventRow], list[DeadLetter]]:
        """Separate the events that the receiver could no longer recognise as duplicates."""
        if self.sink.max_replay_age_ms is None:
            return rows, []
        oldest_ms = time.time() * 1000 - self.sink.max_replay_age_ms
        return (
            [row for row in rows if row.occurred_at_ms >= oldest_ms],
            [
                dead_letter(row, "older than the sink's max_replay_age")
                for row in rows
                if row.occurred_at_ms < oldest_ms
            ],
        )


def dead_letter(row: EventRow, reason: str) -> DeadLetter:
    """Keep an event that was read but could not be delivered as a dead letter."""
    payload = orjson.dumps(row._asdict())
    return DeadLetter(row.shard, row.epoch, row.seq, row.event_id, reason, payload)


def log_dead(sink: str, dead: Sequence[DeadLetter]) -> None:
    """Say what was given up."""
    for letter in dead:
        log.error(
            "dead_letter",
            sink=sink,
            shard=letter.shard,
            place=f"{letter.epoch}-{letter.seq}",
            event_id=letter.event_id,
            reason=letter.reason,
        )
