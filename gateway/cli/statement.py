"""`statement show CUSTOMER`, `statement close PERIOD`: a customer's month, equal to the ledger to the unit."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer
from rich.console import Console

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import (
    WIDE,
    AsJson,
    err,
    fail,
    moment,
    out,
    plain,
    print_json,
    progress,
    row,
    table,
)
from gateway.cli.parameters import month
from gateway.domain.stores import ClosedStatement
from gateway.operations.backend import Backend
from gateway.operations.statements.closing import (
    Closing,
    ShownStatement,
    close_statements,
    show_statement,
)
from gateway.operations.statements.forms import statement_csv, statement_html
from gateway.operations.statements.layout import Table as Part
from gateway.operations.statements.layout import headline, statement_tables

statement = typer.Typer(help="Statements of customers: a month each.", no_args_is_help=True)
app.add_typer(statement, name="statement")

StatementFormat = Literal["text", "json", "csv", "html"]
Period = Annotated[
    str,
    typer.Option(
        "--period",
        metavar="YYYY-MM",
        parser=month,
        help="The month in which the period begins, on the customer's billing day.",
    ),
]


@statement.command()
def show(
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="The customer's id.")],
    period: Period,
    form: Annotated[
        StatementFormat, typer.Option("--format", help="How to print it. html is one page.")
    ] = "text",
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write it to this file instead of stdout."),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Show a customer's statement of one period: fee, usage by price, credit, corrections, balance.

    Every figure comes from the usage events, and the sum is the ledger's balance, or the command
    fails. A closed period is shown as it was closed.
    """
    shown = on_ledger(config, lambda backend: show_statement(backend, customer, period))
    with ExitStack() as stack:
        opened = stack.enter_context(file.open("w", newline="")) if file is not None else None
        if form == "text":
            _print(shown, out if opened is None else Console(file=opened, width=WIDE))
        else:
            typer.echo(_text(shown, form), file=opened, nl=False)


@statement.command()
def close(
    period: Annotated[
        str, typer.Argument(metavar="YYYY-MM", parser=month, help="The period to close.")
    ],
    customer: Annotated[
        list[str] | None, typer.Option(help="Only this customer's; may be repeated.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Close a period: its statements never change again. Closing again changes nothing.

    What arrives for a closed period later is on the next statement, as corrections. Exit 1 if a
    statement could not be closed.
    """

    async def work(backend: Backend) -> list[Closing]:
        with progress(shown=err.is_terminal and not as_json) as report:
            return await close_statements(
                backend,
                period,
                customer or (),
                lambda done, total: report("statements", done, total),
            )

    closings = on_ledger(config, work)
    if as_json:
        print_json([_closing(each) for each in closings])
    else:
        _print_closings(closings)
    if any(each.problem for each in closings):
        raise typer.Exit(1)


def _text(shown: ShownStatement, form: StatementFormat) -> str:
    if form == "csv":
        return statement_csv(shown.document)
    if form == "html":
        return statement_html(shown.document, _closed_words(shown.closed))
    document = {**shown.document, "sha256": shown.closed.sha256 if shown.closed else None}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


def _print(shown: ShownStatement, to: Console) -> None:
    to.print(plain(headline(shown.document), "bold"))
    to.print(plain(_closed_words(shown.closed) or "open: figures may still change", "dim"))
    for part in statement_tables(shown.document):
        to.print()
        print_part(part, to)


def print_part(part: Part, to: Console) -> None:
    """Print one titled table."""
    numbers = part.columns[len(part.columns) - part.numbers :]
    made = table(*part.columns, right=numbers)
    for at, cells in enumerate(part.rows):
        row(made, cells, "bold" if at >= len(part.rows) - part.bold else None)
    to.print(plain(part.title, "bold"))
    to.print(made)


def _closed_words(closed: ClosedStatement | None) -> str | None:
    if closed is None:
        return None
    return f"Closed {moment(closed.closed_at_ms)} UTC, SHA-256 {closed.sha256}"


def _print_closings(closings: list[Closing]) -> None:
    made = table("customer", "closed", "SHA-256", whole=("customer", "closed"))
    for each in closings:
        if each.closed is not None:
            when = moment(each.closed.closed_at_ms) + (" (before)" if each.already else "")
            row(made, (each.customer_id, when, each.closed.sha256))
    out.print(made)
    for each in closings:
        if each.problem is not None:
            fail(f"{each.customer_id}: {each.problem}")


def _closing(each: Closing) -> Mapping[str, Any]:
    closed = each.closed
    return {
        "customer_id": each.customer_id,
        "closed": closed is not None,
        "already": each.already,
        "sha256": closed.sha256 if closed else None,
        "problem": each.problem,
    }
