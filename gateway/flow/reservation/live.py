"""The reservations whose requests run in this worker: kept alive, looked at, and ended together."""

import asyncio
import time
from typing import Final

from gateway.flow.reservation.reservation import Reservation

LOOK_EVERY_S: Final = 0.5
"""How often the holds are looked through for those that are to be extended."""


class LiveReservations(set[Reservation]):
    """Reservations that have not ended."""

    def look_at(self, customer_id: str | None) -> None:
        """An account was changed (None: any may have been): ask the ledger for its holds now."""
        for reservation in tuple(self):
            if customer_id in (None, reservation.plan.account.customer_id):
                reservation.look()

    def stop_running(self) -> None:
        """End every running request because the gate stops: each is charged what was delivered."""
        for reservation in tuple(self):
            reservation.kill("gate_stopped")

    async def keep_alive(self) -> None:
        """Extend the holds of running requests, each at its policy's interval. Never ends."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            # In a call: a loop variable here would keep an ended reservation, with all that it
            # refers to, alive over the sleep.
            self._extend_due(time.monotonic())

    def _extend_due(self, now: float) -> None:
        for reservation in tuple(self):
            if now >= reservation.due_at:
                reservation.growth.extend()
