"""`check` and `schema`: check a configuration, and print what one may contain."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.app.ledger_report import report_ledger
from gateway.app.stores import open_sinks, store_access
from gateway.cli import app
from gateway.cli.check_ledger import print_ledger
from gateway.cli.check_live import LiveAnswer, ask_live
from gateway.cli.context import explained
from gateway.domain.money import format_amount, format_rate
from gateway.domain.usage import TOKEN_UNITS
from gateway.operations.ledger_report import LedgerReport, ledger_document
from gateway.settings import Problem, Settings, SettingsError, load_settings
from gateway.settings.catalogue import ModelSection
from gateway.settings.notes import notes_of
from gateway.settings.reference import reference_text
from gateway.settings.scalars import TOKENS_PER_PRICE
from gateway.settings.schema import schema_text


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The configuration file.")],
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Also ask the ledger: whether it would take this, and which prices are pending.",
        ),
    ] = False,
    connect: Annotated[
        bool,
        typer.Option(
            "--connect",
            help="Also open every sink (address, credentials, rights), and ask the ledger's servers"
            " what they allow and keep.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Read a configuration and report every mistake in it; exit 1 if there is one.

    Changes nothing, but for `--connect`, which makes a store's tables where it has none. It exits 1
    too where a gate would not start on the ledger, or could not serve."""
    try:
        settings = load_settings(file)
    except SettingsError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "problems": [asdict(p) for p in error.problems]}))
        else:
            _print_problems(error.problems)
        raise typer.Exit(1) from None
    answer = _ask_live(settings) if live else None
    opened, ledger = asyncio.run(_connect(settings)) if connect else ({}, None)
    if as_json:
        notes = list(notes_of(settings))
        document = {"ok": True, "digest": settings.digest, **_counts(settings), "notes": notes}
        if answer is not None:
            document["live"] = answer.document()
            document["ok"] = not answer.asked.problems
        if connect:
            document["sinks"] = opened
            document["ok"] = document["ok"] and not any(opened.values())
        if ledger is not None:
            document["ledger"] = ledger_document(ledger)
            document["ok"] = document["ok"] and ledger.well
        typer.echo(json.dumps(document))
    else:
        with explained():
            _print_summary(file, settings)
        if answer is not None:
            answer.show()
        _print_sinks(opened)
        if ledger is not None:
            print_ledger(ledger)
    refused = ledger is not None and not ledger.well
    if (answer is not None and answer.asked.problems) or any(opened.values()) or refused:
        raise typer.Exit(1)


async def _connect(settings: Settings) -> tuple[dict[str, str | None], LedgerReport]:
    return await open_sinks(settings), await report_ledger(settings)


def _ask_live(settings: Settings) -> LiveAnswer:
    with explained():
        return asyncio.run(ask_live(settings))


@app.command()
def schema(
    reference: Annotated[
        bool, typer.Option("--reference", help="Print the reference page (Markdown) instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of a configuration file, for editors."""
    typer.echo(reference_text() if reference else schema_text(), nl=False)


def _print_sinks(opened: Mapping[str, str | None]) -> None:
    console = Console(highlight=False)
    for name, reason in opened.items():
        said = f"Sink {name}: {reason}" if reason else f"Sink {name} can be written to."
        console.print(Text(said, "red" if reason else "green"), soft_wrap=True)


def _counts(settings: Settings) -> dict[str, int]:
    return {
        "upstreams": len(settings.upstreams),
        "models": len(settings.models),
        "routes": len(settings.routes),
        "plans": len(settings.plans),
        "customers": len(settings.customers),
        "keys": sum(1 for _ in settings.api_keys()),
    }


def _print_problems(problems: list[Problem]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for problem in problems:
        line = Text()
        line.append(f"{problem.file}:{problem.line}:{problem.column}", "cyan")
        line.append(f"  {problem.path}\n" if problem.path else "\n", "bold")
        line.append(f"    {problem.message}\n", "red")
        if problem.hint:
            line.append(f"    {problem.hint}\n", "dim")
        console.print(line)
    count = len(problems)
    console.print(f"{count} problem{'' if count == 1 else 's'}. Nothing was changed.")


def _print_summary(file: Path, settings: Settings) -> None:
    console = Console(highlight=False)
    store = store_access(settings).shown
    counts = ", ".join(f"{what} {number}" for what, number in _counts(settings).items())
    console.print(Text(f"{file} is valid: {counts}.", "green"), soft_wrap=True)
    listen, admin = settings.listen, settings.admin
    console.print(
        f"Listens on {listen.host}:{listen.port} (workers: {listen.workers}), "
        f"admin on {admin.host}:{admin.port}; ledger {settings.redis.shown_url}, "
        f"events in {store}; policy {settings.policy.preset or 'balanced'}.",
        soft_wrap=True,
    )
    for note in notes_of(settings):
        console.print(Text(f"Note: {note}", "yellow"), soft_wrap=True)
    models = Table("model", "upstream", "prices (credits per million tokens)", box=None)
    for name, model in settings.priced().items():
        table = model.price(name).table()
        rates = ", ".join(
            f"{unit} {format_rate(rate, per=TOKENS_PER_PRICE)}"
            if unit in TOKEN_UNITS
            else f"each {unit} {format_rate(rate, per=1)}"
            for unit, rate in table.rates_pico.items()
        )
        served_by = model.served_by if isinstance(model, ModelSection) else (model,)
        models.add_row(name, ", ".join(each.upstream or "" for each in served_by), rates)
    console.print(models)
    if not settings.customers:
        return
    customers = Table("customer", "plan", "keys", "starts with", "credit limit", box=None)
    for name, customer in settings.customers.items():
        granted = sum(grant.amount_nano for _, grant in settings.starting_grants(name))
        customers.add_row(
            name,
            customer.plan or "–",
            str(len(customer.keys)),
            format_amount(granted),
            format_amount(settings.credit_limit_nano(name)),
        )
    console.print(customers)
