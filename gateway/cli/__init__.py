"""The command `creditgate`. One file per group of commands; each adds itself to `app` here."""

import importlib
import sys
from typing import Annotated

import structlog
import typer

from gateway import __version__

app = typer.Typer(
    name="creditgate",
    help="Decides, before each API request runs, whether the customer can pay for it.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

_GROUPS: tuple[str, ...] = (
    "dev",
    "demo",
    "serve",
    "export",
    "check",
    "wallet",
    "adjust",
    "refund",
    "payments",
    "mode",
    "signals",
    "customer",
    "customer_link",
    "key",
    "import_customers",
    "init",
    "console",
    "holds",
    "quote",
    "prices",
    "prices_plan",
    "events",
    "report",
    "reconcile",
    "compare",
    "statement",
    "roll_forward",
    "rerate",
    "audit",
    "why",
    "verify",
    "ledger",
    "shards",
    "loadtest",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"creditgate {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Decides, before each API request runs, whether the customer can pay for it."""


def main() -> None:
    """Entry point of the command."""
    # stdout is for answers; what serves configures its logs itself.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for group in _GROUPS:
        importlib.import_module(f"gateway.cli.{group}")
    app()
