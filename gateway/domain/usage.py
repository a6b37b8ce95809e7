"""Quantities per token class or unit, as facts that a provider reports or the gate counts.

Invariants: the pools exclude each other. `input` is what was neither read from nor written to a
cache, `output` what is neither reasoning nor audio: nothing is counted twice. The numbers
are the wire format of the scripts and of stored holds: append, never renumber.

A service tier (a slower or faster lane of the provider) has units of its own, `flex.input`: one
table of prices holds all tiers, and a vector of quantities says which one was served.
"""

from collections.abc import Mapping
from typing import Final, Literal

DEFAULT_TIER: Final = "default"
SERVICE_TIERS: Final[Mapping[str, int]] = {
    DEFAULT_TIER: 0,
    "flex": 1,
    "priority": 2,
    "scale": 3,
    "performance": 4,
}
"""Number of each service tier: its units are numbered from 32 times that."""

_NUMBERS: Final[Mapping[str, int]] = {
    "input": 1,
    "cache_read": 2,
    "cache_write": 3,
    "cache_write_1h": 4,
    "output": 5,
    "reasoning": 6,
    "audio_input": 7,
    "audio_output": 8,
    "image_input": 9,
    "request": 20,
    "tool_call": 21,
    "second": 22,
    "byte": 23,
    "image": 24,
    "item": 25,
}
_PARENTS: Final[Mapping[str, str]] = {
    "cache_read": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "reasoning": "output",
    "audio_output": "output",
}


def in_tier(unit: str, tier: str) -> str:
    """Return a unit of a service tier, `flex.input`; in the default tier it is the plain name."""
    return unit if tier == DEFAULT_TIER else f"{tier}.{unit}"


def without_tier(unit: str) -> str:
    """Return `input` for `flex.input`."""
    return unit.rpartition(".")[2]


def tier_of(unit: str) -> str:
    """Return `flex` for `flex.input`."""
    return unit.rpartition(".")[0] or DEFAULT_TIER


UNIT_NUMBERS: Final[Mapping[str, int]] = {
    in_tier(unit, tier): 32 * tier_number + number
    for tier, tier_number in SERVICE_TIERS.items()
    for unit, number in _NUMBERS.items()
}
"""Number of each unit in packed rows."""

UNIT_NAMES: Final[Mapping[int, str]] = {number: name for name, number in UNIT_NUMBERS.items()}

CHARGED_AS: Final[Mapping[str, str]] = {
    in_tier(unit, tier): in_tier(parent, tier)
    for tier in SERVICE_TIERS
    for unit, parent in _PARENTS.items()
}
"""Parent of each class: a class without a price is charged as its parent."""

TEXT_INPUT: Final = frozenset({"input", "cache_read", "cache_write", "cache_write_1h"})
TEXT_OUTPUT: Final = frozenset({"output", "reasoning"})

TOKEN_UNITS: Final = frozenset(unit for unit, number in UNIT_NUMBERS.items() if number % 32 < 20)
"""Units that are tokens, priced per million; the others are priced per unit."""

OUTPUT_UNITS: Final = ("output", "reasoning", "audio_output")
"""Output classes, in the order in which a surplus is subtracted."""

Usage = Mapping[str, int]
"""Unit name → quantity. Absent means none."""

UsageSource = Literal["provider_reported", "counted", "estimated"]


def usage_in_tier(usage: Usage, tier: str) -> Usage:
    """Rename quantities to units of a service tier, for a vector of its prices."""
    if tier == DEFAULT_TIER:
        return usage
    return {in_tier(unit, tier): quantity for unit, quantity in usage.items()}
