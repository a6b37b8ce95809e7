"""Shards that have lost entries: find them, and reopen them.

The store has what the outbox delivered. What a shard has lost of that is replayed, event by event,
into the shard's records; what the outbox has and the store does not have gets new places. Then the
shard begins a new epoch, and `verify` checks that everything agrees.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.domain.delivery import START, Place
from gateway.domain.events import USAGE_KINDS, Event
from gateway.domain.reservation import Account
from gateway.domain.stores import EventStore
from gateway.ledger.audit import Audit
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.codec.effects import grant_terms
from gateway.ledger.codec.operations import GrantTerms
from gateway.ledger.codec.outbox_entries import Entry
from gateway.ledger.outbox import Outbox
from gateway.ledger.repair import CannotReapply, Repair

ShardState = Literal["open", "behind", "frozen"]
_ROUNDS: Final = 20


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard.

    state:  open; behind: it has less than the store and nobody has frozen it yet; frozen
    last:   its last entry. stored: the store's last entry of it, None where the store has none
    lost:   events that the store has and the shard has not
    """

    number: int
    state: ShardState
    last: Place
    stored: Place | None
    lost: int = 0


@dataclass(frozen=True, slots=True)
class NotApplied:
    """An event that could not be replayed, and why."""

    event_id: str
    reason: str


@dataclass(slots=True)
class Reopened:
    """What became of one shard.

    epoch:       the new one; None while the shard is still shut
    applied:     events replayed. kept: entries that got a new place
    not_applied: events that could not be replayed. Without `accept_loss` they keep the shard shut
    assumed:     grants whose events lack their terms (an earlier release wrote them): recreated with
                 priority 100, for every model, without an expiry
    uncounted:   customers whose limits, tiers and included units do not count what was replayed
    """

    number: int
    epoch: int | None = None
    applied: int = 0
    kept: int = 0
    not_applied: list[NotApplied] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    uncounted: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Desk:
    """What a repair works on."""

    repair: Repair
    audit: Audit
    outbox: Outbox
    store: EventStore


async def ledger_status(outbox: Outbox, store: EventStore) -> list[ShardStatus]:
    """Every shard, as the ledger and the store have it. Raises LedgerUnavailable."""
    cursors = await asyncio.to_thread(
        store.cursors
    )  # before asking: it cannot be ahead of the answer
    statuses = []
    for number, head in enumerate(await outbox.heads()):
        stored = cursors.get(number)
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


async def reopen(
    desk: Desk,
    number: int,
    *,
    accept_loss: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Reopened | None:
    """Restore one shard from the store; None when it has lost nothing.

    accept_loss: open it although an event could not be replayed
    progress:    called with how many events are done, of how many
    May be called again after any failure: it resumes where it was. Raises LedgerUnavailable.
    """
    done = Reopened(number)
    for _ in range(_ROUNDS):
        stored = await _cursor(desk.store, number)
        if not await desk.repair.shards.freeze(number, stored):
            return None
        entries = await desk.outbox.scan(number, (await desk.outbox.heads())[number].last)
        if not await _apply(desk, done, entries, accept_loss, progress):
            return done
        if await _cursor(desk.store, number) != stored:
            continue  # the exporter was still writing what it had read
        kept = await _not_stored(desk, entries)
        places = [(Place(entry.epoch, entry.seq), _reservation_of(entry)) for entry in kept]
        done.epoch = await desk.repair.reopen(number, stored, places, accept_loss=accept_loss)
        done.kept = len(kept)
        return done
    raise LedgerUnavailable(f"the store is still taking events of shard {number}; retry")


async def _cursor(store: EventStore, number: int) -> Place:
    cursors = await asyncio.to_thread(store.cursors)
    return cursors.get(number, START)


async def _apply(
    desk: Desk,
    done: Reopened,
    entries: Sequence[Entry],
    accept_loss: bool,
    progress: Callable[[int, int], None] | None,
) -> bool:
    """Replay what the shard has lost. False when something cannot be, and that is not accepted."""
    number, has = done.number, {entry.event_id for entry in entries}
    reached = (await desk.outbox.heads())[number].acked or START
    for letter in await asyncio.to_thread(desk.store.dead_letters_beyond, number, reached):
        place = f"{letter.epoch}-{letter.seq}"
        reason = f"the store has it as a dead letter: {letter.reason}"
        _note(done, letter.event_id or place, reason)
    if done.not_applied and not accept_loss:
        return False
    lost = [
        event
        for event in await asyncio.to_thread(desk.store.events_beyond, number, reached)
        if event.event_id not in has
    ]
    holders = await _loosen(desk, number, lost)
    terms = await _terms(desk, lost)
    for at, event in enumerate(lost):
        if progress is not None:
            progress(at, len(lost))
        of_customer = terms[event.customer_id]
        made = grant_terms(event)
        try:
            await desk.repair.reapply(event, of_customer, holders.get(event.reservation_id or ""))
        except CannotReapply as refused:
            _note(done, event.event_id, str(refused))
            if not accept_loss:
                return False
            continue
        done.applied += 1
        if made is not None:
            if "priority" not in event.facts:
                done.assumed.append(event.event_id)
            of_customer.update({no: made for no, _ in event.allocations if no})
        if event.kind in USAGE_KINDS and event.usage and event.reservation_id not in holders:
            done.uncounted.add(event.customer_id)
    return True


def _note(done: Reopened, event_id: str, reason: str) -> None:
    if event_id not in {each.event_id for each in done.not_applied}:
        done.not_applied.append(NotApplied(event_id, reason))


async def _loosen(desk: Desk, number: int, lost: Sequence[Event]) -> Mapping[str, Account]:
    """Take the holds of the wallets that will change off their grants; whose each hold is, by its id."""
    customers = {event.customer_id for event in lost}
    holders = {}
    for reservation_id, hold in (await desk.audit.snapshot(number)).holds.items():
        if hold.customer_id in customers:
            await desk.repair.loosen(number, hold.customer_id, reservation_id)
            holders[reservation_id] = Account(
                hold.customer_id, hold.key_id, number, 0, hold.project_id
            )
    return holders


async def _terms(desk: Desk, lost: Sequence[Event]) -> dict[str, dict[int, GrantTerms]]:
    """Terms of every grant of these customers, for those that were used up and are opened again."""
    return {
        customer_id: await desk.audit.grant_terms(customer_id)
        for customer_id in {event.customer_id for event in lost}
    }


async def _not_stored(desk: Desk, entries: Sequence[Entry]) -> list[Entry]:
    """Entries of the outbox that the store has nowhere."""
    ids = [entry.event_id for entry in entries if entry.event_id is not None]
    known = await asyncio.to_thread(desk.store.known_ids, ids)
    return [entry for entry in entries if entry.event_id not in known]


def _reservation_of(entry: Entry) -> str:
    return (entry.reservation_id or "") if isinstance(entry, Event) else ""
