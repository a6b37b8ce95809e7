"""Receivers of usage over HTTP, one module each. A new one is a module and a line here."""

from collections.abc import Mapping
from typing import Final

from gateway.exporter.sinks.http_recipes.base import Recipe
from gateway.exporter.sinks.http_recipes.cloudevents import CLOUDEVENTS
from gateway.exporter.sinks.http_recipes.flexprice import FLEXPRICE
from gateway.exporter.sinks.http_recipes.lago import LAGO
from gateway.exporter.sinks.http_recipes.metronome import METRONOME
from gateway.exporter.sinks.http_recipes.openmeter import OPENMETER
from gateway.exporter.sinks.http_recipes.orb import ORB

RECIPES: Final[Mapping[str, Recipe]] = {
    "cloudevents": CLOUDEVENTS,
    "openmeter": OPENMETER,
    "lago": LAGO,
    "flexprice": FLEXPRICE,
    "orb": ORB,
    "metronome": METRONOME,
}
