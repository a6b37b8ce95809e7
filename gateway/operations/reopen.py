"""Shards that have lost entries: find them, and reopen them.

The store has what the outbox delivered. What a shard has lost of that is replayed, event by event,
into the shard's records; what the outbox has and the store does not have gets new places. Then the
shard begins a new epoch, and `verify` checks that everything agrees.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.domain.delivery import START, Place
from gateway.domain.events import Event
from gateway.domain.stores import EventStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.outbox_entries import Entry
from gateway.ledger.codec.shut_wallets import ShutWallet
from gateway.ledger.outbox import Outbox
from gateway.ledger.repair import Reached
from gateway.operations.reapplying import Desk, Manner, Reopened, Replay
from gateway.operations.wallet_check import Kept, differing_wallets

ShardState = Literal["open", "behind", "frozen", "away"]
_ROUNDS: Final = 20
_NOTHING: Final = Place(0, -1)
"""What the record of a shard says that was never trimmed."""


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard.

    state:  open; behind: it has less than the store and nobody has frozen it yet; frozen
    last:   its last entry. stored: the store's last entry of it, None where the store has none
    lost:   events that the store has and the shard has not
    reason: why it cannot be asked, of one that is away: nothing else is known of it then
    """

    number: int
    state: ShardState
    last: Place
    stored: Place | None
    lost: int = 0
    reason: str = ""


async def ledger_status(outbox: Outbox, store: EventStore) -> list[ShardStatus]:
    """Every shard, as the ledger and the store have it. Raises LedgerUnavailable when no node of the
    ledger can be reached."""
    cursors = await asyncio.to_thread(
        store.cursors
    )  # before asking: it cannot be ahead of the answer
    statuses = []
    for number, head in enumerate(await outbox.look()):
        stored = cursors.get(number)
        if isinstance(head, LedgerUnavailable):
            statuses.append(ShardStatus(number, "away", START, stored, reason=str(head)))
            continue
        behind = stored is not None and head.last < stored
        lost = 0
        if stored is not None and (behind or head.frozen):
            beyond = await asyncio.to_thread(
                store.events_beyond, number, max(head.acked or START, START)
            )
            entries = await outbox.scan(number, head.last)
            there = {entry.event_id for entry in entries}
            lost = sum(event.event_id not in there for event in beyond)
        state: ShardState = "frozen" if head.frozen else "behind" if behind else "open"
        statuses.append(ShardStatus(number, state, head.last, stored, lost))
    return statuses


async def reopen(desk: Desk, number: int, manner: Manner | None = None) -> Reopened | None:
    """Restore one shard from the store; None when it has lost nothing.

    May be called again after any failure: it resumes where it was. Raises LedgerUnavailable, RepairGivenUp,
    and StoreMissing where the store raises it.
    """
    manner = manner or Manner()
    done = Reopened(number)
    for _ in range(_ROUNDS):
        manner.check()
        stored = await _cursor(desk.store, number)
        if not await desk.repair.shards.freeze(number, stored):
            return None
        head = await desk.outbox.head(number)
        entries = await desk.outbox.scan(number, head.last)
        applied = await Replay(desk, done, manner, {e.event_id for e in entries}).run(
            head.acked or _NOTHING
        )
        if applied is None:
            return done
        kept = await _not_stored(desk, entries)
        if manner.on_loss == "shut":
            await _shut_what_differs(desk, done, stored, kept)
        if await _cursor(desk.store, number) != stored:
            continue  # the exporter was still writing what it had read
        places = [(Place(entry.epoch, entry.seq), _reservation_of(entry)) for entry in kept]
        manner.check()
        begun = await desk.repair.reopen(number, Reached(stored, applied, head.last), places)
        done.epoch, done.lost, done.kept = begun.epoch, begun.lost, len(kept)
        return done
    raise LedgerUnavailable(f"the store is still taking events of shard {number}; retry")


async def _cursor(store: EventStore, number: int) -> Place:
    cursors = await asyncio.to_thread(store.cursors)
    return cursors.get(number, START)


async def _shut_what_differs(
    desk: Desk, done: Reopened, stored: Place, kept: Sequence[Entry]
) -> None:
    """Freeze the wallets that differ from their events, unless an operator has looked at them before."""
    checked = await differing_wallets(desk.audit, desk.store, Kept(done.number, stored, kept))
    done.checked = checked.complete
    known = await desk.losses.shut_wallets([done.number])
    for customer_id, difference in checked.differing.items():
        if customer_id in known:
            continue
        reason = f"repair: the wallet differs from its events: {difference}"
        await desk.repair.shut(done.number, customer_id, ShutWallet(None, stored, reason))
        done.shut[customer_id] = reason


async def _not_stored(desk: Desk, entries: Sequence[Entry]) -> list[Entry]:
    """Entries of the outbox that the store has nowhere."""
    ids = [entry.event_id for entry in entries if entry.event_id is not None]
    known = await asyncio.to_thread(desk.store.known_ids, ids)
    return [entry for entry in entries if entry.event_id not in known]


def _reservation_of(entry: Entry) -> str:
    return (entry.reservation_id or "") if isinstance(entry, Event) else ""
