"""Shows a load in a terminal: its progress, and its figures as a table."""

import asyncio

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtest.generator.load import Load
from loadtest.generator.result import Result, percentile


async def watched(load: Load, console: Console) -> Result:
    """Run a load with its progress shown."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting")

        async def show() -> None:
            while True:
                counts = ", ".join(f"{n}× {s or 'none'}" for s, n in load.result.statuses.items())
                progress.update(task, description=f"{load.result.sent} sent · {counts}")
                await asyncio.sleep(0.2)

        showing = asyncio.ensure_future(show())
        try:
            return await load.run()
        finally:
            showing.cancel()


def summary(result: Result) -> Table:
    """The figures of a load, as a table."""
    table = Table("figure", "value", show_header=False)
    table.add_row("good answers", f"{result.good:,} in {result.seconds:.1f} s")
    table.add_row("a second", f"{result.per_second:,.0f}")
    for name, values in (("first byte", result.first_byte_s), ("full response", result.total_s)):
        cells = [f"{percentile(values, share) * 1e3:.2f}" for share in (0.5, 0.9, 0.99)]
        table.add_row(f"{name}, ms p50 / p90 / p99", " / ".join(cells))
    for ending, count in sorted(result.endings.items()):
        table.add_row(f"ended {ending}", f"{count:,}")
    for (status, code), count in sorted(result.refusals.items()):
        table.add_row(f"refused {status} {code}", f"{count:,}")
    if result.connect_failures:
        table.add_row("connect failures", f"{result.connect_failures:,}")
    return table
