"""The exporter as a process' work: start it, drain it, ask it how it does.

Whoever composes gives it the outbox, the ledger's `ack` and a sink, and chooses how it is run:
`Exporter` beside other work on a loop, `run_exporter` until a signal.
"""

import asyncio
import gc
import signal
from typing import Any

from gateway.exporter.pump import Acknowledger, Pump, PumpOptions
from gateway.exporter.sink import Sink
from gateway.exporter.tally import Tally
from gateway.ledger.outbox import Outbox


class Exporter:
    """One pump in a task of its own."""

    def __init__(
        self,
        outbox: Outbox,
        acknowledger: Acknowledger,
        sink: Sink,
        options: PumpOptions | None = None,
    ) -> None:
        self.tally = Tally()
        self._pump = Pump(outbox, acknowledger, sink, tally=self.tally, options=options)
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """Start pumping. The task ends after `drain`, or raises what is a bug.

        The exporter has a process of its own; its batches are tens of thousands of objects that
        live for milliseconds, so the collector is told to look less often (seen: a quarter of
        the time).
        """
        assert self._task is None, "begun already"
        gc.set_threshold(50_000, 20, 50)
        self._task = asyncio.create_task(self._pump.run())
        return self._task

    def stop(self, grace_s: float) -> None:
        """Deliver what the outbox holds, for at most `grace_s`; called again it only shortens that."""
        self._pump.stop(grace_s=grace_s)

    async def drain(self, grace_s: float) -> None:
        """Stop, and wait until it has ended."""
        self.stop(grace_s)
        if self._task is not None:
            await asyncio.wait([self._task])

    def snapshot(self) -> dict[str, float]:
        """The tally so far, by name."""
        return self.tally.snapshot()


async def run_exporter(
    outbox: Outbox,
    acknowledger: Acknowledger,
    sink: Sink,
    *,
    options: PumpOptions | None = None,
    grace_s: float = 10.0,
) -> Tally:
    """Export until SIGTERM or SIGINT, then deliver what is there (a second signal: at once)."""
    exporter = Exporter(outbox, acknowledger, sink, options)
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
