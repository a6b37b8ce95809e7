"""`mode show|set|reset`: whether requests that cannot be paid are refused, switched while gates run."""

from typing import Annotated, Any

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import AsJson, out, plain, print_json, row, table
from gateway.domain.customers import Mode
from gateway.operations.modes import (
    ModeChange,
    change_mode,
    mode_document,
    modes_document,
    show_modes,
)

mode = typer.Typer(
    help="Whether requests that cannot be paid are refused: bypass, shadow, enforce."
)
app.add_typer(mode, name="mode", no_args_is_help=True)

Customer = Annotated[str | None, typer.Option(help="Only this customer's; without it everyone's.")]
Reason = Annotated[str, typer.Option(help="Why; kept on record.")]


@mode.command()
def show(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show the mode in force for everything, and the customers that have their own."""
    document = modes_document(on_ledger(config, show_modes))
    if as_json:
        print_json(document)
        return
    shown = table("customer", "mode", "from", "since", "by", "reason")
    _row(shown, "everything", document["everything"])
    for name, each in document["customers"].items():
        _row(shown, name, each)
    out.print(shown)


@mode.command(name="set")
def set_(
    wanted: Annotated[
        Mode,
        typer.Argument(
            metavar="MODE",
            help="bypass: forward without asking the ledger. shadow: decide and charge shadow wallets,"
            " and forward in any case. enforce: refuse what cannot be paid.",
        ),
    ],
    reason: Reason,
    customer: Customer = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Set the mode of everything or of one customer. Every gate follows within a second."""
    _change(ModeChange(customer, wanted, reason), config, as_json=as_json)


@mode.command()
def reset(
    reason: Reason,
    customer: Customer = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Return to what the configuration says."""
    _change(ModeChange(customer, None, reason), config, as_json=as_json)


def _change(change: ModeChange, config: ConfigFile, *, as_json: bool) -> None:
    changed = on_ledger(config, lambda backend: change_mode(backend, change))
    if as_json:
        print_json(mode_document(changed))
        return
    whom = changed.customer_id or "Everything"
    already = "" if changed.changed else "already "
    out.print(plain(f"{whom} is {already}in mode {changed.mode}.", "bold green"))
    if changed.kept:
        out.print(plain(f"{changed.kept} customers keep their own mode: `mode show`."))


def _row(shown: Any, name: str, document: dict[str, Any]) -> None:
    row(
        shown,
        (
            name,
            document["mode"],
            document["source"],
            *(document.get(key) for key in ("since", "actor", "reason")),
        ),
    )
