"""`refund EVENT_ID`: give back what an event charged, once."""

from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.idempotency import IdempotencyKey
from gateway.cli.output import AsJson, fail
from gateway.cli.parameters import amount as read_amount
from gateway.cli.parameters import idempotency_key
from gateway.domain.money import format_amount
from gateway.operations.corrections import NotRefundable, Refund, TooMuch, refund_event

_REFUSALS = {
    "exists_with_different_parameters": (
        "the key {key} has refunded another amount of {subject} before. Nothing was changed. Repeat"
        " its amount, or use another key"
    ),
    "too_many_grants": (
        "the wallet has 64 grants with something left in them; there is room for the refund when"
        " one of them is used up or has expired"
    ),
    "total_too_large": "all corrections of this wallet together would pass 9,000,000 credits",
}


@app.command()
def refund(
    event_id: Annotated[str, typer.Argument(help="The event, as `creditgate why` names it.")],
    reason: Annotated[str, typer.Option(help="Why; kept on record.")],
    amount: Annotated[
        int | None,
        typer.Option(
            metavar="AMOUNT",
            parser=read_amount,
            help="Credits as a decimal; all that is left of the charge when left out.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="IDEMPOTENCY_KEY",
            parser=idempotency_key,
            help="However often this is run, one key refunds an event once. Without it one is made"
            " and printed.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give back what an event charged, to the grants that paid; never more than the charge in all."""
    once = IdempotencyKey(key, "refunded", event_id)

    async def work(context: Context) -> Refund:
        try:
            with once.explained(_REFUSALS):
                return await refund_event(
                    event_id,
                    amount,
                    reason=reason,
                    key=once.key,
                    ledger=context.corrections,
                    audit=context.audit,
                    store=context.store,
                    now_ms=await context.accounts.now_ms(),
                )
        except TooMuch as too_much:
            left = format_amount(too_much.left_nano)
            raise fail(f"{left} credits are left to refund of {event_id}") from None
        except NotRefundable as not_refundable:
            raise fail(str(not_refundable)) from None

    made = on_ledger(config, work)
    customer, refunded = made.event.customer_id, format_amount(made.amount_nano)
    left, balance = format_amount(made.done.left_nano), format_amount(made.done.balance_nano)
    document = {
        "event_id": event_id,
        "customer_id": customer,
        "amount": refunded,
        "left": left,
        "balance": balance,
        "replayed": made.done.replayed,
    }
    done = f"Refunded {customer} {refunded} credits."
    once.tell(document, done, f"left to refund {left}, balance {balance}", as_json=as_json)
