"""How the ledger's server is, as one worker sees it: what `/readyz` reports, and what bars admission."""

import asyncio

from gateway.app.ledger_access import LedgerAccess
from gateway.app.shards import LOOK_EVERY_S
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.fitness import UNREACHABLE, Trouble, find_troubles, trouble_of


class LedgerHealth:
    """Watches the server; answers from what it saw last."""

    def __init__(self, ledger: LedgerAccess) -> None:
        self._ledger = ledger
        self._troubles: dict[str, Trouble | None] = {}

    async def watch(self) -> None:
        """Look at the server again and again: find the primary after a failover even where nothing
        is written, and admit nothing on a server that may evict."""
        ledger = self._ledger
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            known = (
                ledger.servers.moves.count
            )  # what connects from now on has followed all moves so far
            troubles = await find_troubles(ledger.client)
            if any(trouble is not None and trouble.moved for trouble in troubles.values()):
                ledger.servers.moves.moved(known)
            for server, trouble in troubles.items():
                barred = trouble is not None and trouble.barred
                ledger.admission.bar(server, trouble.sentence if trouble and barred else None)
            # Whether a server is reachable, the connection of the hot path knows better and sooner.
            self._troubles = {
                server: trouble if trouble is not None and trouble.word != UNREACHABLE else None
                for server, trouble in troubles.items()
            }

    def why_not_ready(self) -> str | None:
        """Why nothing can be admitted, in one word; None while requests are admitted."""
        ledger = self._ledger
        if not ledger.admission.connected:
            return "ledger_unreachable"
        troubles = list(self._troubles.values())
        if troubles and troubles[0] is not None and all(troubles):
            return troubles[0].word
        if ledger.admission.refusal is not None:
            return trouble_of(LedgerUnavailable("", code=ledger.admission.refusal)).word
        shard_count = ledger.reserving.shards.keys.shard_count
        return "every_shard_frozen" if len(ledger.shards.closed) == shard_count else None

    def degraded(self) -> tuple[str, ...]:
        """What refuses some requests although others are admitted."""
        ledger = self._ledger
        words = [f"{server}_unreachable" for server in ledger.admission.down]
        words += [f"{name}_{each.word}" for name, each in self._troubles.items() if name and each]
        if not ledger.admission.connected:
            words = []  # that is no part of the ledger, but all of it
        return (*words, *(f"shard_{n}_frozen" for n in sorted(ledger.shards.closed)))
