"""`refund EVENT_ID`: give back what an event charged, once."""

from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.idempotency import KeyOption
from gateway.cli.output import AsJson
from gateway.cli.parameters import amount as read_amount
from gateway.cli.parameters import idempotency_key
from gateway.operations.refund import RefundRequest, refund_document
from gateway.operations.refund import refund as refund_event


@app.command()
def refund(
    event_id: Annotated[str, typer.Argument(help="The event, as `creditgate why` names it.")],
    reason: Annotated[str, typer.Option(help="Why; kept on record.")],
    amount: Annotated[
        int | None,
        typer.Option(
            metavar="AMOUNT",
            parser=read_amount,
            help="Credits as a decimal; all that is left of the charge if omitted.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="IDEMPOTENCY_KEY",
            parser=idempotency_key,
            help="Refunds an event once per key, however often this is run. Without it one is"
            " generated and printed.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give back what an event charged, to the grants that paid; never more than the charge in total."""
    once = KeyOption(key)
    request = RefundRequest(event_id, once.key, reason, amount)
    document = refund_document(on_ledger(config, lambda backend: refund_event(backend, request)))
    done = f"Refunded {document['customer_id']} {document['amount']} credits."
    rest = f"left to refund {document['left']}, balance {document['balance']}"
    once.answer(document, done, rest, as_json=as_json)
