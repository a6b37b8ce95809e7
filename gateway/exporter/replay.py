"""Sends stored events to one sink again, and one marked event to try a sink out."""

import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import orjson

from gateway.domain.event_rows import EventRow
from gateway.exporter.delivery import Delivery
from gateway.exporter.pacing import Pace, PumpOptions
from gateway.exporter.sink import Batch, Sink, SinkUnavailable, Written
from gateway.exporter.tally import Tally

TEST_CUSTOMER: Final = "creditgate-test"
"""The customer of the event that `export test` sends."""
TEST_SHARD: Final = 9999
"""Its shard: no ledger has so many."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a replay: stored + duplicates + dead = sent."""

    stored: int
    duplicates: int
    dead: int


async def replay(
    name: str, sink: Sink, rows: Iterable[EventRow], report: Callable[[int], None]
) -> Replayed:
    """Send rows in batches; the sink's cursors stay. report: called with the number sent so far.

    Each event has the id and time that it had the first time, so that the receiver recognises it.
    Raises SinkUnavailable when the sink cannot be opened, or has been away for a minute.
    """
    pace, tally = Pace(PumpOptions()), Tally()
    delivery = Delivery(name, sink, pace, tally)
    dead = sent = 0
    try:
        await sink.open()
        for batch in _batches(rows, PumpOptions().batch_limit):
            pace.allow(60)
            done = await delivery.deliver(Batch(batch))
            if done is None:
                raise SinkUnavailable(f"{name} has been away for a minute; run this again")
            dead += len(done.dead)
            sent += len(batch)
            report(sent)
    finally:
        await sink.close()
    return Replayed(tally.delivered, tally.duplicates, dead)


async def send_test_event(sink: Sink) -> tuple[EventRow, Written]:
    """Write one marked event of no charge, of the customer `creditgate-test`.

    Raises SinkUnavailable.
    """
    row = marked_event(time.time_ns() // 1_000_000)
    try:
        await sink.open()
        return row, await sink.write(Batch([row]))
    finally:
        await sink.close()


def marked_event(now_ms: int) -> EventRow:
    """A settlement of nothing, marked by `"test": true` in its facts."""
    request_id = f"test-{secrets.token_hex(8)}"
    facts = {"request_id": request_id, "model": "test", "livemode": False, "test": True}
    return EventRow(
        event_id=f"{request_id}:settled",
        shard=TEST_SHARD,
        epoch=1,
        seq=now_ms,
        kind="settle",
        occurred_at_ms=now_ms,
        customer_id=TEST_CUSTOMER,
        project_id=None,
        key_id=None,
        request_id=request_id,
        route=None,
        model="test",
        upstream=None,
        livemode=False,
        price_version=None,
        amount_nano=0,
        estimated_amount_nano=0,
        cost_nano=None,
        balance_nano=0,
        usage="{}",
        allocations="[]",
        facts=orjson.dumps(facts).decode(),
    )


def _batches(rows: Iterable[EventRow], size: int) -> Iterator[list[EventRow]]:
    waiting = iter(rows)
    while batch := list(itertools.islice(waiting, size)):
        yield batch
