"""`signals`: what wallets have announced, and what became of it."""

import sqlite3
from typing import Annotated, Literal

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, open_store, read_settings
from gateway.cli.output import AsJson, fail, out, plain, print_json, row, table
from gateway.exporter.signals import resend as send_again
from gateway.operations.documents import signal_document

signals = typer.Typer(help="What wallets have announced: low balance, exhausted, and so on.")
app.add_typer(signals, name="signals", no_args_is_help=True)


@signals.command(name="list")
def list_(
    state: Annotated[
        Literal["waiting", "delivered", "dead"] | None, typer.Option(help="Only these.")
    ] = None,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.")] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many.")] = 20,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List the latest signals and their deliveries. Dead ones were given up: `signals resend`."""
    with open_store(read_settings(config).events_path) as store:
        found = [
            signal_document(signal)
            for signal in store.signals(last, state=state, customer_id=customer)
        ]
    if as_json:
        print_json(found)
        return
    columns = ("at", "customer", "signal", "balance", "state", "attempts", "id", "reason")
    shown = table(*columns, whole=("signal", "id"))
    for each in found:
        row(
            shown,
            (
                each["occurred_at"],
                each["customer_id"],
                each["name"],
                each["balance"],
                each["state"],
                each["attempts"],
                each["signal_id"],
                each["reason"],
            ),
            "red" if each["state"] == "dead" else "",
        )
    out.print(shown)


@signals.command()
def resend(
    signal_id: Annotated[str, typer.Argument(help="As `signals list` shows it.")],
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Send a signal again that was delivered or given up, under its own id."""
    try:
        found = send_again(read_settings(config).events_path, signal_id)
    except sqlite3.OperationalError as error:
        raise fail(f"the store cannot be written: {error}") from None
    if not found:
        raise fail(f"there is no signal {signal_id} that was delivered or given up")
    out.print(plain("It waits to be sent again.", "bold green"))
