"""`holds list` and `holds release`: the holds of running requests, and returning one by hand."""

from typing import Annotated

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import AsJson, out, plain, print_json, row, table
from gateway.cli.parameters import Reason
from gateway.operations.holds import (
    hold_document,
    hold_ended_document,
    list_holds,
    release_hold,
)

holds = typer.Typer(help="What running requests hold of their customers' credit.")
app.add_typer(holds, name="holds", no_args_is_help=True)

_RELEASE_HELP = (
    "Return a hold's credit now and charge nothing yet.\n\n"
    "Requests that died do not need this: their holds expire by themselves. It is for a request that"
    " keeps running and blocks credit. The request goes on and is charged in full when it settles,"
    " into overdraft if the credit is gone by then: the hold ends as `expired`, with nothing charged,"
    " and the settlement is a `settle_late`. Releasing a hold again changes nothing."
)


@holds.command(name="list")
def list_(
    customer: Annotated[
        str | None, typer.Argument(metavar="CUSTOMER", help="Only this customer's.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List open holds, the next to expire first. While a request runs, its worker extends its hold."""

    found = on_ledger(config, lambda backend: list_holds(backend, customer))
    documents = [hold_document(each.reservation_id, each.reservation) for each in found.holds]
    if as_json:
        print_json(documents)
        return
    columns = ("customer", "key", "model", "held", "for", "expires in", "extended")
    shown = table("request", *columns, right=columns[3:], whole=["request"])
    for each, document in zip(found.holds, documents, strict=True):
        hold = each.reservation
        row(
            shown,
            (
                each.reservation_id,
                hold.customer_id,
                hold.key_id,
                document["model"],
                document["held"],
                f"{(found.now_ms - hold.reserved_at_ms) / 1000:.1f} s",
                f"{(hold.deadline_ms - found.now_ms) / 1000:.1f} s",
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
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Return a hold's credit now; a request that still runs is charged in full when it settles."""

    ended = on_ledger(config, lambda backend: release_hold(backend, reservation_id, reason))
    document = hold_ended_document(ended)
    if as_json:
        print_json(document)
    elif ended.given_back_nano:
        said = f"Returned {document['given_back']} credits that {reservation_id} held."
        out.print(plain(said, "bold green"))
        out.print(plain("If it still runs, it is charged when it settles."))
    else:
        ended_as = f"{document['outcome']}, charged {document['charged']} credits"
        out.print(plain(f"{reservation_id} holds nothing: {ended_as}.", "yellow"))
