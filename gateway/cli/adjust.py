"""`adjust CUSTOMER AMOUNT`: correct a wallet by hand."""

from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.idempotency import KeyOption
from gateway.cli.output import AsJson
from gateway.cli.parameters import idempotency_key, signed_amount
from gateway.operations.adjust import AdjustRequest, adjustment_document
from gateway.operations.adjust import adjust as adjust_wallet


@app.command(context_settings={"ignore_unknown_options": True})
def adjust(
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="The customer's id.")],
    amount: Annotated[
        int,
        typer.Argument(
            metavar="AMOUNT",
            parser=signed_amount,
            help="Credits as a decimal: 2.50 gives, -2.50 takes.",
        ),
    ],
    reason: Annotated[str, typer.Option(help="Why; kept on record.")],
    event: Annotated[
        str | None, typer.Option(metavar="EVENT_ID", help="The event that it corrects.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="IDEMPOTENCY_KEY",
            parser=idempotency_key,
            help="Adjusts a customer once per key, however often this is run. Without it one is"
            " generated and printed.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give or take credit. Given credit repays the overdraft first and never expires; what is taken
    comes from the grants in the order they are spent, then it is owed."""
    once = KeyOption(key)
    request = AdjustRequest(customer, once.key, amount, reason, corrects=event)
    made = on_ledger(config, lambda backend: adjust_wallet(backend, request))
    document = adjustment_document(made)
    done = f"Adjusted {customer} by {document['amount']} credits."
    once.answer(document, done, f"balance {document['balance']}", as_json=as_json)
