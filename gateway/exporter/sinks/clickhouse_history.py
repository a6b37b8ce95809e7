"""Questions to ClickHouse about the past of reservations and refusals: the part of the reader that looks at
everything."""

from collections.abc import Iterator
from typing import Final

import orjson

from gateway.domain.history import PastUse
from gateway.domain.refusals import RefusalHour
from gateway.exporter.sinks import clickhouse_queries as ask
from gateway.exporter.sinks.clickhouse_sync import ClickHouseReading

_PAIRS: Final = (("release", "settled"), ("release", "expired"), ("expire", "settled"))


class ClickHouseHistory:
    """See `EventStore` for each method."""

    def __init__(self, reading: ClickHouseReading) -> None:
        self._reading = reading
        self._rows = reading.rows

    def contradictions(self) -> list[str]:
        """Describe reservations whose events contradict each other, and ids that are stored twice."""
        found = []
        for line in self._reading.stream(ask.CONTRADICTIONS):
            stem, ids = line["stem"], dict(zip(line["ids"], line["kinds"], strict=True))
            for kind, other in _PAIRS:
                ends = [one for one in ids if ids[one] == kind and stem + other in ids]
                found += [f"{one} and {stem}{other} both ended it" for one in ends]
            if f"{stem}expired" not in ids:
                late = [one for one in ids if ids[one] == "settle_late"]
                found += [f"{one} has no expiry before it" for one in late]
        for line in self._reading.stream(ask.TWICE):
            found.append(f"{line['event_id']} is stored at {line['number']} places")
        return found

    def past_uses(
        self, since_ms: int, until_ms: int, customer_id: str | None = None
    ) -> Iterator[PastUse]:
        """See `UsageHistory`."""
        statement = ask.past_uses(self._reading.server, since_ms, until_ms, customer_id)
        for line in self._reading.stream(statement):
            customer, model, moment_ms, version, usage, charged, tier = line.values()
            yield PastUse(customer, model, moment_ms, version, orjson.loads(usage), charged, tier)

    def count_past_uses(self, since_ms: int, until_ms: int, customer_id: str | None = None) -> int:
        """See `UsageHistory`."""
        statement = ask.count_past_uses(self._reading.server, since_ms, until_ms, customer_id)
        (line,) = self._rows(statement, long=True)
        return int(line["number"])

    def refusals(
        self, since_ms: int | None, until_ms: int | None, customer_id: str | None = None
    ) -> Iterator[RefusalHour]:
        """Refusals by hour, customer, model and reason, in this order."""
        for line in self._reading.stream(ask.refusals(since_ms, until_ms, customer_id)):
            yield RefusalHour(**line)
