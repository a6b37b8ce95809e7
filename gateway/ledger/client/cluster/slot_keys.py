"""A slot that moves key by key, as every cluster can.

Both ends are opened, the target first; then keys leave in pages; then the target owns the slot. A
key that the source has is the true one, for the target answers for keys that have left only: so a page
whose answer was lost is sent again, and replaces what is there.

A record of a shard goes first, alone (`first_keys`). Each script names it, so from then on no script
runs on either side, and no key is deleted at the source after the target may have got it.
"""

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from gateway.ledger.client.cluster.client import ClusterClient
from gateway.ledger.client.cluster.members import Primary, ask
from gateway.ledger.client.cluster.slot_moves import CannotMove, Report, Transfer

PAGE: Final = 100
"""Keys of one MIGRATE, during which the source does nothing else."""
TIMEOUT_MS: Final = 10_000
"""How long a MIGRATE may go without progress."""
_ATTEMPTS: Final = 3


async def move_keys(
    client: ClusterClient,
    move: Transfer,
    primaries: Sequence[Primary],
    first_keys: Sequence[bytes],
    report: Report,
) -> None:
    """Move one slot, from wherever an earlier run has left it. Raises CannotMove, LedgerUnavailable."""
    [slot], source = move.slots, move.source
    target = await _target(client, move, primaries, first_keys)
    if target is None:
        await _set(client, source, slot, "STABLE")
        return
    if target.node_id != source.node_id:
        await _set(client, target, slot, "IMPORTING", source.node_id)
        await _set(client, source, slot, "MIGRATING", target.node_id)
        await _send_all(client, (slot, source, target), first_keys, report)
    # The target first: were it lost in between, the source would still send callers there.
    rest = [each for each in primaries if each.node_id not in (source.node_id, target.node_id)]
    for primary in (target, source, *rest):
        if not primary.away:
            await _set(client, primary, slot, "NODE", target.node_id)


async def _target(
    client: ClusterClient,
    move: Transfer,
    primaries: Sequence[Primary],
    first_keys: Sequence[bytes],
) -> Primary | None:
    """Where the slot goes; None for nowhere, since nothing has left. After a failover of the target it is
    whoever has its keys. Raises CannotMove where that cannot be known."""
    [slot] = move.slots
    found = next((each for each in primaries if each.node_id == move.target_id), None)
    if found is not None and not found.away:
        return found
    for primary in primaries:
        if not primary.away and primary.node_id != move.source.node_id:
            words = ("CLUSTER", "COUNTKEYSINSLOT", slot)
            if int(await ask(client, primary.endpoint, *words)):
                return primary
    told = f"slot {slot} is on its way from {move.source.name} to"
    if found is not None:
        raise CannotMove(
            f"{told} {found.name}, which does not answer: bring it back, then run this again"
        )
    if not any([await _has(client, move.source, key) for key in first_keys]):
        raise CannotMove(
            f"{told} a node that has left the cluster ({move.target_id}), perhaps with some of its"
            " keys: bring that node back, or see `creditgate ledger status` for what is missing"
        )
    return None


async def _has(client: ClusterClient, primary: Primary, key: bytes) -> bool:
    try:
        return bool(await ask(client, primary.endpoint, "EXISTS", key))
    except ResponseError:  # ASK: it has left
        return False


async def _send_all(
    client: ClusterClient,
    way: tuple[int, Primary, Primary],
    first_keys: Sequence[bytes],
    report: Report,
) -> None:
    slot, source, _ = way
    count = int(await ask(client, source.endpoint, "CLUSTER", "COUNTKEYSINSLOT", slot))
    moved = 0
    page: Sequence[bytes] = first_keys
    while True:
        if page:
            await _send(client, way, page)
            if page is not first_keys:
                moved += len(page)
                report(moved, max(moved, count))
        page = await ask(client, source.endpoint, "CLUSTER", "GETKEYSINSLOT", slot, PAGE)
        if not page:
            return


async def _send(
    client: ClusterClient, way: tuple[int, Primary, Primary], page: Sequence[bytes]
) -> None:
    """One MIGRATE. Keys that are not there, or no longer, are skipped by the server."""
    slot, source, target = way
    user, password = source.endpoint.entry
    enter: tuple[Any, ...] = ("AUTH2", user, password) if password else ()
    place = (target.member.host, target.member.port, "", 0, TIMEOUT_MS)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            words = ("MIGRATE", *place, "REPLACE", *enter, "KEYS", *page)
            await ask(client, source.endpoint, *words)
        except ResponseError as error:
            # IOERR: the target did not answer, and may have got them.
            if attempt < _ATTEMPTS and str(error).startswith("IOERR"):
                continue
            raise CannotMove(
                f"slot {slot} is half way from {source.name} to {target.name}: {error}. Its shard is"
                " unavailable until this is run again, which goes on from here"
            ) from error
        return


async def _set(client: ClusterClient, primary: Primary, slot: int, *words: str) -> None:
    try:
        await ask(client, primary.endpoint, "CLUSTER", "SETSLOT", slot, *words)
    except ResponseError as error:
        raise CannotMove(
            f"{primary.name} refuses CLUSTER SETSLOT {slot} {' '.join(words)}: {error}"
        ) from error
