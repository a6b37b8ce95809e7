"""How the ledger's server is, as one worker sees it: what `/readyz` reports, and what bars admission."""

import asyncio

from gateway.app.ledger_access import LedgerAccess
from gateway.app.shards import LOOK_EVERY_S
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.fitness import UNREACHABLE, Trouble, find_trouble, trouble_of


class LedgerHealth:
    """Watches the server; answers from what it saw last."""

    def __init__(self, ledger: LedgerAccess) -> None:
        self._ledger = ledger
        self._trouble: Trouble | None = None

    async def watch(self) -> None:
        """Look at the server again and again: find the primary after a failover even where nothing
        is written, and admit nothing on a server that may evict."""
        ledger = self._ledger
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            known = ledger.moves.count  # what connects from now on has followed all moves so far
            trouble = await find_trouble(ledger.client)
            if trouble is not None and trouble.moved:
                ledger.moves.moved(known)
            barred = trouble is not None and trouble.barred
            ledger.admission.barred = trouble.sentence if trouble is not None and barred else None
            # Whether the server is reachable, the connection of the hot path knows better and sooner.
            reached = trouble is not None and trouble.word != UNREACHABLE
            self._trouble = trouble if reached else None

    def why_not_ready(self) -> str | None:
        """Why nothing can be admitted, in one word; None while requests are admitted."""
        ledger = self._ledger
        if not ledger.admission.connected:
            return "ledger_unreachable"
        if self._trouble is not None:
            return self._trouble.word
        if ledger.admission.refusal is not None:
            return trouble_of(LedgerUnavailable("", code=ledger.admission.refusal)).word
        shard_count = ledger.reserving.shards.keys.shard_count
        return "every_shard_frozen" if len(ledger.shards.closed) == shard_count else None

    def degraded(self) -> tuple[str, ...]:
        """What refuses some requests although others are admitted."""
        return tuple(f"shard_{shard}_frozen" for shard in sorted(self._ledger.shards.closed))
