"""A body that the configuration describes: one template for each path of an item."""

from collections.abc import Mapping
from typing import Any

from gateway.exporter.sinks.billing import Template
from gateway.exporter.sinks.http_recipes.base import Named, Recipe


def custom(item: Mapping[str, str], wrap: str) -> Recipe:
    """A recipe for these templates by dotted path. wrap: name of the list; "": the list is the body"""
    fields = [(path.split("."), Template(text)) for path, text in item.items()]

    def build(named: Named) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for path, template in fields:
            inner = built
            for step in path[:-1]:
                inner = inner.setdefault(step, {})
            inner[path[-1]] = template.value(named.item)
        return built

    def wrapped(items: list[dict[str, Any]]) -> Any:
        return {wrap: items} if wrap else items

    return Recipe(path="", most=100, build=build, wrap=wrapped)
