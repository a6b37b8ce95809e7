"""`payments`: payments that other systems reported, and those of them that wait."""

from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger, read_settings
from gateway.cli.context import on_backend as on_settings
from gateway.cli.output import AsJson, moment, out, plain, print_json, row, table
from gateway.domain.payments import Payment
from gateway.operations.payments import (
    get_payment,
    payment_document,
    retry_payment,
    waiting_payments,
)

payments = typer.Typer(help="Payments that other systems reported (`payments` in the settings).")
app.add_typer(payments, name="payments", no_args_is_help=True)

PaymentId = Annotated[
    str, typer.Argument(metavar="SOURCE:ID", help="The payment, such as stripe:pi_3Nz…")
]


@payments.command()
def waiting(
    cursor: Annotated[int, typer.Option(help="Continue where an earlier page ended.")] = 0,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=1000, help="How many at most.")
    ] = 100,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List payments that cannot go on, with their problems; the oldest first."""
    page = on_ledger(config, lambda backend: waiting_payments(backend, cursor, count))
    if as_json:
        documents = [payment_document(each) for each in page.payments]
        print_json({"payments": documents, "cursor": page.cursor})
        return
    shown = table("payment", "reported", "problem", whole=("payment",))
    for each in page.payments:
        row(shown, (each.id, moment(each.seen_at_ms), each.done.problem or ""), None)
    out.print(shown)
    if page.cursor is not None:
        out.print(plain(f"There are more: --cursor {page.cursor}"), soft_wrap=True)


@payments.command()
def show(payment: PaymentId, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one payment: the credited customer, its refunds and disputes."""
    _print(on_ledger(config, lambda backend: get_payment(backend, payment)), as_json)


@payments.command()
def retry(payment: PaymentId, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Go on with a payment that waits, after you have fixed its problem. It is credited once."""
    settings = read_settings(config)
    terms = settings.payments.terms(payment.partition(":")[0])
    done = on_settings(settings, lambda backend: retry_payment(backend, terms, payment))
    _print(done, as_json)
    if done.done.problem is not None:
        raise typer.Exit(1)


def _print(payment: Payment, as_json: bool) -> None:
    document = payment_document(payment)
    if as_json:
        print_json(document)
        return
    for name, value in document.items():
        if value not in (None, {}, ""):
            out.print(plain(f"{name:<14}{value}"), soft_wrap=True)
