"""`roll-forward`: how the credit that customers hold has moved in a month, by category."""

import csv
import io
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import err, out, print_json, progress
from gateway.cli.parameters import month
from gateway.cli.statement import print_part
from gateway.operations.backend import Backend
from gateway.operations.statements.layout import roll_table
from gateway.operations.statements.roll_forward import (
    RollForward,
    roll_forward,
    roll_forward_document,
)


@app.command("roll-forward")
def roll_forward_command(
    period: Annotated[
        str, typer.Option(metavar="YYYY-MM", parser=month, help="The calendar month (UTC).")
    ],
    form: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", help="How to print it.")
    ] = "table",
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Show what customers held in credit at the beginning and end of a month, and why it moved, by category.

    It is the roll-forward of deferred revenue. Months are those of the calendar (UTC). Closing is
    the next month's opening, and the total is the sum of the ledger's wallets, or the command fails.
    """

    async def work(backend: Backend) -> RollForward:
        with progress(shown=err.is_terminal) as report:
            return roll_forward(backend.store, period, lambda done: report("events", done, 0))

    document = roll_forward_document(on_ledger(config, work))
    if form == "json":
        print_json(document)
    elif form == "csv":
        typer.echo(_csv(document), nl=False)
    else:
        _print(document)


def _rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    categories = {**document["categories"], "total": document["total"]}
    return [(name, *roll.values()) for name, roll in categories.items()]


def _print(document: Mapping[str, Any]) -> None:
    title = f"{document['period']}, {document['customers']} customers"
    print_part(roll_table(title, document["categories"]), out)


def _csv(document: Mapping[str, Any]) -> str:
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(("period", "category", *document["total"]))
    writer.writerows((document["period"], *cells) for cells in _rows(document))
    return written.getvalue()
