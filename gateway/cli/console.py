"""`console`: a way in to the console, and the console without a gate."""

from typing import Annotated

import typer

from gateway.app.backend import command_actor
from gateway.app.run import run_console
from gateway.app.sign_in_links import console_url, sign_in_link
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_backend, read_settings
from gateway.cli.output import fail, out, plain
from gateway.cli.serve import Logs, explained
from gateway.operations.tokens import offer_sign_in

console = typer.Typer(help="The console: a way in, and running it alone.")
app.add_typer(console, name="console", no_args_is_help=True)


@console.command()
def link(
    at: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the console listens, if `console.port` is 0 in the configuration.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Print a link that signs you in once, within the hour, with every right."""
    settings = read_settings(config)
    section = settings.console
    if not section.enabled:
        raise fail("the console is disabled: set `console.enabled: true`")
    if at is None and section.port == 0 and section.public_url is None:
        raise fail("`console.port` is 0: say where the console listens, with --at HOST:PORT")
    url = console_url(settings, at or f"{section.host}:{section.port}")
    code = on_backend(
        settings, lambda backend: offer_sign_in(backend.accounts, command_actor()), need_store=False
    )
    out.print(plain(sign_in_link(url, code)), soft_wrap=True)


@console.command()
def run(config: ConfigFile = DEFAULT_CONFIG, logs: Logs = None) -> None:
    """Run the console and the admin API without a gate, until SIGTERM or Ctrl-C.

    They work on the ledger of gates that run elsewhere, and have probes on the admin port as a gate.
    """
    with explained():
        run_console(config, logs=logs.value if logs else None)
