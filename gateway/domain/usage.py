"""Quantities per token class or unit, as facts that a provider reports or the gate counts.

Law: the pools exclude each other. `input` is what was neither read from nor written to a
cache, `output` what is neither reasoning nor audio: nothing is counted twice. The numbers
are the wire format of the scripts and of stored holds: append, never renumber.
"""

from collections.abc import Mapping
from typing import Final, Literal

UNIT_NUMBERS: Final[Mapping[str, int]] = {
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
"""Number of each unit in packed rows."""

UNIT_NAMES: Final[Mapping[int, str]] = {number: name for name, number in UNIT_NUMBERS.items()}

CHARGED_AS: Final[Mapping[str, str]] = {
    "cache_read": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "audio_input": "input",
    "image_input": "input",
    "reasoning": "output",
    "audio_output": "output",
}
"""A class without a price of its own is charged as this one."""

TOKEN_UNITS: Final = frozenset(unit for unit, number in UNIT_NUMBERS.items() if number < 20)
"""Units that are tokens, and priced by the million; the others are priced for one."""

TEXT_INPUT: Final = frozenset({"input", "cache_read", "cache_write", "cache_write_1h"})
TEXT_OUTPUT: Final = frozenset({"output", "reasoning"})

Usage = Mapping[str, int]
"""Unit name → quantity. Absent means none."""

UsageSource = Literal["provider_reported", "counted", "estimated"]
