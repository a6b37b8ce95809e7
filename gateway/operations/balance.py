"""Move slots between the nodes of a cluster so that load is even: `shards balance`.

Order of an `--apply`: what an interrupted run left under way is finished first, before any entry of the audit
log can be written, since a slot that is half way takes none. Then loads are measured, moves planned,
noted, and made. Nothing is remembered between runs but what the servers know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.ledger.client.cluster.members import Primary, owners
from gateway.ledger.client.cluster.slot_moves import CannotMove, Transfer, Way
from gateway.ledger.nodes import SLOTS_OF_A_JOB, LedgerNodes
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend
from gateway.operations.balance_plan import BalancePlan, PlacedSlot, SlotMove, plan_moves
from gateway.operations.errors import Conflict
from gateway.operations.shard_places import Measure, Places, Progress, find_places

WAYS: Final[dict[Way, str]] = {
    "valkey_jobs": (
        "Slots move atomically (CLUSTER MIGRATESLOTS): their customers wait for milliseconds while a"
        " slot changes hands."
    ),
    "redis_jobs": (
        "Slots move atomically (CLUSTER MIGRATION IMPORT): their customers wait for milliseconds while a"
        " slot changes hands. This way follows Redis's documentation and has not been tried on a server."
    ),
    "keys": (
        "Slots move key by key (CLUSTER SETSLOT, MIGRATE): while a slot is on its way, requests of its"
        " shards' customers are refused with 503. The other shards do not notice."
    ),
}


@dataclass(frozen=True, slots=True)
class Balance:
    """What should move, and how.

    unfinished: what an interrupted run has left under way
    """

    by: Measure
    way: Way
    places: Places
    plan: BalancePlan
    unfinished: Sequence[Transfer]


async def plan_balance(
    nodes: LedgerNodes, by: Measure, tolerance: float, seconds: float, progress: Progress
) -> Balance:
    """Measure, and plan. Changes nothing.

    tolerance: as a fraction of the mean. seconds: over which rates are measured
    Raises Conflict, LedgerUnavailable.
    """
    _check_cluster(nodes)
    measured_s = seconds if by == "rate" else 0.0
    places = await find_places(nodes, measured_s, progress, with_memory=by == "memory")
    _check_present(places.primaries)
    way = await nodes.way(places.primaries)
    unfinished = await nodes.open_moves(places.primaries, way)
    plan = plan_moves(
        _placed(places, by),
        [each.name for each in places.primaries if not each.away],
        tolerance,
    )
    return Balance(by, way, places, plan, unfinished)


async def finish_open(nodes: LedgerNodes, progress: Progress) -> list[Transfer]:
    """Finish what an interrupted run has left under way; returns what that was.

    Raises Conflict, LedgerUnavailable.
    """
    _check_cluster(nodes)
    primaries = await nodes.primaries()
    way = await nodes.way(primaries)
    unfinished = await nodes.open_moves(primaries, way)
    if any(move.way == "keys" for move in unfinished):
        await _check_rights(nodes, primaries, "keys")
    for done, move in enumerate(unfinished):
        progress("unfinished", done, len(unfinished))
        await _move(nodes, move, primaries, progress, begun=True)
        progress("unfinished", done + 1, len(unfinished))
    return unfinished


async def apply_balance(
    backend: Backend, nodes: LedgerNodes, balance: Balance, progress: Progress, reason: str | None
) -> None:
    """Make the moves of a plan. May be repeated, with a new plan, after any failure.

    Raises Conflict, LedgerUnavailable.
    """
    moves = balance.plan.moves
    await _check_rights(nodes, balance.places.primaries, balance.way)
    slots_to: dict[str, list[int]] = {}
    for move in moves:
        slots_to.setdefault(move.target, []).append(move.slot)
    noted = Noted(
        "ledger.balance",
        f"{len(moves)} slots",
        reason=reason,
        after={"by": balance.by, "slots": slots_to},
    )
    async with audited(backend, noted):
        done = 0
        progress("slots", 0, len(moves))
        for leg in _legs(moves, balance.way):
            await _move_leg(nodes, leg, balance.way, progress)
            done += len(leg)
            progress("slots", done, len(moves))


def balance_document(balance: Balance, *, applied: bool, finished: int) -> dict[str, Any]:
    """A plan as a JSON document. Loads are entries a second, bytes or shards."""
    plan, scale = balance.plan, 1000 if balance.by == "rate" else 1

    def shown(load: int) -> float | int:
        return load / scale if scale > 1 else load

    return {
        "by": balance.by,
        "way": balance.way,
        "applied": applied,
        "finished": finished,
        "unfinished": [list(each.slots) for each in balance.unfinished],
        "imbalance": {
            "before": _rounded(plan.imbalance(plan.before)),
            "after": _rounded(plan.imbalance(plan.after)),
        },
        "moves": [
            {"slot": m.slot, "from": m.source, "to": m.target, "load": shown(m.load)}
            for m in plan.moves
        ],
        "nodes": [
            {"node": name, "before": shown(load), "after": shown(plan.after[name])}
            for name, load in plan.before.items()
        ],
        "notes": list(balance.places.notes),
    }


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 3)


def _placed(places: Places, by: Measure) -> list[PlacedSlot]:
    """The ledger's slots with their loads: the sum of the shards', and of the global keys."""
    placed: dict[int, PlacedSlot] = {}
    for each in places.shards:
        assert each.slot is not None, "a cluster's shards have slots"
        load = each.load(by)
        if load is None and not (each.number is None and by == "rate"):
            name = "the global keys" if each.number is None else f"shard {each.number}"
            raise Conflict(
                f"the load of {name} cannot be read: {' '.join(places.notes) or 'try again'}"
            )
        so_far = placed[each.slot].load if each.slot in placed else 0
        placed[each.slot] = PlacedSlot(each.slot, each.node, so_far + (load or 0))
    return list(placed.values())


def _legs(moves: Sequence[SlotMove], way: Way) -> list[list[SlotMove]]:
    """Moves that are made as one: of the same two nodes, where the servers move several at once."""
    most = 1 if way == "keys" else SLOTS_OF_A_JOB
    legs: dict[tuple[str, str], list[list[SlotMove]]] = {}
    for move in moves:
        of_pair = legs.setdefault((move.source, move.target), [[]])
        if len(of_pair[-1]) == most:
            of_pair.append([])
        of_pair[-1].append(move)
    return [leg for of_pair in legs.values() for leg in of_pair]


async def _move_leg(
    nodes: LedgerNodes, leg: Sequence[SlotMove], way: Way, progress: Progress
) -> None:
    primaries = await nodes.primaries()
    _check_present(primaries)
    owner_of = owners(primaries)
    by_name = {each.name: each for each in primaries}
    source, target = by_name.get(leg[0].source), by_name.get(leg[0].target)
    there = [move.slot for move in leg if owner_of[move.slot] is source]
    if source is None or target is None or target.away or len(there) != len(leg):
        raise Conflict("the cluster has changed since its moves were planned: run this again")
    move = Transfer(tuple(sorted(there)), source, target.node_id, way)
    await _move(nodes, move, primaries, progress)


async def _move(
    nodes: LedgerNodes,
    move: Transfer,
    primaries: Sequence[Primary],
    progress: Progress,
    *,
    begun: bool = False,
) -> None:
    name = f"keys of slot {move.slots[0]}"
    try:
        await nodes.move(
            move, primaries, lambda done, total: progress(name, done, total), begun=begun
        )
    except CannotMove as failed:
        raise Conflict(str(failed)) from failed


def _check_cluster(nodes: LedgerNodes) -> None:
    if not nodes.is_cluster:
        raise Conflict(
            f"the ledger is on a single server ({nodes.shown}): shards move between the nodes of a"
            " cluster only"
        )


def _check_present(primaries: Sequence[Primary]) -> None:
    """A node that is away is no place to move to or from, and its return would change the loads."""
    away = [each.name for each in primaries if each.away and each.member.slots]
    if away:
        raise Conflict(
            f"{', '.join(away)} {'does' if len(away) == 1 else 'do'} not answer: bring every node that"
            " has slots back first"
        )


async def _check_rights(nodes: LedgerNodes, primaries: Sequence[Primary], way: Way) -> None:
    missing = await nodes.missing_rights(primaries, way)
    if missing:
        raise Conflict(
            f"the ledger's user may not run {', '.join(missing)}, so it cannot move slots. Run this with"
            " a configuration that enters as an administrator; a managed service that forbids these"
            " commands to everyone moves slots by its own means. Nothing was moved"
        )
