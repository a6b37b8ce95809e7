"""Run the exporter: start it, drain it, read its figures.

The caller supplies the outbox, the ledger's `ack` and a sink, and chooses how to run it:
`Exporter` next to other work on a loop, or `run_exporter` until a signal.
"""

import asyncio
import gc
import signal
from typing import Any

from gateway.exporter.interface import Acknowledger
from gateway.exporter.pacing import PumpOptions
from gateway.exporter.pump import Pump
from gateway.exporter.sharing import Sharing
from gateway.exporter.sink import Sink
from gateway.exporter.tally import Tally
from gateway.ledger.outbox import Outbox


class Exporter:
    """One pump in a separate task."""

    def __init__(
        self,
        outbox: Outbox,
        acknowledger: Acknowledger,
        sink: Sink,
        *,
        options: PumpOptions | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self._pump = Pump(outbox, acknowledger, sink, options=options, sharing=sharing)
        self.tally = self._pump.tally
        self.live = self._pump.live
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """Start pumping. The task ends after `drain`, or raises what is a bug.

        The exporter runs in a separate process. Its batches are tens of thousands of objects that live for
        milliseconds, so the garbage collector runs less often (it took a quarter of the time).
        """
        assert self._task is None, "already started"
        gc.set_threshold(50_000, 20, 50)
        self._task = asyncio.create_task(self._pump.run())
        return self._task

    def stop(self, grace_s: float) -> None:
        """Deliver what the outbox has, for at most `grace_s`; a second call can only shorten
        that."""
        self._pump.stop(grace_s=grace_s)

    async def drain(self, grace_s: float) -> None:
        """Stop, and wait until the task has ended."""
        self.stop(grace_s)
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def held_shards(self) -> frozenset[int]:
        """The shards that are exported here."""
        return self._pump.held

    @property
    def frozen_shards(self) -> frozenset[int]:
        """Those of them that are frozen, and of which nothing is on its way to the store."""
        return self._pump.halted

    def snapshot(self) -> dict[str, float]:
        """Return the figures so far, by name."""
        return self.tally.snapshot()

    def sink_snapshots(self) -> dict[str, dict[str, float]]:
        """Return the figures of each optional sink, by its name."""
        return {follower.name: follower.tally.snapshot() for follower in self._pump.followers}


async def run_exporter(exporter: Exporter, *, grace_s: float = 10.0) -> Tally:
    """Export until SIGTERM or SIGINT, then deliver what is left (a second signal: stop
    immediately)."""
    loop = asyncio.get_running_loop()
    signals: list[Any] = [signal.SIGTERM, signal.SIGINT]
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        exporter.stop(grace_s if asked == 1 else 0.0)

    for number in signals:
        loop.add_signal_handler(number, ask)
    try:
        await exporter.begin()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
    return exporter.tally
