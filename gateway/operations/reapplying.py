"""Replays into a frozen shard what the store has beyond it, event by event."""

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

from gateway.domain.delivery import DeadLetter, Place
from gateway.domain.events import USAGE_KINDS, Event
from gateway.domain.reservation import Account
from gateway.domain.stores import EventStore
from gateway.ledger.audit import Audit
from gateway.ledger.codec.effects import grant_terms
from gateway.ledger.codec.operations import GrantTerms
from gateway.ledger.codec.outbox_entries import customer_of
from gateway.ledger.codec.shard_records import LostRange
from gateway.ledger.codec.shut_wallets import ShutWallet
from gateway.ledger.losses import Losses
from gateway.ledger.outbox import Outbox
from gateway.ledger.repair import CannotReapply, Repair


@dataclass(frozen=True, slots=True)
class NotApplied:
    """An event that could not be replayed, and why. customer_id: whose; None where that is not known"""

    event_id: str
    reason: str
    customer_id: str | None


@dataclass(slots=True)
class Reopened:
    """What became of one shard.

    epoch:       the new one; None while the shard is still shut
    applied:     events replayed. kept: entries that got a new place
    lost:        entries that gates had seen and that are nowhere; None where nothing is known of any
    not_applied: events that could not be replayed
    shut:        customers whose wallets were frozen for it, each with the reason
    checked:     whether the wallets were compared with their events before the shard was opened
    assumed:     grants whose events lack their terms (an earlier release wrote them): recreated with
                 priority 100, for every model, without an expiry
    uncounted:   customers whose limits, tiers and included units do not count what was replayed
    """

    number: int
    epoch: int | None = None
    applied: int = 0
    kept: int = 0
    lost: LostRange | None = None
    not_applied: list[NotApplied] = field(default_factory=list)
    shut: dict[str, str] = field(default_factory=dict)
    checked: bool = False
    assumed: list[str] = field(default_factory=list)
    uncounted: set[str] = field(default_factory=set)


OnLoss = Literal["stop", "accept", "shut"]
"""What an event that cannot be replayed means: stop, and leave the shard shut; accept it; or open the shard
and freeze the wallets concerned, as well as those that differ from their events."""


class RepairGivenUp(Exception):
    """Whoever repairs may not go on: another process has the shard now."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a shard is repaired.

    progress:  called with how many events are done, of how many
    may_go_on: asked before each step
    """

    on_loss: OnLoss = "stop"
    progress: Callable[[int, int], None] = lambda _done, _of: None
    may_go_on: Callable[[], bool] = lambda: True

    def check(self) -> None:
        """Raise RepairGivenUp if it must end here."""
        if not self.may_go_on():
            raise RepairGivenUp("another process has the shard now")


@dataclass(frozen=True, slots=True)
class Desk:
    """What a repair works on."""

    repair: Repair
    audit: Audit
    outbox: Outbox
    store: EventStore
    losses: Losses


class Replay:
    """One pass over what the store has beyond a shard."""

    def __init__(self, desk: Desk, done: Reopened, manner: Manner, there: Set[str | None]) -> None:
        """there: ids of the events that the shard's outbox has"""
        self._desk = desk
        self._done = done
        self._manner = manner
        self._there = there

    async def run(self, reached: Place) -> Place | None:
        """Replay what is beyond a place; returns up to where the shard has it, or None when something cannot be
        replayed and that means to stop."""
        desk, number = self._desk, self._done.number
        letters = await asyncio.to_thread(desk.store.dead_letters_beyond, number, reached)
        if letters and self._manner.on_loss == "stop":
            for letter in letters:
                _note(self._done, _of_letter(letter))
            return None
        stored = await asyncio.to_thread(desk.store.events_beyond, number, reached)
        lost = [event for event in stored if event.event_id not in self._there]
        holders = await _loosen(desk, number, lost)
        terms = await _terms(desk, lost)
        steps: list[Event | DeadLetter] = [*lost, *letters]
        steps.sort(key=lambda each: (each.epoch, each.seq))
        for at, each in enumerate(steps):
            self._manner.check()
            self._manner.progress(at, len(steps))
            place = Place(each.epoch, each.seq)
            if isinstance(each, DeadLetter):
                if await self._pass_over(_of_letter(each), place):
                    reached = place
                continue
            failed = await self._apply(each, terms[each.customer_id], holders)
            if failed is None:
                reached = place
            elif self._manner.on_loss == "stop":
                _note(self._done, failed)
                return None
            elif await self._pass_over(failed, place):
                reached = place
        return reached

    async def _apply(
        self, event: Event, terms: dict[int, GrantTerms], holders: Mapping[str, Account]
    ) -> NotApplied | None:
        done, made = self._done, grant_terms(event)
        try:
            await self._desk.repair.reapply(event, terms, holders.get(event.reservation_id or ""))
        except CannotReapply as refused:
            return NotApplied(event.event_id, str(refused), event.customer_id)
        done.applied += 1
        if made is not None:
            if "priority" not in event.facts:
                done.assumed.append(event.event_id)
            terms.update({no: made for no, _ in event.allocations if no})
        if event.kind in USAGE_KINDS and event.usage and event.reservation_id not in holders:
            done.uncounted.add(event.customer_id)
        return None

    async def _pass_over(self, failed: NotApplied, place: Place) -> bool:
        """Note it; freeze its wallet if that is the manner. Whether the shard's record is beyond it now."""
        _note(self._done, failed)
        if self._manner.on_loss != "shut" or failed.customer_id is None:
            return False
        reason = f"repair: event {failed.event_id} cannot be replayed: {failed.reason}"
        why = ShutWallet(failed.event_id, place, reason)
        await self._desk.repair.shut(self._done.number, failed.customer_id, why)
        self._done.shut.setdefault(failed.customer_id, reason)
        return True


def _of_letter(letter: DeadLetter) -> NotApplied:
    name = letter.event_id or f"{letter.epoch}-{letter.seq}"
    reason = f"the store has it as a dead letter: {letter.reason}"
    return NotApplied(name, reason, customer_of(letter))


def _note(done: Reopened, failed: NotApplied) -> None:
    if failed.event_id not in {each.event_id for each in done.not_applied}:
        done.not_applied.append(failed)


async def _loosen(desk: Desk, number: int, lost: Sequence[Event]) -> Mapping[str, Account]:
    """Take the holds of the wallets that will change off their grants; whose each hold is, by its id."""
    customers = {event.customer_id for event in lost}
    holders = {}
    for reservation_id, hold in (await desk.audit.frozen_snapshot(number)).holds.items():
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
