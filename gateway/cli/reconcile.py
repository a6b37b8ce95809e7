"""`reconcile`: a provider's usage or cost export against our events, by model and day."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from gateway.app.stores import store_access
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, explained, read_settings
from gateway.cli.output import AsJson, err, fail, out, plain, progress, row, table
from gateway.cli.sheets import Answer, AsFormat, Output, show_sheet
from gateway.domain.money import MoneyError, format_amount, parse_amount
from gateway.operations.provider_usage import FORMATS, ProviderUsage, read_provider_usage
from gateway.operations.reconcile import (
    Compared,
    Reconciled,
    ReconcileRequest,
    reconcile,
    reconciled_sheet,
)

_HELP = (
    "Compare a provider's usage or cost export with our events, by model and day, differences"
    " first.\n\n"
    f"Exports that are understood: {', '.join(form.name for form in FORMATS)}."
)


@app.command("reconcile", help=_HELP)
def reconcile_command(
    provider: Annotated[Path, typer.Option(metavar="FILE", help="The provider's export, CSV.")],
    upstream: Annotated[
        str | None, typer.Option(help="Only what this upstream of the configuration served.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="THEIRS=OURS",
            help="What a column of theirs is; THEIRS= ignores it. May be repeated.",
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="THEIRS=OURS", help="What a model of theirs is. May be repeated."),
    ] = None,
    credits_each: Annotated[
        str,
        typer.Option(metavar="CREDITS", help="What one of the provider's currency is in credits."),
    ] = "1",
    form: AsFormat = "table",
    output: Output = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Compare a provider's usage or cost export with our events, by model and day."""
    answer = Answer("json" if as_json else form, output)
    with explained():
        usage = _read(provider, _pairs("--column", column), _pairs("--alias", alias))
        request = ReconcileRequest(usage, upstream, _factor(credits_each))
        with (
            store_access(read_settings(config)).open_or_empty() as store,
            progress(shown=err.is_terminal) as bar,
        ):
            made = reconcile(store, request, lambda count: bar("events", count, 0))
        if answer == Answer("table"):
            _print(made)
            return
        about = {"format": made.format_name, "differing": made.differing}
        show_sheet(reconciled_sheet(made), answer, {**about, "uncosted_requests": made.uncosted})


def _read(file: Path, columns: dict[str, str], aliases: dict[str, str]) -> ProviderUsage:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return read_provider_usage(lines, columns, aliases)
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror}", 2) from None
    except UnicodeDecodeError:
        raise fail(f"cannot read {file}: it is not UTF-8 text", 2) from None


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or ():
        theirs, equals, ours = text.partition("=")
        if not equals or not theirs:
            raise typer.BadParameter(f"{option} {text!r} is not THEIRS=OURS")
        pairs[theirs] = ours
    return pairs


def _factor(text: str) -> Fraction:
    try:
        nano = parse_amount(text)
    except MoneyError as error:
        raise typer.BadParameter(f"--credits-each: {error}") from None
    if not nano:
        raise typer.BadParameter("--credits-each: must be more than 0")
    return Fraction(nano, 10**9)


def _print(made: Reconciled) -> None:
    numbers = ("ours", "provider", "difference")
    shown = table("day", "model", "figure", *numbers, right=numbers)
    for line in made.lines:
        for figure in line.figures:
            style = "red" if figure.difference else None
            row(shown, (line.day, line.model or "–", figure.measure, *_cells(figure)), style)
    for figure in made.totals:
        row(shown, ("all", "", figure.measure, *_cells(figure)), "bold")
    out.print(shown)
    said = f"{made.differing} of {len(made.lines)} lines differ ({made.format_name})."
    out.print(plain(said, "red" if made.differing else "green"))
    if made.uncosted:
        out.print(
            plain(f"{made.uncosted:,} charged requests have no cost in our events.", "yellow")
        )


def _cells(figure: Compared) -> tuple[str, ...]:
    numbers = (figure.ours, figure.provider, figure.difference)
    if figure.kind == "credits":
        return tuple(format_amount(nano) for nano in numbers)
    return tuple(f"{number:,}" for number in numbers)
