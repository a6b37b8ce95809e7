"""How a worker stops: accept nothing new, let requests end, settle all, close everything."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from gateway.app.background import Background, JournalReplay
from gateway.app.ledger_access import LedgerAccess
from gateway.app.pools import PoolRegistry
from gateway.app.records import Records
from gateway.flow.handler import Flow
from gateway.flow.reservation.delivery import Delivery
from gateway.flow.reservation.kept_settlements import KeptSettlements
from gateway.flow.reservation.live import LiveReservations
from gateway.http.server.server import HttpServer

# After the grace; together less than `worker.SETTLE_TIME_S`.
FRAME_S: Final = 0.5
"""For running answers to end with an error frame that reaches their clients."""
LEAVE_S: Final = 0.5
"""For handlers whose connection was cut to end by themselves, before they are cancelled."""
DELIVER_S: Final = 3.0
"""For their settlements to reach the ledger or the journal."""


@dataclass(slots=True)
class Drain:
    """Stops one worker, once. What it stops is given; it builds nothing."""

    flow: Flow
    server: HttpServer
    live: LiveReservations
    delivery: Delivery
    background: Background
    replay: JournalReplay
    kept: KeptSettlements
    pools: PoolRegistry
    records: Records
    ledger: LedgerAccess
    _done: asyncio.Event | None = field(default=None, init=False)

    async def run(self, grace_s: float) -> None:
        """Drain. A second call while the first runs ends the grace; both return at the end."""
        if self._done is not None:
            await self._end_running()
            await self._done.wait()
            return
        self._done = asyncio.Event()
        self.flow.draining = True
        await self.server.drain(grace_s)
        await self._end_running()
        await self.delivery.drain(DELIVER_S)
        await self.background.stop()
        await self.replay.replay_own()
        await self.kept.leave()
        await self.pools.close()
        await self.records.close()
        await self.ledger.close()
        self._done.set()

    async def _end_running(self) -> None:
        """End what still runs: by an error frame, then by closing the connections.

        The gate ends these answers, not their clients: each reservation is marked before its
        connection is cut, so that no policy for clients who leave applies.
        """
        self.live.stop_running()
        await self.server.drain(FRAME_S)
        self.live.stop_running()  # what was being admitted meanwhile
        await self.server.close(LEAVE_S)
