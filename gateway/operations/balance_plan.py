"""Which slots should move so that the nodes of a cluster have even loads. Pure.

Greedy: as long as a node is too far from the mean, the busiest gives a slot to the one that has
least: the slot whose load is nearest to what one has too much, or the other too little. Each step lowers the sum
of the squares, so it ends, and the busiest node never gets busier. A slot that would move twice moves
once.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlacedSlot:
    """A slot of the ledger. load: in any unit, an integer so that sums are exact"""

    slot: int
    node: str
    load: int


@dataclass(frozen=True, slots=True)
class SlotMove:
    """A slot that should move from one node to another."""

    slot: int
    source: str
    target: str
    load: int


@dataclass(frozen=True, slots=True)
class BalancePlan:
    """Moves, the largest first, and each node's load without and with them."""

    moves: Sequence[SlotMove]
    before: Mapping[str, int]
    after: Mapping[str, int]

    def imbalance(self, loads: Mapping[str, int]) -> float | None:
        """The busiest node's load over the mean; None while there is no load."""
        total = sum(loads.values())
        return max(loads.values()) * len(loads) / total if total else None


def plan_moves(slots: Sequence[PlacedSlot], nodes: Sequence[str], tolerance: float) -> BalancePlan:
    """Plan as few and as small moves as the greedy way finds.

    nodes:     all that may have slots; those that have none yet too
    tolerance: how far a node may be from the mean, as a fraction of it, before anything moves
    """
    before = dict.fromkeys(nodes, 0)
    here: dict[str, dict[int, int]] = defaultdict(dict)
    for each in slots:
        before[each.node] += each.load
        here[each.node][each.slot] = each.load
    loads = dict(before)
    while step := _next_step(loads, here, tolerance):
        slot, source, target = step
        load = here[source].pop(slot)
        here[target][slot] = load
        loads[source] -= load
        loads[target] += load
    now = {slot: node for node, its in here.items() for slot in its}
    moves = [
        SlotMove(each.slot, each.node, now[each.slot], each.load)
        for each in slots
        if now[each.slot] != each.node
    ]
    moves.sort(key=lambda move: (-move.load, move.slot))
    return BalancePlan(moves, before, loads)


def _next_step(
    loads: Mapping[str, int], here: Mapping[str, Mapping[int, int]], tolerance: float
) -> tuple[int, str, str] | None:
    """A slot, where it is and where it should go; None when nothing is to be gained.

    Loads are compared with the mean times the number of nodes, so that all is in integers.
    """
    count, total = len(loads), sum(loads.values())
    by_load = sorted(loads, key=lambda node: (loads[node], node))
    if not total or (
        loads[by_load[-1]] * count <= total * (1 + tolerance)
        and loads[by_load[0]] * count >= total * (1 - tolerance)
    ):
        return None
    for source in reversed(by_load):
        if loads[source] * count <= total:
            return None
        for target in by_load:
            if loads[target] * count >= total:
                break
            gap = loads[source] - loads[target]
            wanted = min(loads[source] * count - total, total - loads[target] * count)
            fitting = [slot for slot, load in here.get(source, {}).items() if 0 < load < gap]
            if fitting:
                best = min(
                    fitting, key=lambda slot: (abs(here[source][slot] * count - wanted), slot)
                )
                return best, source, target
    return None
