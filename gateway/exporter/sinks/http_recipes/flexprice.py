"""Flexprice: `POST /v1/events/bulk`, at most 1000, 202.

Events are one if event_id and timestamp are both equal, for any time: both come from the event.
"""

from typing import Any, Final

from gateway.exporter.sinks.billing import properties
from gateway.exporter.sinks.http_recipes.base import Named, Recipe, as_events


def _build(named: Named) -> dict[str, Any]:
    item = named.item
    return {
        "event_name": named.event_name,
        "external_customer_id": named.customer,
        "event_id": item.id,
        "timestamp": item.time,
        "source": named.source,
        "properties": properties(item),
    }


FLEXPRICE: Final = Recipe(
    path="/v1/events/bulk",
    most=1000,
    build=_build,
    wrap=as_events,
    key_header="x-api-key",
    key_prefix="",
    probe="/v1/features?limit=1",
)
