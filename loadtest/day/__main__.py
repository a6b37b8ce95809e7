"""Plays one business day on a real gate, with its embedded ledger and a simulated provider.

python -m loadtest.day --customers 3000
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest import child, gate
from loadtest.day.business import Business, DayFailed
from loadtest.day.customers import make_customers
from loadtest.day.payment import STRIPE_SECRET
from loadtest.day.pictures import take
from loadtest.day.steps import Day
from loadtest.ports import free_ports


def play(
    folder: Path, customers: int, load: int, out: Console, pictures: Path | None = None
) -> list[tuple[str, float, str]]:
    """Every step with its duration in seconds and its result. Raises DayFailed, GateFailed.

    load:     requests of each step that sends some
    pictures: a folder for pictures of the console at the end; None for none
    """
    with ExitStack() as stack:
        [console_port] = free_ports(1)
        config = gate.write_config(
            folder,
            stack.enter_context(_provider()),
            workers=2,
            keys=(),
            changes=_changes(console_port),
        )
        running = stack.enter_context(gate.serving(config))
        business = Business(
            config,
            running.url,
            f"http://127.0.0.1:{console_port}",
            make_customers(customers),
            out,
        )
        done = []
        day = Day(business, folder, load)
        for title, step in day.steps:
            began = time.monotonic()
            out.print(f"[bold]{title}[/bold]")
            result = step()
            done.append((title, time.monotonic() - began, result))
            out.print(f"  {result} ({done[-1][1]:.1f} s)", style="green", markup=False)
        if pictures is not None:
            take(business, day.pages(), pictures)
    return done


def _changes(console_port: int) -> dict[str, Any]:
    return {
        "plans": {"starter": {}, "team": {}},
        "prices": {"auto_apply": False},
        "console": {"host": "127.0.0.1", "port": console_port},
        "payments": {"stripe": {"webhook_secret": STRIPE_SECRET, "credits_per_unit": {"usd": "1"}}},
    }


@contextmanager
def _provider() -> Iterator[str]:
    command = [sys.executable, "-m", "loadtest.provider", "--port", "0"]
    with child.running(command, patience_s=5, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def main() -> None:
    """The command line; exit 1 if a step failed."""
    parser = argparse.ArgumentParser(prog="loadtest.day", description="One business day.")
    parser.add_argument("--customers", type=int, default=3000)
    parser.add_argument("--load", type=int, default=2000, help="requests of a step that sends some")
    parser.add_argument("--pictures", type=Path, help="folder for pictures; needs Chromium")
    arguments = parser.parse_args()
    out = Console()
    try:
        with tempfile.TemporaryDirectory(prefix="creditgate-day-") as folder:
            done = play(Path(folder), arguments.customers, arguments.load, out, arguments.pictures)
    except (DayFailed, gate.GateFailed) as failed:
        out.print(f"The day failed: {failed}", style="red", markup=False)
        sys.exit(1)
    shown = Table("step", "s", "result")
    for title, took_s, result in done:
        shown.add_row(title, f"{took_s:.1f}", result)
    out.print(shown)


if __name__ == "__main__":
    main()
