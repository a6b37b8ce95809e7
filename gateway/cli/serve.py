"""`serve`: the gate in front of your own provider, on your own Redis if you configure one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gateway.app.parts import CannotStart, ConfigRefused
from gateway.app.run import run_gate
from gateway.app.sign_in_links import link_at
from gateway.app.supervisor import Running
from gateway.cli import app
from gateway.settings import Settings


class LogStyle(StrEnum):
    """How log lines look."""

    JSON = "json"
    PRETTY = "pretty"


Logs = Annotated[
    LogStyle | None,
    typer.Option(help="How log lines look; pretty on a terminal, else json."),
]


@app.command()
def serve(
    config: Annotated[
        Path, typer.Argument(help="The configuration file.", envvar="CREDITGATE_CONFIG")
    ],
    ready_file: Annotated[
        Path | None,
        typer.Option(help="Write the gate's URL into this file once it serves."),
    ] = None,
    logs: Logs = None,
) -> None:
    """Run the gate until SIGTERM or Ctrl-C; running answers end and are settled first.

    SIGHUP, or a change of the file, reloads the configuration, completely or not at all.
    """

    async def ready(settings: Settings, running: Running) -> None:
        if running.console and sys.stdout.isatty():
            link = await link_at(settings, running.ledger_url, running.console)
            typer.echo(f"console: {link} (signs you in once, within the hour)")
        if ready_file is not None:
            staged = ready_file.with_name(f".{ready_file.name}.staged")
            staged.write_text(f"{gate_url(running, secure=settings.listen.tls is not None)}\n")
            staged.rename(ready_file)

    with explained():
        run_gate(config, ready, logs=logs.value if logs else None)


def gate_url(running: Running, *, secure: bool = False) -> str:
    """Where a client on this machine reaches the gate."""
    host, _, port = running.gate.rpartition(":")
    local = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - compared
    return f"{'https' if secure else 'http'}://{local}:{port}"


@contextmanager
def explained() -> Iterator[None]:
    """Print what keeps a gate from starting, and exit 1."""
    console = Console(stderr=True)
    try:
        yield
    except ConfigRefused as error:
        noun = "problem" if len(error.problems) == 1 else "problems"
        console.print(f"[bold red]{len(error.problems)} {noun} in the configuration:[/]")
        for problem in error.problems:
            console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except CannotStart as error:
        console.print("[bold red]The gate cannot start:[/]", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
