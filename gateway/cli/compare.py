"""`compare`: existing invoices next to what the gate has charged."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.app.stores import store_access
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, explained, on_backend, read_settings
from gateway.cli.output import AsJson, err, fail, progress
from gateway.cli.sheets import Answer, AsFormat, Output, show_sheet
from gateway.operations.invoices import (
    CompareRequest,
    Invoices,
    billing_days,
    compare_invoices,
    compared_sheet,
    read_invoices,
)


@app.command()
def compare(
    invoices: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="CSV with the columns customer_id, period (2027-01 or 2027-01-10/2027-02-10), amount"
            " (credits) and, if you like, model.",
        ),
    ],
    mode: Annotated[
        Literal["shadow", "enforce"],
        typer.Option(help="Charges of shadow wallets, or of the live ones."),
    ] = "shadow",
    form: AsFormat = "table",
    output: Output = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Set existing invoices next to what the gate has charged, by customer and period."""
    settings = read_settings(config)
    with explained():
        found = _read(invoices)
        days = on_backend(settings, lambda backend: billing_days(backend.accounts.wallets, found))
        request = CompareRequest(found, mode, lambda customer_id: days.get(customer_id, 1))
        with (
            store_access(settings).open_or_empty() as store,
            progress(shown=err.is_terminal) as bar,
        ):
            compared = compare_invoices(store, request, lambda count: bar("events", count, 0))
        unmatched = sum(each.status != "matched" for each in compared)
        answer = Answer("json" if as_json else form, output)
        sheet = compared_sheet(compared, by_model=found.by_model)
        show_sheet(sheet, answer, {"mode": mode, "unmatched": unmatched})


def _read(file: Path) -> Invoices:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return read_invoices(lines)
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror}", 2) from None
    except UnicodeDecodeError:
        raise fail(f"cannot read {file}: it is not UTF-8 text", 2) from None
