"""Where each shard lives, and what it has to do: `shards show`."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.ledger.client.cluster.members import Primary, owners
from gateway.ledger.nodes import LedgerNodes
from gateway.ledger.shard_loads import GLOBAL, Memory, ShardHead, entries_between

Progress = Callable[[str, int, int], None]
Measure = Literal["rate", "memory", "count"]
State = Literal["open", "frozen", "moving", "away"]
_TICK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """One shard, or the keys that belong to none (`number` is None).

    slot:                of a cluster; None on a single server
    node:                HOST:PORT; "" where no node is known to have it
    milli_rate:          entries of the outbox in a thousand seconds
    memory_bytes, backlog, milli_rate: None where they could not be read, and for what has none
    """

    number: int | None
    slot: int | None
    node: str
    state: State
    milli_rate: int | None
    memory_bytes: int | None
    backlog: int | None

    def load(self, measure: Measure) -> int | None:
        """How much of it the node has: thousandths of entries a second, bytes, or 1."""
        if measure == "count":
            return 1
        return self.milli_rate if measure == "rate" else self.memory_bytes


@dataclass(frozen=True, slots=True)
class NodeTotals:
    """One node: the sums over its shards, as far as they are known. node_id: "" for a single server

    memory_bytes: None where that of none of its shards could be read
    """

    name: str
    node_id: str
    away: bool
    shards: int
    has_global_keys: bool
    milli_rate: int
    memory_bytes: int | None
    backlog: int


@dataclass(frozen=True, slots=True)
class Places:
    """All nodes and shards. seconds: over which rates were measured; 0 where they were not

    notes: sentences on what is estimated or missing
    """

    is_cluster: bool
    seconds: float
    primaries: Sequence[Primary]
    nodes: Sequence[NodeTotals]
    shards: Sequence[ShardPlace]
    notes: Sequence[str]

    def imbalance(self, measure: Measure) -> float | None:
        """The busiest node's load over the mean of all nodes; None while there is no load."""
        loads = [
            {"rate": node.milli_rate, "memory": node.memory_bytes or 0, "count": node.shards}[
                measure
            ]
            for node in self.nodes
            if not node.away
        ]
        total = sum(loads)
        return max(loads) * len(loads) / total if total else None


async def find_places(
    nodes: LedgerNodes, seconds: float, progress: Progress, *, with_memory: bool = True
) -> Places:
    """Where every shard lives.

    seconds:     for which rates are measured, 0 to measure none
    with_memory: ask for the memory of some keys of each shard

    Raises LedgerUnavailable when no server answers.
    """
    primaries = await nodes.primaries()
    before, began_s = await nodes.heads(), time.monotonic()
    memory = await nodes.memory(primaries) if with_memory else Memory({}, estimated=False)
    while (passed_s := time.monotonic() - began_s) < seconds:
        progress("measuring", round(passed_s * 10), round(seconds * 10))
        await asyncio.sleep(min(_TICK_S, seconds - passed_s))
    after = before
    if seconds:
        after = await nodes.heads()
        passed_s = time.monotonic() - began_s
        progress("measuring", round(seconds * 10), round(seconds * 10))
    shards = _shards(nodes, primaries, memory, (before, after, passed_s if seconds else 0.0))
    totals = [_totals(each.name, each.node_id, each.away, shards) for each in primaries]
    if not nodes.is_cluster:
        totals = [_totals(nodes.shown, "", False, shards)]
    notes = _notes(nodes, memory, shards)
    return Places(nodes.is_cluster, passed_s if seconds else 0.0, primaries, totals, shards, notes)


_Heads = tuple[Sequence[ShardHead | None], Sequence[ShardHead | None], float]


def _shards(
    nodes: LedgerNodes, primaries: Sequence[Primary], memory: Memory, heads: _Heads
) -> list[ShardPlace]:
    owner_of = owners(primaries)
    moving = {slot for each in primaries for slot in (*each.member.leaving, *each.member.arriving)}
    before, after, passed_s = heads
    found = []
    for number in (*range(len(after)), GLOBAL):
        slot = nodes.slots[number] if nodes.is_cluster else None
        owner = owner_of.get(slot) if slot is not None else None
        head = None if number == GLOBAL else after[number]
        state: State = "open"
        if slot is not None and (owner is None or owner.away):
            state = "away"
        elif slot in moving:
            state = "moving"
        elif head is not None and head.frozen:
            state = "frozen"
        written = None
        if number != GLOBAL and passed_s:
            written = entries_between(before[number], head)
        found.append(
            ShardPlace(
                number=None if number == GLOBAL else number,
                slot=slot,
                node=(owner.name if owner else "") if nodes.is_cluster else nodes.shown,
                state=state,
                milli_rate=None if written is None else round(written * 1000 / passed_s),
                memory_bytes=memory.bytes_of.get(number),
                backlog=None if head is None else head.backlog,
            )
        )
    return found


def _totals(name: str, node_id: str, away: bool, shards: Sequence[ShardPlace]) -> NodeTotals:
    here = [each for each in shards if each.node == name]
    known = [each.memory_bytes for each in here if each.memory_bytes is not None]
    return NodeTotals(
        name=name,
        node_id=node_id,
        away=away,
        shards=sum(each.number is not None for each in here),
        has_global_keys=any(each.number is None for each in here),
        milli_rate=sum(each.milli_rate or 0 for each in here),
        memory_bytes=sum(known) if known or not here else None,
        backlog=sum(each.backlog or 0 for each in here),
    )


def _notes(nodes: LedgerNodes, memory: Memory, shards: Sequence[ShardPlace]) -> list[str]:
    notes = []
    if memory.bytes_of and memory.estimated:
        notes.append("Memory is estimated from a sample of each shard's keys.")
    if memory.problem:
        notes.append(f"Memory could not be read: {memory.problem}")
    shared = sum(len(each) > 1 for each in nodes.shards_in.values())
    if nodes.is_cluster and shared:
        notes.append(
            f"{shared} slots have several shards, which can only move together; their memory is"
            " divided evenly."
        )
    if lost := [each for each in shards if each.state == "away"]:
        named = ", ".join("global keys" if s.number is None else str(s.number) for s in lost)
        notes.append(f"Away, with their customers refused: shards {named}.")
    return notes


def places_document(places: Places) -> dict[str, Any]:
    """The places as a JSON document. Rates are entries of the outbox a second."""
    measures: tuple[Measure, ...] = ("rate", "memory", "count")
    return {
        "cluster": places.is_cluster,
        "seconds": round(places.seconds, 3),
        "imbalance": {
            each: None if (ratio := places.imbalance(each)) is None else round(ratio, 3)
            for each in measures
        },
        "nodes": [
            {
                "node": each.name,
                "id": each.node_id or None,
                "away": each.away,
                "shards": each.shards,
                "global_keys": each.has_global_keys,
                "rate": each.milli_rate / 1000,
                "memory_bytes": each.memory_bytes,
                "backlog": each.backlog,
            }
            for each in places.nodes
        ],
        "shards": [
            {
                "shard": each.number,
                "slot": each.slot,
                "node": each.node or None,
                "state": each.state,
                "rate": None if each.milli_rate is None else each.milli_rate / 1000,
                "memory_bytes": each.memory_bytes,
                "backlog": each.backlog,
            }
            for each in places.shards
        ],
        "notes": list(places.notes),
    }
