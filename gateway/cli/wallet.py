"""`wallet show|list|grant|void|freeze|thaw`: balances and grants, and changing them."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.idempotency import KeyOption
from gateway.cli.output import AsJson, out, plain, print_json, row, table
from gateway.cli.parameters import amount as read_amount
from gateway.cli.parameters import idempotency_key, moment_ms
from gateway.ledger.codec.operations import DEFAULT_PRIORITY
from gateway.operations import freeze as status
from gateway.operations.grant import GrantRequest, grant_document
from gateway.operations.grant import grant as grant_credit
from gateway.operations.void import void as void_grant
from gateway.operations.void import void_document
from gateway.operations.wallets import (
    list_wallets,
    show_wallet,
    wallet_document,
    wallet_entry_document,
)

wallet = typer.Typer(help="What customers have: balances, grants, top-ups.")
app.add_typer(wallet, name="wallet", no_args_is_help=True)

Customer = Annotated[str, typer.Argument(metavar="CUSTOMER", help="The customer's id.")]


class CategoryName(StrEnum):
    """What kind of credit a grant is."""

    PAID = "paid"
    PROMOTIONAL = "promotional"
    ALLOWANCE = "allowance"
    ADJUSTMENT = "adjustment"


@wallet.command()
def show(customer: Customer, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one wallet: balance, holds, lifetime sums, and its grants in the order they are spent."""

    view = on_ledger(config, lambda backend: show_wallet(backend, customer))
    document = wallet_document(view)
    if as_json:
        print_json(document)
    else:
        _print_wallet(document)


