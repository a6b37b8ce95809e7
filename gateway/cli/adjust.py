"""`adjust CUSTOMER AMOUNT`: correct a wallet by hand."""

from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.customers import wallet_of
from gateway.cli.idempotency import IdempotencyKey
from gateway.cli.output import AsJson
from gateway.cli.parameters import idempotency_key, signed_amount
from gateway.domain.money import format_amount
from gateway.ledger.codec.operations import Adjustment
from gateway.ledger.wallets import Adjusted

_REFUSALS = {
    "exists_with_different_parameters": (
        "the key {key} has made another adjustment of {subject} before. Nothing was changed."
        " Repeat its amount, or use another key"
    ),
    "too_many_grants": (
        "{subject} has 64 grants with something left in them; there is room for the credit when"
        " one of them is used up or has expired"
    ),
    "total_too_large": "all corrections of {subject} together would pass 9,000,000 credits",
}


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
            help="However often this is run, one key adjusts a customer once. Without it one is"
            " made and printed.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give or take credit. Given, it repays the overdraft first and never expires; taken, it comes
    from the grants in the order they are spent, then it is owed."""
    once = IdempotencyKey(key, "adjusted", customer)

    async def work(context: Context) -> Adjusted:
        await wallet_of(context, customer)
        with once.explained(_REFUSALS):
            adjustment = Adjustment(amount, reason, corrects=event)
            op_id = f"adjust:{customer}:{once.key}"
            return await context.wallets.adjust(customer, op_id, adjustment)

    adjusted = on_ledger(config, work)
    balance = format_amount(adjusted.balance_nano)
    document = {
        "customer_id": customer,
        "amount": format_amount(amount),
        "balance": balance,
        "event": event,
        "replayed": adjusted.replayed,
    }
    done = f"Adjusted {customer} by {format_amount(amount)} credits."
    once.tell(document, done, f"balance {balance}", as_json=as_json)
