"""`quote`: what a request would hold and could cost at most, and whether it would be admitted now."""

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.app.quoting import RequestToQuote, quote_request
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_backend, read_settings
from gateway.cli.output import AsJson, fail, out, plain, print_json, row, table
from gateway.domain.money import format_amount
from gateway.operations.price_text import price_columns
from gateway.operations.quote import Quoted, quote_document

DEFAULT_ROUTE: Final = "/v1/chat/completions"

_HELP: Final = (
    "Show what a request would hold and cost at most, and whether it would be admitted now.\n\n"
    "Exits 0 whatever the decision; 1 when there is nothing to decide: a body that cannot be priced,"
    " a model or an endpoint that is not offered, or one that is free."
)
_DECISIONS: Final = {
    "allow": "It would be admitted now.",
    "insufficient_credits": "It would be refused: the balance cannot pay for it.",
    "credit_held": (
        "It would be refused for the moment: the balance could pay for it, but requests that"
        " still run hold too much."
    ),
    "spend_limit": "It would be refused: a spend limit leaves less than it could cost.",
    "rate_limit": "It would be refused for the moment: a limit on requests or tokens is reached.",
    "concurrency_limit": "It would be refused for the moment: too many requests run already.",
    "wallet_frozen": "It would be refused: the wallet is frozen.",
}


@app.command(help=_HELP)
def quote(
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="Who would pay.")],
    model: Annotated[
        str | None, typer.Option(help="In place of the model that the body names.")
    ] = None,
    route: Annotated[str, typer.Option(help="The endpoint's path.")] = DEFAULT_ROUTE,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="The request's body; stdin without it.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY_ID",
            help="As with this key: its project, models and limits. Without it, as with a new one.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show what a request would hold and cost at most, and whether it would be admitted now."""
    request = RequestToQuote(customer, route, _body(file), key_id=key, model=model)
    settings = read_settings(config)
    quoted = on_backend(settings, lambda backend: quote_request(settings, backend, request))
    if as_json:
        print_json(quote_document(quoted))
    else:
        _print(quoted)


def _print(quoted: Quoted) -> None:
    hold, prices = quoted.hold, quoted.request.prices
    columns = ("at most", "price", "held", "could cost")
    bill = table("class", *columns, right=columns)
    for held, most in zip(quoted.held, quoted.most, strict=True):
        row(bill, (held.unit, most.quantity, *price_columns(held), price_columns(most)[1]))
    amounts = (format_amount(hold.estimate_nano), format_amount(quoted.at_most_nano))
    row(bill, ("in credits, rounded up", "", prices.price_version, *amounts), "bold")
    out.print(bill)
    if hold.estimate_nano < quoted.at_most_nano:
        out.print(plain("A stream: its hold grows while it runs.", "dim"))
    available, balance = format_amount(hold.available_nano), format_amount(hold.balance_nano)
    out.print(plain(f"available {available} of a balance of {balance}"))
    unknown = f"The ledger would admit nothing now: {hold.decision}."
    style = "bold green" if hold.decision == "allow" else "bold red"
    out.print(plain(_DECISIONS.get(hold.decision, unknown), style))


def _body(file: Path | None) -> bytes:
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise fail(f"cannot read {file}: {error.strerror}", 2) from None
    if sys.stdin.isatty():
        raise fail("give the request's body: --file BODY.json, or on stdin", 2)
    return sys.stdin.buffer.read()
