"""`make sinks` prints what each sink costs the exporter, next to a bare loader in the same run.

Each sink is measured in a separate process, on its real server, with an interruption in the middle. The table
judges the CPU of the exporter's process, user and system, all threads: the servers share the cores.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_LINE: Final = re.compile(r"([a-z_ ,.]+): +([\d,]+) a CPU second, +([\d,]+) a second by the clock")


@dataclass(frozen=True, slots=True)
class Target:
    """Events per CPU second of the exporter's process."""

    must: int
    aim: int


TARGETS: Final = {
    "sqlite": Target(60_000, 100_000),
    "postgres": Target(60_000, 100_000),
    "clickhouse": Target(60_000, 150_000),
    "kafka": Target(60_000, 200_000),
    "nats": Target(25_000, 50_000),
}


def measure(sink: str, events: int) -> tuple[list[tuple[str, int, int]], str]:
    """Run one sink's measurement; its lines as (what, by CPU, by clock), and all of its output."""
    command = [sys.executable, "-m", f"loadtest.sinks.{sink}", "--events", str(events)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [
        (what.strip(), int(cpu.replace(",", "")), int(clock.replace(",", "")))
        for what, cpu, clock in _LINE.findall(done.stdout)
    ]
    text = done.stdout + (done.stderr if done.returncode else "")
    if done.returncode:
        lines.append((f"failed with {done.returncode}", 0, 0))
    return lines, text


def main() -> int:
    """Measure all, print the table; 1 if one failed or misses its must without interruption."""
    parser = argparse.ArgumentParser(prog="make sinks", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--sink", choices=TARGETS, nargs="+", default=list(TARGETS))
    given = parser.parse_args()
    table = Table("sink", "run", "a CPU second", "a second by the clock", "must", "aim", "")
    texts, missed = [], False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(given.sink))
        for sink in given.sink:
            bar.update(task, description=sink)
            lines, text = measure(sink, given.events)
            texts.append(f"{sink}\n{text}")
            target = TARGETS[sink]
            for what, by_cpu, by_clock in lines:
                judged = what == "exporter"
                good = by_cpu >= target.must
                missed |= (judged and not good) or not by_cpu
                verdict = ("met" if good else "missed") if judged else ""
                goals = (f"{target.must:,}", f"{target.aim:,}") if judged else ("", "")
                table.add_row(sink, what, f"{by_cpu:,}", f"{by_clock:,}", *goals, verdict)
            bar.advance(task)
    console = Console()
    console.print("\n".join(texts), highlight=False, markup=False)
    console.print(table)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
