"""Grants and corrections that the ledger has answered and that the store may not have yet, kept in memory.

A failover to a replica that lagged loses what the ledger has answered in the last moments. A customer was
promised the credit of a top-up by then; so the process that said so keeps the operation until the store has
its event, and repeats it when the store has got past its place without it. An operation that was not
lost is recognised by its id. Settlements are kept by workers, in a cheaper way (`gateway/flow/reservation`).

Invariant: an operation leaves when the store has its event, by id, or when the ledger refuses it for good.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from gateway.domain.delivery import Place
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.ledger.shards import Operated, Shards

MOST_KEPT: Final = 10_000

_log = structlog.get_logger("ledger")


class KeptOperations:
    """Those of one process. `look` now and then."""

    def __init__(
        self,
        shards: Shards,
        known_ids: Callable[[Sequence[str]], set[str]],
        *,
        most: int = MOST_KEPT,
    ) -> None:
        """shards: by which operations are repeated. known_ids: those of some events that the store has;
        blocks; raises StoreMissing. most: the oldest are given up beyond it"""
        self._shards = shards
        self._known_ids = known_ids
        self._kept: deque[Operated] = deque(maxlen=most)
        self.note: Callable[[Operated], None] = self._kept.append
        """Keep one: what `Shards.operated` is to be."""
        shards.operated = self.note

    def __len__(self) -> int:
        return len(self._kept)

    async def look(self, stored: Mapping[int, Place]) -> None:
        """Let go of what the store has, and repeat what was lost. Raises StoreMissing.

        stored: how far the store has each shard
        """
        due = [each for each in self._kept if each.place <= stored.get(each.shard, _NOWHERE)]
        if not due:
            return
        known = await asyncio.to_thread(self._known_ids, [each.op_id for each in due])
        for each in due:
            if each in self._kept:  # else it was given up meanwhile
                self._kept.remove(each)
                if each.op_id not in known:
                    await self._repeat(each)

    async def _repeat(self, lost: Operated) -> None:
        verb, said = lost.verb, {"customer_id": lost.customer_id, "op_id": lost.op_id}
        try:
            reply = await self._shards.operate(
                verb, lost.customer_id, lost.op_id, lost.terms, lost.facts
            )
        except LedgerUnavailable:
            self._kept.append(lost)
        except (LedgerRefusal, ValueError) as refused:
            _log.error("operation_lost", verb=verb, reason=str(refused), **said)
        else:
            if not reply[-1]:  # else the shard had it, and its event is on the way
                _log.warning("operation_repeated", verb=verb, **said)


_NOWHERE: Final = Place(0, -1)
