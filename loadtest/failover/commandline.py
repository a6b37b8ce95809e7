"""What the commands of all scenarios share."""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console

from loadtest import gate
from loadtest.chaos import NotRecovered
from loadtest.failover.report import show
from loadtest.failover.scenario import NotServed, Run
from loadtest.topology import hosts
from loadtest.topology.node import NodeFailed

RATE: Final = 60.0
"""Requests a second."""


class Scenario(Protocol):
    """Plays a scenario in a folder. Raises NotServed, NotRecovered, GateFailed, NodeFailed."""

    def __call__(
        self, folder: Path, console: Console, *, rate: float = RATE, short: bool = False
    ) -> Run: ...


def command(name: str, description: str, run: Scenario) -> None:
    """The command line of a scenario; exit 1 if the run failed."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second")
    parser.add_argument("--short", action="store_true", help="one failure and its return")
    parser.add_argument("--folder", type=Path, help="keep the data of servers and gate here")
    arguments = parser.parse_args()
    console = Console()
    console.width = max(console.width, 100)
    if not arguments.short and (why := hosts.why_unavailable()):
        console.print(f"Without partitions: {why}.", style="yellow", markup=False)
    with contextlib.ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="failover-")))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            done = run(folder, console, rate=arguments.rate, short=arguments.short)
        except (NotServed, NotRecovered, NodeFailed, gate.GateFailed) as failed:
            console.print(f"The run failed: {failed}", style="red", markup=False)
            sys.exit(1)
    show(done, console)
    sys.exit(0 if done.checked.good else 1)
