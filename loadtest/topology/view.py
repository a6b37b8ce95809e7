"""What a node says of the cluster: CLUSTER NODES, parsed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SLOTS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Member:
    """One line of CLUSTER NODES: a member as another one, or it itself, sees it.

    primary_id: of a replica; empty for a primary
    epoch:      its configuration epoch; of two owners of a slot the one with the higher epoch owns
    slots:      what it owns, without slots on their way in or out
    """

    node_id: str
    flags: frozenset[str]
    primary_id: str
    epoch: int
    slots: frozenset[int]

    @property
    def is_self(self) -> bool:
        """Whether this is the node that was asked."""
        return "myself" in self.flags

    @property
    def is_primary(self) -> bool:
        """Whether it takes writes. Redis and Valkey both write `master` here."""
        return "master" in self.flags

    @property
    def is_unsettled(self) -> bool:
        """Whether the one asked does not know it yet, or has lost it."""
        return not self.flags.isdisjoint({"handshake", "noaddr", "fail", "fail?"})

    @property
    def role(self) -> tuple[str, str, frozenset[int]]:
        """What all members must agree on."""
        return self.node_id, self.primary_id, self.slots


def parse_nodes(text: str) -> list[Member]:
    """Parse the answer to CLUSTER NODES."""
    return [_parse_line(line.split()) for line in text.splitlines() if line]


def slots_of(members: Iterable[Member]) -> int:
    """Count the slots that somebody owns."""
    return len(frozenset().union(*(member.slots for member in members)))


def _parse_line(words: list[str]) -> Member:
    node_id, _, flags, primary_id, _, _, epoch, _, *ranges = words
    slots: set[int] = set()
    for one in ranges:
        if not one.startswith("["):  # [slot->-target] and [slot-<-source] are on their way
            first, _, last = one.partition("-")
            slots.update(range(int(first), int(last or first) + 1))
    return Member(
        node_id=node_id,
        flags=frozenset(flags.split(",")),
        primary_id="" if primary_id == "-" else primary_id,
        epoch=int(epoch),
        slots=frozenset(slots),
    )