@wallet.command(name="list")
def list_(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List all wallets, and the customers of the configuration that have none yet."""

    documents = [wallet_entry_document(each) for each in on_ledger(config, list_wallets)]
    if as_json:
        print_json(documents)
        return
    numbers = ("balance", "held", "available", "granted", "settled")
    shown = table("customer", *numbers, "status", right=numbers)
    for document in documents:
        amounts = (document.get(number) for number in numbers)
        row(shown, (document["customer_id"], *amounts, document["status"]))
    out.print(shown)


@wallet.command()
def grant(
    customer: Customer,
    amount: Annotated[
        int,
        typer.Argument(metavar="AMOUNT", parser=read_amount, help="Credits as a decimal: 12.50."),
    ],
    category: Annotated[
        CategoryName, typer.Option(help="What kind of credit it is.")
    ] = CategoryName.PAID,
    priority: Annotated[
        int, typer.Option(min=0, max=255, help="Lower is spent first.")
    ] = DEFAULT_PRIORITY,
    expires: Annotated[
        int | None,
        typer.Option(
            metavar="MOMENT",
            parser=moment_ms,
            help="When the rest of it is forfeited: 2027-12-31T00:00:00Z.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What `wallet show` and `why` call it.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is granted; kept on record.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="IDEMPOTENCY_KEY",
            parser=idempotency_key,
            help="Such as the id of the payment. Grants a customer once per key, however often this is"
            " run. Without it one is generated and printed.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Add credit to a wallet, once by its key. What is owed (the overdraft) is repaid first."""
    once = KeyOption(key)
    request = GrantRequest(
        customer, once.key, amount, category.value, priority, expires, name, reason
    )
    document = grant_document(on_ledger(config, lambda backend: grant_credit(backend, request)))
    done = f"Granted {customer} {document['amount']} credits."
    once.answer(document, done, f"balance {document['balance']}", as_json=as_json)


@wallet.command()
def void(
    customer: Customer,
    grant_no: Annotated[
        int, typer.Argument(metavar="GRANT_NO", min=1, help="As `wallet show` numbers it.")
    ],
    reason: Annotated[str, typer.Option(help="Why; kept on record.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Take back what is left of a grant and end it. Running requests may still spend what they hold
    of it; what they return is forfeited."""

    voided = on_ledger(config, lambda backend: void_grant(backend, customer, grant_no, reason))
    document = void_document(voided)
    if as_json:
        print_json(document)
        return
    if voided.replayed:
        out.print(plain(f"Grant {grant_no} was voided before: nothing was changed.", "yellow"))
    else:
        said = f"Voided grant {grant_no} of {customer}: {document['voided']} credits."
        out.print(plain(said, "bold green"))
    if voided.held_nano:
        out.print(plain(f"running requests may still spend {document['held']} of it", "yellow"))
    out.print(plain(f"balance {document['balance']}"))


@wallet.command()
def freeze(
    customer: Customer,
    reason: Annotated[str | None, typer.Option(help="Why; kept on record.")] = None,
    kill: Annotated[bool, typer.Option("--kill", help="Cancel running requests, too.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Admit nothing new until `wallet thaw`. Running requests may spend what they hold, not more."""
    change = status.kill if kill else status.freeze
    _print_status(on_ledger(config, lambda backend: change(backend, customer, reason)))


@wallet.command()
def thaw(
    customer: Customer,
    reason: Annotated[str | None, typer.Option(help="Why; kept on record.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """End a freeze, including one that unusual spending has caused."""
    _print_status(on_ledger(config, lambda backend: status.thaw(backend, customer, reason)))


_STATUS = {
    "active": "active: it admits requests",
    "frozen": "frozen: nothing new is admitted",
    "killed": "frozen and its running requests are cancelled",
}


def _print_status(done: status.StatusSet) -> None:
    already = "" if done.changed else "already "
    said = f"Wallet {done.customer_id} is {already}{_STATUS[done.status]}."
    out.print(plain(said, "bold green" if done.changed else "yellow"))


def _print_wallet(document: dict[str, Any]) -> None:
    names = ("balance", "held", "available", "credit_limit", "overdraft", "granted", "settled")
    sums = table("wallet", document["customer_id"], right=[document["customer_id"]])
    for name in (*names, "expired", "voided", "adjusted"):
        if name in names or document[name] != "0":
            row(sums, (name.replace("_", " "), document[name]), "bold" if name == "balance" else "")
    for group, available in document.get("available_by_group", {}).items():
        row(sums, (f"available for {group}", available))
    row(sums, ("running requests", document["open_reservations"]))
    if document["status"] != "active":
        row(sums, ("status", document["status"]), "bold red")
    out.print(sums)
    for each in document["recurring_grants"]:
        said = f"{each['name'] or 'a recurring grant'}: {each['amount']} every {each['every']}"
        if each["configured"]:
            out.print(plain(said))
        else:
            out.print(plain(f"{said}, which is no longer configured", "yellow"))
    _print_grants(document)
    _print_limits(document)


def _print_limits(document: dict[str, Any]) -> None:
    if not document["limits"]:
        return
    out.print()
    numbers = ("used", "held", "left", "ceiling")
    limits = table("limit", "of", "counts", *numbers, "window ends", right=numbers)
    for each in document["limits"]:
        counts = each["measure"]
        if each["window"]:
            counts += f", {'any ' if each['rolling'] else ''}{each['window']}"
        amounts = (each[number] for number in numbers)
        row(limits, (each["scope"], each["name"], counts, *amounts, each["window_end"] or "never"))
    out.print(limits)


def _print_grants(document: dict[str, Any]) -> None:
    if not document["grants"]:
        return
    out.print()
    columns = ("name", "category", "remaining", "held", "priority", "expires", "pays for")
    grants = table("grant", *columns, "status", right=["grant", "remaining", "held", "priority"])
    for each in document["grants"]:
        row(
            grants,
            (
                each["grant"],
                each["name"],
                each["category"],
                each["remaining"],
                each["held"],
                each["priority"],
                each["expires_at"] or "never",
                ", ".join(each["groups"]) or "every model",
                each["status"],
            ),
            "" if each["status"] == "active" else "dim",
        )
    out.print(grants)
