"""What a session and its senders say to each other: pickled, each with its length before it.

Both ends are the same program on the same machine.
"""

import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.arrivals import Pace, Spacing
from loadtest.tester.deck import Card
from loadtest.tester.tally import Tally

LENGTH: Final = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Aim:
    """Where one of the loads goes.

    key:          replaces the cards' keys; None leaves them
    pace:         of all processes together; None is closed loop, or a trace
    dues_s:       of a trace: seconds from the start, one for each card, in order
    connections:  of this process
    """

    name: str
    url: str
    ca_file: Path | None
    key: str | None
    cards: Sequence[Card]
    pace: Pace | None
    dues_s: Sequence[float] | None
    connections: int


@dataclass(frozen=True, slots=True)
class Job:
    """What one process of `parts` does. warmup_s comes before the `seconds` that are measured."""

    aims: Sequence[Aim]
    part: int
    parts: int
    spacing: Spacing
    warmup_s: float
    seconds: float
    slice_s: float
    timeout_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class Told:
    """What a process tells once a second."""

    tallies: dict[str, Tally]
    running: int
    waiting: int
    done: bool


def packed(value: Any) -> bytes:
    """A value for the other end."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(data)) + data


def unpacked(data: bytes) -> Any:
    """A value from the other end, without its length."""
    return pickle.loads(data)
