"""How every command answers: tables and timelines for people, one JSON document with `--json`.

Answers go to stdout, progress and errors to stderr. Text from outside (ids, models, reasons) is
printed as it is, never read as markup.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gateway.operations.documents import timestamp

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
WIDE: Final = 200
"""Columns of what goes into a pipe or a file, unless COLUMNS is set or stdout is a terminal."""

known = sys.stdout.isatty() or "COLUMNS" in os.environ
out = Console(highlight=False, width=None if known else WIDE)
err = Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    """One document, indented for people if stdout is a terminal, else on one line."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    typer.echo(orjson.dumps(document, option=option).decode())


def table(*columns: str, right: Iterable[str] = (), whole: Iterable[str] = ()) -> Table:
    """An empty table. `right`: the columns of numbers; `whole`: of ids, which are not wrapped."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    numbers, unbroken = set(right), set(whole)
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in numbers else "left",
            no_wrap=column in unbroken,
            overflow="fold",  # a truncated number would be another number
        )
    return made


def row(into: Table, cells: Sequence[object], style: str | None = None) -> None:
    """Add a row of plain text."""
    into.add_row(*(Text("" if cell is None else str(cell)) for cell in cells), style=style)


def plain(text: object, style: str = "") -> Text:
    """Text that is not read as markup."""
    return Text(str(text), style=style)


def moment(unix_ms: int) -> str:
    """A time as tables show it."""
    return timestamp(unix_ms).replace("T", " ").removesuffix("Z")


def fail(message: str, code: int = 1) -> typer.Exit:
    """Print an error; raise what is returned."""
    err.print(plain(message, "red"))
    return typer.Exit(code)


@contextmanager
def progress(shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, fed with what is done: name, count, total (0: not known)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not shown) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield report
