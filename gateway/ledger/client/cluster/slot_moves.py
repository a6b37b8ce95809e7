"""What a move of slots is, and how it fails."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gateway.ledger.client.cluster.members import Primary

Way = Literal["valkey_jobs", "redis_jobs", "keys"]
"""How slots move here: `CLUSTER MIGRATESLOTS`, `CLUSTER MIGRATION IMPORT`, or key by key."""
Report = Callable[[int, int], None]
"""Called with the keys that have moved, of how many; where they move key by key."""


class CannotMove(Exception):
    """The servers refuse to move slots, or failed to. The message says why, and where the slots are."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Slots that go from one primary to another: still to be begun, or left under way by an earlier run.

    target_id: where they go; it may be gone
    """

    slots: tuple[int, ...]
    source: Primary
    target_id: str
    way: Way
