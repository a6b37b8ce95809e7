"""Sends usage to Stripe as meter events, aggregated by customer, meter and hour.

An hour is sent when it is over: when its shard has an event of a later hour, or nothing more is waiting and the
hour ended a while ago. Until then its events are held back (`Written.reached`): the feeder's cursor stays before
them, and after a restart they come again and give the same meter events, whose identifiers Stripe recognises for
24 hours. Events out of this order (a replay) are not taken: sums of other cuts would be billed again.
"""

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import orjson

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.exporter.sink import Batch, Failure, Sink, SinkUnavailable, Written
from gateway.exporter.sinks.billing import (
    AMOUNT,
    Item,
    MissingValue,
    Template,
    billed,
    is_marked,
    item_of,
)
from gateway.exporter.sinks.http_client import gathered
from gateway.exporter.sinks.options_stripe import StripeOptions
from gateway.exporter.sinks.stripe_api import StripeApi
from gateway.exporter.sinks.stripe_windows import MeterEvent, ShardWindows


class StripeSink(Sink):
    """Sends meter events to one Stripe account."""

    name: ClassVar[str] = "stripe"
    starts: ClassVar[Literal["beginning", "now"]] = "now"
    holds_back: ClassVar[bool] = True

    def __init__(self, options: StripeOptions) -> None:
        self._options = options
        self.max_replay_age_ms = options.max_replay_age_ms
        self._customer = Template(options.customer)
        self._api = StripeApi(options)
        self._shards: dict[int, ShardWindows] = {}
        self._fed = False

    def __repr__(self) -> str:
        return f"StripeSink({sorted(self._options.meters.values())})"

    async def open(self) -> Mapping[int, Place]:
        """Connect; checks the key, and that the meters exist where the key may read them."""
        await self._api.open()
        return {}

    async def write(self, batch: Batch) -> Written:
        """Take the events, and send what is complete."""
        if not self._api.is_open:
            raise SinkUnavailable("the sink is not open")
        if batch.begins is not None:
            self._fed = True
            self._align(batch.begins)
        elif not self._fed:
            return self._try_out(batch)
        now_ms = time.time_ns() // 1_000_000
        failed, duplicates, skipped = self._take(batch.rows)
        touched = {row.shard for row in batch.rows} | batch.ends.keys()
        idle = not batch.rows and batch.begins is not None
        for shard in touched & self._shards.keys():
            windows = self._shards[shard]
            windows.feed(batch.ends.get(shard, windows.fed))
            if idle and windows.ended(now_ms - self._options.grace_ms):
                windows.close()
        await self._send([self._shards[s] for s in sorted(touched & self._shards.keys())], failed)
        own = {row.event_id for row in batch.rows}
        lost = sum(failure.row.event_id in own for failure in failed)
        stored = len(batch.rows) - duplicates - skipped - lost
        reached = {s: self._shards[s].boundary for s in touched & self._shards.keys()}
        return Written(stored, duplicates, failed, skipped, reached)

    async def close(self) -> None:
        """Forget what is held back: the feeder gives it again. Close the connections."""
        self._shards = {}
        self._fed = False
        await self._api.close()

    def _align(self, begins: Mapping[int, Place]) -> None:
        """Start again on shards whose feed does not continue here: another exporter had them meanwhile."""
        for shard, place in begins.items():
            windows = self._shards.get(shard)
            if windows is None or not windows.continues(place):
                self._shards[shard] = ShardWindows(self._options.window_ms, place, place, place)
            else:
                windows.begins = place

    @staticmethod
    def _try_out(batch: Batch) -> Written:
        """A marked event has no customer at Stripe, so only the connection is tried out. Raises SinkUnavailable."""
        if all(is_marked(row) for row in batch.rows):
            return Written(0, 0, skipped=len(batch.rows))
        raise SinkUnavailable(
            "Stripe takes events in the outbox's order only; none can be replayed"
        )

    def _take(self, rows: Sequence[EventRow]) -> tuple[list[Failure], int, int]:
        """Count events in their windows: what cannot be, how many were counted before, how many are not billed."""
        failed: list[Failure] = []
        options = self._options
        chosen = {row.event_id for row in billed(rows, options.kinds, test_keys=options.test_keys)}
        duplicates = skipped = 0
        for row in rows:
            windows = self._shards[row.shard]
            if row.place <= windows.fed:
                duplicates += 1
                continue
            values: dict[str, int] = {}
            customer = ""
            if row.event_id in chosen:
                item = item_of(row)
                values = self._values(item)
                try:
                    customer = self._customer.text(item) if values else ""
                except MissingValue as error:
                    failed.append(Failure(row, str(error)))
                    windows.feed(row.place)
                    continue
            skipped += not values
            windows.take(row, customer, values)
        return failed, duplicates, skipped

    def _values(self, item: Item) -> dict[str, int]:
        found: dict[str, int] = {}
        for unit, meter in self._options.meters.items():
            value = item.row.amount_nano if unit == AMOUNT else item.usage.get(unit, 0)
            if value:
                found[meter] = found.get(meter, 0) + value
        return found

    async def _send(self, shards: Sequence[ShardWindows], failed: list[Failure]) -> None:
        """Send what is closed; what is sent or refused is no longer there. Raises SinkUnavailable."""
        waiting = {
            name: (windows, event) for windows in shards for name, event in windows.closed.items()
        }

        async def send(call: Sequence[MeterEvent]) -> None:
            for identifier, reason in (await self._api.send(call)).items():
                windows, event = waiting[identifier]
                del windows.closed[identifier]
                if reason:
                    failed.append(Failure(event.first, _described(event, reason)))

        events = [event for _, event in waiting.values()]
        most = self._api.most
        await gathered(send(events[at : at + most]) for at in range(0, len(events), most))


def _described(event: MeterEvent, reason: str) -> str:
    """For the dead letter of the first event, which speaks for all of them."""
    what = orjson.dumps(
        {
            "identifier": event.identifier,
            "event_name": event.meter,
            "stripe_customer_id": event.customer,
            "value": event.value,
            "events": event.count,
            "last": f"{event.last.epoch}-{event.last.seq}",
        }
    ).decode()
    return f"{reason} for the meter event {what}"
