"""Settlements that the ledger has answered and that the store may not have yet, kept in memory.

A failover to a replica that lagged loses what the ledger has answered in the last moments. What the store
has of it, a repair applies again; the rest only the worker knows that was answered. So it keeps each
settlement until the store has its event, and repeats it when its shard serves again after a loss may have
happened: a new epoch, a shard that did not serve, a connection that broke. An operation that was not lost
is recognised by its id.

Invariants:
- a request pays for one `append` after the ledger's answer; all else is done once a second;
- a settlement leaves when store and shard say that its place is stored, when the ledger has been asked again,
  or when too many are kept. One that the ledger refuses then is set aside on disk and logged by id;
- a process that is killed takes what it kept with it. One that stops writes to the journal
  what a shut shard may have lost.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final

import structlog

from gateway.domain.delivery import START, Place
from gateway.domain.stores import StoreMissing
from gateway.flow.reservation.delivery import Delivery
from gateway.flow.reservation.pending_settlement import PendingSettlement
from gateway.ledger.client.errors import LedgerUnavailable, ShardClosed
from gateway.ledger.codec.calls import Answered
from gateway.ledger.reservations import Reservations
from gateway.telemetry.logs import failure
from gateway.telemetry.names import GateMetrics

log = structlog.get_logger("gate")

MOST_KEPT: Final = 100_000
"""Settlements that one worker keeps: about 82 MB of them."""
TICK_S: Final = 1.0
AT_ONCE: Final = 64
"""Settlements that are repeated together, so that those of requests are not kept waiting."""


class KeptSettlements:
    """The settlements of one worker that a loss of the ledger's last moments would take.

    Use it from one event loop. `note` takes what the ledger has answered; `looked` and `run` see to it.
    """

    def __init__(
        self,
        delivery: Delivery,
        metrics: GateMetrics,
        stored_ids: Callable[[Sequence[str]], set[str]],
        connection: Callable[[], int | None],
        *,
        most: int = MOST_KEPT,
    ) -> None:
        """stored_ids: those of some events that the store has; blocks; raises StoreMissing.
        connection: changes when settlements go over a new one; None while there is none"""
        self._delivery = delivery
        self._metrics = metrics
        self._stored_ids = stored_ids
        self._connection = connection
        self._most = most
        self._answered: deque[Answered] = deque()
        self.note: Callable[[Answered], None] = self._answered.append
        """Keep one. All that a request pays."""
        self._kept: dict[int, deque[Answered]] = {}
        self._suspected: set[int] = set()
        self._asking: set[int] = set()
        self._epochs: dict[int, int] = {}
        self._connected = connection()
        self._ledger = Reservations(delivery.ledger.shards)
        self._ledger.answered = self._note_again

    def __len__(self) -> int:
        return len(self._answered) + sum(map(len, self._kept.values()))

    async def run(self) -> None:
        """Keep what is kept within bounds, whether the store and the ledger can be looked at or not."""
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Sort what was answered by shard, and see whether the connection is the same."""
        for _ in range(len(self._answered)):
            answered = self._answered.popleft()
            (epoch, _), account, _ = answered
            if epoch:  # else it wrote no event: there was nothing to end
                self._kept.setdefault(account.shard, deque()).append(answered)
        self._forget_beyond(self._most)
        connected = self._connection()
        if connected is None or connected != self._connected:
            self._connected = connected
            self._suspected.update(self._kept)
        self._metrics.settlements_unstored.set(len(self))

    def looked(self, stored: Mapping[int, Place], serving: Mapping[int, Place]) -> None:
        """Let go of what the store has, and repeat what may be lost.

        stored: how far the store has what each shard has, as both of them say. serving: last entry of each
        shard that is open; read after `stored`
        """
        self.tick()
        for shard, records in self._kept.items():
            last = serving.get(shard)
            if last is None or self._connected is None:
                self._suspected.add(shard)
            elif shard not in self._asking:
                if (
                    shard not in self._suspected
                ):  # else others may have filled the place of a lost one
                    self._let_go(records, stored.get(shard, START))
                suspects = self._suspects(shard, last.epoch)
                if suspects:
                    self._asking.add(shard)
                    self._delivery.spawn(self._repeat(shard, last.epoch, suspects))

    async def leave(self) -> None:
        """The worker stops: write to the journal what a shard may have lost that does not serve yet."""
        self.tick()
        for shard in self._suspected:
            records = [_pending(each).as_record() for each in self._kept.pop(shard, ())]
            try:
                await asyncio.gather(*map(self._delivery.journal.append, records))
            except Exception as fault:
                log.error("journal_failed", shard=shard, **failure(fault))

    # What is let go

    @staticmethod
    def _let_go(records: deque[Answered], stored: Place) -> None:
        """Of the store's own epoch only: an earlier entry it may have lost with the shard's tail."""
        while records and (mark := records[0][0])[0] == stored.epoch and mark[1] <= stored.seq + 1:
            records.popleft()

    def _forget_beyond(self, most: int) -> None:
        excess = len(self) - most
        while excess > 0:
            longest = max(self._kept.values(), key=len)
            dropped = min(excess, max(1, len(longest) // 2))
            for _ in range(dropped):
                longest.popleft()
            self._metrics.settlements_forgotten.inc(dropped)
            excess -= dropped

    def _suspects(self, shard: int, epoch: int) -> list[Answered]:
        """Taken from what is kept: all of a shard that may have lost any; else what precedes its epoch."""
        records, suspects = self._kept[shard], []
        suspected = shard in self._suspected
        self._suspected.discard(shard)
        while records and (suspected or records[0][0][0] < epoch):
            suspects.append(records.popleft())
        return suspects

    # What is repeated

    async def _repeat(self, shard: int, epoch: int, suspects: list[Answered]) -> None:
        """Ask the ledger again. What it cannot take now is kept for the next time."""
        self._epochs[shard] = epoch
        # Whoever answers must know of this epoch: an old primary, which has lost nothing, does not.
        self._ledger.shards.watermark.note(shard, epoch, -1)
        recovered, lost, done, refused = 0, 0, 0, list[tuple[Answered, Exception]]()
        try:
            while done < len(suspects):
                batch = suspects[done : done + AT_ONCE]
                asked = (_pending(each).send(self._ledger) for each in batch)
                results = await asyncio.gather(*asked, return_exceptions=True)
                away = []
                for answered, result in zip(batch, results, strict=True):
                    if not isinstance(result, BaseException):
                        recovered += not result.replayed
                    elif _may_be_taken(result):
                        away.append(answered)
                    elif isinstance(result, Exception):
                        refused.append((answered, result))
                    else:
                        raise result
                done += len(batch)
                if away:
                    suspects[done:done] = away
                    break
            with suppress(StoreMissing):
                lost = await self._give_up(shard, refused)
                refused.clear()
        finally:
            self._take_back(shard, [each for each, _ in refused] + suspects[done:])
            self._asking.discard(shard)
        self._metrics.settlements_recovered.inc(recovered)
        if recovered or lost:
            log.warning(
                "settles_repeated", shard=shard, epoch=epoch, repeated=done, recovered=recovered
            )

    def _note_again(self, answered: Answered) -> None:
        """One was answered when it was repeated. An entry of an earlier epoch is one of the store's: what
        the store had not got a place in the new one."""
        (epoch, _), account, _ = answered
        if epoch >= self._epochs[account.shard]:
            self.note(answered)

    def _take_back(self, shard: int, records: Sequence[Answered]) -> None:
        if records:
            self._kept.setdefault(shard, deque()).extendleft(reversed(records))
            self._suspected.add(shard)

    async def _give_up(self, shard: int, refused: Sequence[tuple[Answered, Exception]]) -> int:
        """Set aside what the ledger will never take, unless the store has it; how many that are.

        Raises StoreMissing.
        """
        if not refused:
            return 0
        ids = [_event_ids(answered[2].reservation_id) for answered, _ in refused]
        wanted = list(chain.from_iterable(ids))
        known = await asyncio.to_thread(self._stored_ids, wanted)
        lost = [each for each, its in zip(refused, ids, strict=True) if known.isdisjoint(its)]
        for answered, refusal in lost:
            await self._delivery.set_aside(_pending(answered), refusal)
        names = [answered[2].reservation_id for answered, _ in lost]
        for at in range(0, len(names), AT_ONCE):
            log.error("settle_lost", shard=shard, reservation_ids=names[at : at + AT_ONCE])
        return len(lost)


def _pending(answered: Answered) -> PendingSettlement:
    _, account, call = answered
    return PendingSettlement(account.account, call, account)


def _may_be_taken(result: BaseException) -> bool:
    """Whether it can be repeated later. A wallet that is lost does not come back by itself."""
    if isinstance(result, ShardClosed):
        return result.word != "unknown_account"
    return isinstance(result, LedgerUnavailable)


def _event_ids(reservation_id: str) -> list[str]:
    """Of the events that end it; an expiry alone does not say what it used."""
    return [f"{reservation_id}:{word}" for word in ("settled", "settled_late", "released")]
