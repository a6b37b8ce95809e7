"""`make hostile`: every attack on a fresh gate, and what it cost the gate and everybody else.

    python -m loadtest.hostile [--share 0.2] [--only NAME] [--pause-ms 50]

Exit 1 if an attack was answered as it may not be, took too much memory, paused the event loop for
longer than `--pause-ms`, or kept an honest client from being served. On a machine that does other
work the pauses say nothing; `--pause-ms 0` leaves them unjudged.
"""

import argparse
import asyncio
import contextlib
import resource
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from loadtest.hostile.arena import HONEST, Arena, arena
from loadtest.hostile.attacks import ATTACKS, CHAT, Attack, Found
from loadtest.hostile.probe import Probe, Probed
from loadtest.hostile.wire import chat, request

MIB: Final = 1024 * 1024
_CALM_S: Final = 1.0
"""Before and after an attack: what the honest client waits then is no fault of the attack."""
_SAMPLE_S: Final = 0.1
_FEWEST_SERVED: Final = 0.99


@dataclass(frozen=True, slots=True)
class Row:
    """What one attack did.

    found:  what its requests were answered
    honest: what another customer saw meanwhile
    memory before, at most and afterwards: of the worker, bytes
    """

    attack: Attack
    found: Found
    honest: Probed
    before_bytes: int
    most_bytes: int
    after_bytes: int

    @property
    def pause_ms(self) -> float:
        """How much longer than usual the honest client waited at worst."""
        return self.honest.longest_ms - self.honest.median_ms

    def faults(self, most_pause_ms: float) -> list[str]:
        """What should not be so. most_pause_ms: 0 leaves the pause unjudged."""
        faults = []
        allowed = self.attack.allowed
        wrong = [] if allowed is None else sorted(self.found.keys() - allowed)
        if wrong:
            faults.append(f"answered {', '.join(wrong)}")
        if self.most_bytes - self.before_bytes > self.attack.most_growth_bytes:
            faults.append("memory")
        if self.honest.served < _FEWEST_SERVED or self.honest.wrong:
            faults.append("others not served")
        if 0 < most_pause_ms < self.pause_ms:
            faults.append("pause")
        return faults


async def attack_with(
    attack: Attack, place: Arena, share: float, *, calm_s: float = _CALM_S
) -> Row:
    """Attack while an honest client sends requests, which begin before and end after it.

    calm_s: how long before and how long after
    """
    victim = request("POST", CHAT, HONEST, chat(attack.victim, HONEST))
    before_bytes = most_bytes = place.memory_bytes()

    async def watch() -> None:
        nonlocal most_bytes
        while True:
            most_bytes = max(most_bytes, place.memory_bytes())
            await asyncio.sleep(_SAMPLE_S)

    probe = Probe(place.address, victim, attack.expected)
    await asyncio.to_thread(probe.__enter__)
    watching = asyncio.create_task(watch())
    try:
        await asyncio.sleep(calm_s)
        found = await attack.run(place, share)
        await asyncio.sleep(calm_s)
    finally:
        watching.cancel()
        await asyncio.to_thread(probe.__exit__)
    return Row(attack, found, probe.found, before_bytes, most_bytes, place.memory_bytes())


def one_row(attack: Attack, share: float) -> Row:
    """Attack a fresh gate: what one attack leaves behind must not be another's."""
    with (
        tempfile.TemporaryDirectory(prefix="hostile-") as name,
        arena(Path(name), day_events=round(attack.day_events * share)) as place,
    ):
        return asyncio.run(attack_with(attack, place, share))


def table(rows: list[Row], most_pause_ms: float) -> Table:
    """All rows."""
    shown = Table(
        "attack", "answered", "pause, ms", "memory, MiB", "others served", "fault", title="hostile"
    )
    for row in rows:
        answered = ", ".join(f"{count} × {word}" for word, count in row.found.most_common())
        memory = " → ".join(
            f"{size / MIB:.0f}" for size in (row.before_bytes, row.most_bytes, row.after_bytes)
        )
        total = row.honest.statuses.total()
        served = f"{row.honest.served:.1%} of {total}"
        faults = ", ".join(row.faults(most_pause_ms)) or "–"
        shown.add_row(row.attack.name, answered, f"{row.pause_ms:.0f}", memory, served, faults)
    return shown


def raise_file_limit() -> None:
    """Use as many files as this process may: the attackers' connections are its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Entry point of `python -m loadtest.hostile`."""
    parser = argparse.ArgumentParser(prog="loadtest.hostile", description="Attacks on a gate.")
    parser.add_argument("--share", type=float, default=1.0, help="of each attack's size")
    parser.add_argument("--only", default="", help="attacks whose name contains this")
    parser.add_argument("--pause-ms", type=float, default=50.0, help="longest pause; 0 is any")
    arguments = parser.parse_args()
    raise_file_limit()
    console = Console()
    console.width = max(console.width, 140)
    rows = []
    for attack in ATTACKS:
        if arguments.only in attack.name:
            with console.status(attack.name):
                rows.append(one_row(attack, arguments.share))
    console.print(table(rows, arguments.pause_ms))
    sys.exit(any(row.faults(arguments.pause_ms) for row in rows))


if __name__ == "__main__":
    main()
