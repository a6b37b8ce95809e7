"""`signals`: alerts that wallets have raised, and their deliveries."""

from typing import Annotated, Literal

import typer

from gateway.app.stores import signal_schedule, store_access
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, explained, read_settings
from gateway.cli.output import AsJson, out, plain, print_json, row, table
from gateway.operations.documents import signal_document
from gateway.operations.signals import list_signals, resend_signal

signals = typer.Typer(help="Alerts that wallets have raised: low balance, exhausted, and so on.")
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
    """List the latest signals and their deliveries. `signals resend` retries dead ones."""
    with explained(), store_access(read_settings(config)).open_or_empty() as store:
        found = [signal_document(signal) for signal in list_signals(store, last, state, customer)]
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
    """Send a delivered or dead signal again, under the same id."""
    with explained():
        queue = signal_schedule(read_settings(config))
        try:
            resend_signal(queue, signal_id)
        finally:
            queue.close()
    out.print(plain("Queued for delivery.", "bold green"))
