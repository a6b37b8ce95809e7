"""Metronome: `POST /v1/ingest`, an array of at most 100; numbers are strings.

It tells repeats by transaction_id for 34 days, and takes no older events.
"""

from typing import Any, Final

from gateway.exporter.sinks.billing import properties
from gateway.exporter.sinks.http_recipes.base import DAY_MS, Named, Recipe


def _build(named: Named) -> dict[str, Any]:
    item = named.item
    return {
        "transaction_id": item.id,
        "customer_id": named.customer,
        "event_type": named.event_name,
        "timestamp": item.time,
        "properties": {name: str(value) for name, value in properties(item).items()},
    }


METRONOME: Final = Recipe(
    path="/v1/ingest",
    most=100,
    build=_build,
    probe="/v1/credit-types?limit=1",
    max_replay_age_ms=33 * DAY_MS,
)
