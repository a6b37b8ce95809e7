"""A limit as records keep it: an array of its fields."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Any

from gateway.domain.limits import Limit


def limit_fields(limits: Iterable[Limit]) -> list[tuple[Any, ...]]:
    """Each limit as an array of its fields, in their order."""
    return [astuple(limit) for limit in limits]


def read_limits(fields: Iterable[Sequence[Any]]) -> tuple[Limit, ...]:
    """The limits that `limit_fields` has packed."""
    return tuple(Limit(*each) for each in fields)
