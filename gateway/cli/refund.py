"""`refund EVENT_ID`: give back what an event charged, once."""

from typing import Annotated, Any

import typer

from gateway.admin.corrections import NotRefundable, Refund, TooMuch, refund_event
from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.output import AsJson, err, fail, out, plain, print_json
from gateway.cli.parameters import amount as read_amount
from gateway.cli.parameters import idempotency_key, new_idempotency_key
from gateway.domain.money import format_amount
from gateway.ledger.errors import LedgerRefusal, LedgerUnavailable

_REFUSALS = {
    "exists_with_different_parameters": (
        "the key {key} has refunded another amount of {event} before. Nothing was changed. Repeat"
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
    once = key or new_idempotency_key()

    async def work(context: Context) -> Refund:
        try:
            return await refund_event(
                event_id,
                amount,
                reason=reason,
                key=once,
                ledger=context.operator,
                audit=context.audit,
                store=context.store,
                now_ms=await context.accounts.now_ms(),
            )
        except TooMuch as too_much:
            left = format_amount(too_much.left_nano)
            raise fail(f"{left} credits are left to refund of {event_id}") from None
        except NotRefundable as not_refundable:
            raise fail(str(not_refundable)) from None
        except LedgerRefusal as refused:
            raise fail(_REFUSALS[refused.word].format(event=event_id, key=once)) from None
        except LedgerUnavailable as error:
            if not error.unknown:
                raise
            raise fail(
                f"{error}. Whether it was refunded is not known. Run this again with --key {once}:"
                " that refunds it once in all"
            ) from None

    made = on_ledger(config, work)
    document: dict[str, Any] = {
        "event_id": event_id,
        "customer_id": made.event.customer_id,
        "amount": format_amount(made.amount_nano),
        "left": format_amount(made.done.left_nano),
        "balance": format_amount(made.done.balance_nano),
        "key": once,
        "replayed": made.done.replayed,
    }
    if as_json:
        print_json(document)
        return
    if made.done.replayed:
        said = f"The key {once} has refunded this before: nothing was changed."
        out.print(plain(said, "yellow"))
    else:
        said = f"Refunded {document['customer_id']} {document['amount']} credits."
        out.print(plain(said, "bold green"))
    out.print(plain(f"left to refund {document['left']}, balance {document['balance']}"))
    if key is None:
        err.print(plain(f"To repeat this without refunding twice: --key {once}", "dim"))
