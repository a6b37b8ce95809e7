"""The command `creditgate`. One file per group of commands; each adds itself to `app` here."""

import importlib

import typer

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
    "signals",
    "key",
    "holds",
    "quote",
    "prices",
    "prices_plan",
    "events",
    "why",
    "verify",
    "ledger",
    "loadtest",
)


def main() -> None:
    """Entry point of the command."""
    for group in _GROUPS:
        importlib.import_module(f"gateway.cli.{group}")
    app()
