"""Slots that move between primaries, by the servers' own means: in which way, and what is under way.

- `jobs`: the servers copy the slots and hand them over between two commands (`slot_jobs`): Valkey 9, and
  Redis 8.4 by other commands. Calls on these slots are held up for milliseconds.
- `keys`: key by key, as every cluster can (`slot_keys`). Calls on several keys of the slot are refused
  with TRYAGAIN until it is over.

Invariant: whatever interrupts a move, the servers know of it, and `open_moves` finds it there. Nothing
is remembered here.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from redis.exceptions import NoPermissionError, ResponseError

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.members import Primary, ask, owners
from gateway.ledger.client.cluster.slot_jobs import running_jobs
from gateway.ledger.client.cluster.slot_moves import Transfer, Way
from gateway.ledger.client.faults import unavailable

_NEEDED: Final[Mapping[Way, tuple[tuple[str, ...], ...]]] = {
    "valkey_jobs": (
        ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "0", "0", "NODE", "0"),
        ("CLUSTER", "GETSLOTMIGRATIONS"),
    ),
    "redis_jobs": (("CLUSTER", "MIGRATION", "STATUS", "ALL"),),
    "keys": (
        ("CLUSTER", "SETSLOT", "0", "STABLE"),
        ("CLUSTER", "GETKEYSINSLOT", "0", "1"),
        ("CLUSTER", "COUNTKEYSINSLOT", "0"),
        ("MIGRATE", "localhost", "1", "KEY", "0", "1"),
        # MIGRATE sends these to the target, as the same user.
        ("RESTORE-ASKING", "KEY", "0", "v"),
        ("SELECT", "0"),
    ),
}


async def find_way(client: ClusterClient, primaries: Sequence[Primary]) -> Way:
    """The best way that every node knows. Raises LedgerUnavailable."""
    probes: tuple[tuple[Way, tuple[str, ...]], ...] = (
        ("valkey_jobs", ("CLUSTER", "GETSLOTMIGRATIONS")),
        ("redis_jobs", ("CLUSTER", "MIGRATION", "STATUS", "ALL")),
    )
    for way, words in probes:
        if all([await _knows(client, each, words) for each in primaries if not each.away]):
            return way
    return "keys"


async def missing_rights(
    client: ClusterClient, primaries: Sequence[Primary], way: Way, key: bytes
) -> list[str]:
    """Commands of a way that the user may not run, or that the service does not have; none are run.

    key: any of the ledger. Raises LedgerUnavailable.
    """
    missing: dict[str, None] = {}
    for primary in primaries:
        if not primary.away:
            for words in _NEEDED[way]:
                spelled = [key if word == "KEY" else word for word in words]
                why = await _refusal(client.of(primary.endpoint), spelled)
                if why is not None:
                    name = " ".join(words[: 2 if words[0] == "CLUSTER" else 1])
                    missing[f"{name}{why}"] = None
    return list(missing)


async def open_moves(
    client: ClusterClient, primaries: Sequence[Primary], slots: Collection[int], way: Way
) -> list[Transfer]:
    """What is under way, or was left so, of these slots. Raises LedgerUnavailable."""
    wanted = frozenset(slots)
    found = [] if way == "keys" else await running_jobs(client, primaries, way)
    moves = [move for move in found if wanted & set(move.slots)]
    owner_of = owners(primaries)
    targets: dict[int, str] = {}
    for primary in primaries:
        targets |= {slot: other for slot, other in primary.member.leaving.items() if slot in wanted}
    for primary in primaries:
        # Both ends are open as a rule. The end that imports has the keys that have left.
        targets |= {slot: primary.node_id for slot in primary.member.arriving if slot in wanted}
    for slot, target_id in sorted(targets.items()):
        if (owner := owner_of.get(slot)) is not None:
            moves.append(Transfer((slot,), owner, target_id, "keys"))
    return moves


async def _knows(client: ClusterClient, primary: Primary, words: Sequence[str]) -> bool:
    try:
        await ask(client, primary.endpoint, *words)
    except NoPermissionError:
        return True
    except ResponseError:
        return False
    return True


async def _refusal(node: Any, words: Sequence[Any]) -> str | None:
    """Why a command would be refused; None if it would be run. It is queued in a transaction that is
    thrown away: rights are checked then."""
    pool = node.connection_pool
    with unavailable():
        connection = await pool.get_connection()
    try:
        for command in (("MULTI",), words, ("DISCARD",)):
            try:
                with unavailable():
                    await connection.send_command(*command)
                await connection.read_response()
            except NoPermissionError:
                return ""
            except ResponseError as error:
                if command is words and "unknown" in str(error).lower():
                    return " (no such command here)"
                # Anything else is about the words, which are not meant to be right.
    finally:
        await connection.disconnect()
        await pool.release(connection)
    return None
