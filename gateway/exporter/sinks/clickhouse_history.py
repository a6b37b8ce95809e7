"""Questions to ClickHouse about the past of reservations, refusals and statements: a part of the reader."""

from collections.abc import Iterator
from typing import Final

import orjson

from gateway.domain.history import PastUse
from gateway.domain.refusals import RefusalHour
from gateway.domain.stores import ClosedStatement
from gateway.domain.usage_sums import UsageQuestion, UsageSum
from gateway.exporter.sinks import clickhouse_queries as ask
from gateway.exporter.sinks import clickhouse_reservations as reservations
from gateway.exporter.sinks.clickhouse_protocol import literal
from gateway.exporter.sinks.clickhouse_sync import ClickHouseReading
from gateway.exporter.sinks.clickhouse_usage import usage_by

_PAIRS: Final = (("release", "settled"), ("release", "expired"), ("expire", "settled"))


class ClickHouseHistory:
    """See `EventStore` for each method."""

    def __init__(self, reading: ClickHouseReading) -> None:
        self._reading = reading
        self._rows = reading.rows

    def contradictions(self) -> list[str]:
        """Describe reservations whose events contradict each other, and ids that are stored twice."""
        found = []
        for line in self._reading.stream(reservations.CONTRADICTIONS):
            stem, ids = line["stem"], dict(zip(line["ids"], line["kinds"], strict=True))
            for kind, other in _PAIRS:
                ends = [one for one in ids if ids[one] == kind and stem + other in ids]
                found += [f"{one} and {stem}{other} both ended it" for one in ends]
            if f"{stem}expired" not in ids:
                late = [one for one in ids if ids[one] == "settle_late"]
                found += [f"{one} has no expiry before it" for one in late]
        for line in self._reading.stream(reservations.TWICE):
            found.append(f"{line['event_id']} is stored at {line['number']} places")
        return found

    def past_uses(
        self, since_ms: int, until_ms: int, customer_id: str | None = None
    ) -> Iterator[PastUse]:
        """See `UsageHistory`."""
        statement = reservations.past_uses(self._reading.server, since_ms, until_ms, customer_id)
        for line in self._reading.stream(statement):
            customer, model, moment_ms, version, usage, charged, tier = line.values()
            yield PastUse(customer, model, moment_ms, version, orjson.loads(usage), charged, tier)

    def count_past_uses(self, since_ms: int, until_ms: int, customer_id: str | None = None) -> int:
        """See `UsageHistory`."""
        statement = reservations.count_past_uses(
            self._reading.server, since_ms, until_ms, customer_id
        )
        (line,) = self._rows(statement, long=True)
        return int(line["number"])

    def usage_by(self, question: UsageQuestion) -> list[UsageSum]:
        """See `EventStore`."""
        return usage_by(self._rows, question)

    def refusals(
        self, since_ms: int | None, until_ms: int | None, customer_id: str | None = None
    ) -> Iterator[RefusalHour]:
        """Refusals by hour, customer, model and reason, in this order."""
        for line in self._reading.stream(ask.refusals(since_ms, until_ms, customer_id)):
            yield RefusalHour(**line)

    def closed_statement(self, customer_id: str, period: str) -> ClosedStatement | None:
        """See `EventStore`."""
        chosen = f"customer_id = {literal(customer_id)} AND period = {literal(period)}"
        return self._statement(chosen)

    def last_closed_statement(
        self, customer_id: str, before: str | None = None
    ) -> ClosedStatement | None:
        """See `EventStore`."""
        earlier = "" if before is None else f" AND period < {literal(before)}"
        return self._statement(f"customer_id = {literal(customer_id)}{earlier}")

    def _statement(self, condition: str) -> ClosedStatement | None:
        found = self._rows(_last_statement(condition))
        return ClosedStatement(**found[0]) if found else None


def _last_statement(condition: str) -> str:
    """The closed statement of the highest period."""
    return (
        "SELECT customer_id, period, document, sha256, closed_at_ms FROM statements FINAL"  # noqa: S608 - literals
        f" WHERE {condition} ORDER BY period DESC LIMIT 1"
    )
