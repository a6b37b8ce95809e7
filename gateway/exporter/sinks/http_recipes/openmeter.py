"""OpenMeter: `POST /api/v1/events`, CloudEvents in a batch, 204.

It tells repeats by (source, id), for 32 days by default. A batch that failed may have been accepted in part,
so it is sent again in halves until the wrong event is alone.
"""

from typing import Final

from gateway.exporter.sinks.http_recipes.base import DAY_MS, Recipe
from gateway.exporter.sinks.http_recipes.cloudevents import build

OPENMETER: Final = Recipe(
    path="/api/v1/events",
    most=100,
    build=build,
    content_type="application/cloudevents-batch+json",
    probe="/api/v1/meters",
    max_replay_age_ms=31 * DAY_MS,
)
