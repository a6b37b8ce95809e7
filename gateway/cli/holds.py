"""`holds list` and `holds release`: what running requests hold, and giving it back by hand."""

from typing import Annotated, Any

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.customers import wallet_of
from gateway.cli.output import AsJson, fail, out, plain, print_json, row, table
from gateway.domain.money import format_amount
from gateway.ledger.accounts import OpenHold
from gateway.ledger.codec.records import Ended
from gateway.operations.holds import hold_document, release_by_hand

holds = typer.Typer(help="What running requests hold of their customers' credit.")
app.add_typer(holds, name="holds", no_args_is_help=True)

_RELEASE_HELP = (
    "Give a hold back now, charging nothing yet.\n\n"
    "Nobody has to do this for requests that died: their holds expire by themselves. It is for one"
    " that runs on and blocks credit. It is not stopped, and it is charged in full when it settles,"
    " into overdraft if the credit is gone by then: the hold ends as `expired`, with nothing"
    " charged, and what it settles is a `settle_late`. Releasing it again changes nothing."
)


@holds.command(name="list")
def list_(
    customer: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="Of one customer only.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List open holds, the next to expire first. While a request runs, its worker extends its hold."""

    async def work(context: Context) -> tuple[int, list[OpenHold]]:
        if customer is not None:
            await wallet_of(context, customer)
        return await context.accounts.now_ms(), await context.accounts.open_holds(customer)

    now_ms, found = on_ledger(config, work)
    if as_json:
        print_json([hold_document(each.reservation_id, each.reservation) for each in found])
        return
    columns = ("customer", "key", "model", "held", "for", "expires in", "extended")
    shown = table("request", *columns, right=columns[3:], whole=["request"])
    for each in found:
        hold, document = each.reservation, hold_document(each.reservation_id, each.reservation)
        row(
            shown,
            (
                each.reservation_id,
                hold.customer_id,
                hold.key_id,
                document["model"],
                document["held"],
                f"{(now_ms - hold.reserved_at_ms) / 1000:.1f} s",
                f"{(hold.deadline_ms - now_ms) / 1000:.1f} s",
                hold.extend_no,
            ),
        )
    out.print(shown)


@holds.command(help=_RELEASE_HELP)
def release(
    reservation_id: Annotated[
        str,
        typer.Argument(metavar="RESERVATION_ID", help="The request's id, as `holds list` has it."),
    ],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give a hold back now; a request that still runs is charged in full when it settles."""

    async def work(context: Context) -> dict[str, Any]:
        found = await context.audit.find_reservation(reservation_id)
        if found is None:
            raise fail(
                f"the ledger knows no request {reservation_id}: it never held anything, or it ended"
                " more than an hour ago"
            )
        shard, record = found
        if isinstance(record, Ended):
            return _document(reservation_id, record.outcome, record.charged_nano, 0)
        ended = await release_by_hand(context.reservations, shard, reservation_id, record)
        if ended is None:
            raise fail(f"the ledger knows no request {reservation_id} any more")
        given_back = 0 if ended.replayed else record.held_nano
        return _document(reservation_id, ended.outcome, ended.charged_nano, given_back)

    document = on_ledger(config, work)
    if as_json:
        print_json(document)
    elif document["given_back"] != "0":
        said = f"Gave back {document['given_back']} credits that {reservation_id} held."
        out.print(plain(said, "bold green"))
        out.print(plain("If it still runs, it is charged when it settles."))
    else:
        ended_as = f"{document['outcome']}, charged {document['charged']} credits"
        out.print(plain(f"{reservation_id} holds nothing: {ended_as}.", "yellow"))


def _document(
    reservation_id: str, outcome: str, charged_nano: int, given_back_nano: int
) -> dict[str, Any]:
    return {
        "reservation_id": reservation_id,
        "outcome": outcome,
        "charged": format_amount(charged_nano),
        "given_back": format_amount(given_back_nano),
    }
