"""`wallet show|list|grant|void|freeze|thaw`: what customers have, giving them more, taking it back."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.customers import wallet_of
from gateway.cli.idempotency import IdempotencyKey
from gateway.cli.output import AsJson, fail, out, plain, print_json, row, table
from gateway.cli.parameters import amount as read_amount
from gateway.cli.parameters import idempotency_key, moment_ms
from gateway.domain.money import format_amount
from gateway.domain.reservation import Account, Key
from gateway.domain.standing import Standing
from gateway.flow.authentication import account_of
from gateway.ledger.client.errors import LedgerRefusal
from gateway.ledger.codec.operations import DEFAULT_PRIORITY, AccountTerms, NewGrant, Status
from gateway.ledger.wallets import Granted, Voided
from gateway.operations.wallets import (
    grant_operation_id,
    void_operation_id,
    wallet_document,
    wallet_status,
    wallet_summary,
)
from gateway.settings import Settings
from gateway.settings.compiling import compile_customers, compile_keys

wallet = typer.Typer(help="What customers have: balances, grants, top-ups.")
app.add_typer(wallet, name="wallet", no_args_is_help=True)

Customer = Annotated[str, typer.Argument(metavar="CUSTOMER", help="The customer's id.")]

_REFUSALS = {
    "exists_with_different_parameters": (
        "the key {key} has made another grant to {subject} before: the amount, category, priority"
        " or expiry was another. Nothing was changed. Repeat its terms, or use another key"
    ),
    "already_expired": "the grant would be worth nothing: its expiry is over already",
    "too_many_grants": (
        "{subject} has 64 grants with something left in them; there is room for the next one when"
        " one of them is used up or has expired"
    ),
    "total_too_large": "all that {subject} was ever granted would pass 9,000,000 credits",
}


class CategoryName(StrEnum):
    """What kind of credit a grant is."""

    PAID = "paid"
    PROMOTIONAL = "promotional"
    ALLOWANCE = "allowance"
    ADJUSTMENT = "adjustment"


@wallet.command()
def show(customer: Customer, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one wallet: balance, holds, lifetime sums, and its grants in the order they are spent."""

    async def work(context: Context) -> dict[str, Any]:
        found = await wallet_of(context, customer)
        names = await context.audit.grant_names(customer)
        for each in found.allowances:
            set_by = context.store.latest_named(f"allowance:{customer}:{each.allowance_id}:set:")
            if set_by is not None:
                names.setdefault(each.grant_no, set_by.event.facts["name"])
        return wallet_document(
            customer,
            found,
            await context.accounts.now_ms(),
            names=names,
            groups=context.settings.model_groups,
            limits=await _standings(context, customer),
            voided=await context.audit.voided_grants(customer),
            recurring=_recurring_of(context.settings, customer),
        )

    document = on_ledger(config, work)
    if as_json:
        print_json(document)
    else:
        _print_wallet(document)


def _recurring_of(settings: Settings, customer: str) -> list[str]:
    """Names of what the configuration gives a customer anew each period."""
    if customer not in settings.customers:
        return []
    return [grant.name for grant in settings.recurring_grants(customer)]


@wallet.command(name="list")
def list_(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List all wallets, and the customers of the configuration that have none yet."""

    async def work(context: Context) -> list[dict[str, Any]]:
        names = sorted({*await context.accounts.customers(), *context.settings.customers})
        wallets = await context.accounts.wallets(names)
        now_ms = await context.accounts.now_ms()
        return [
            wallet_summary(name, wallets[name], now_ms)
            if name in wallets
            else {"customer_id": name, "status": "no wallet yet"}
            for name in names
        ]

    documents = on_ledger(config, work)
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
            help="What is left of it then is gone: 2027-12-31T00:00:00Z.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What `wallet show` and `why` call it.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is granted; kept on record.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="IDEMPOTENCY_KEY",
            parser=idempotency_key,
            help="Such as the id of the payment. However often this is run, one key grants a"
            " customer once. Without it one is made and printed.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Add credit to a wallet, once by its key. What is owed (the overdraft) is repaid first."""
    once = IdempotencyKey(key, "granted", customer)
    facts = {k: v for k, v in {"name": name, "reason": reason}.items() if v is not None}

    async def work(context: Context) -> Granted:
        await wallet_of(context, customer)
        with once.explained(_REFUSALS):
            grant = NewGrant(amount, category.value, priority, expires_at_ms=expires or 0)
            op_id = grant_operation_id(customer, once.key)
            return await context.wallets.grant(customer, op_id, grant, facts)

    granted = on_ledger(config, work)
    balance = format_amount(granted.balance_nano)
    document = {
        "customer_id": customer,
        "amount": format_amount(amount),
        "balance": balance,
        "grant": granted.grant_no,
        "replayed": granted.replayed,
    }
    done = f"Granted {customer} {format_amount(amount)} credits."
    once.tell(document, done, f"balance {balance}", as_json=as_json)


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
    """Take back what is left of a grant and end it. What running requests hold of it they may still
    spend; what they give back is gone."""

    async def work(context: Context) -> Voided:
        await wallet_of(context, customer)
        try:
            op_id = void_operation_id(customer, grant_no)
            return await context.wallets.void(customer, op_id, grant_no, reason)
        except LedgerRefusal as refused:
            if refused.word != "unknown_grant":
                raise
            raise fail(
                f"{customer} has no grant {grant_no} with anything left in it that is not held"
            ) from None

    voided = on_ledger(config, work)
    document = {
        "customer_id": customer,
        "grant": grant_no,
        "voided": format_amount(voided.voided_nano),
        "held": format_amount(voided.held_nano),
        "balance": format_amount(voided.balance_nano),
        "replayed": voided.replayed,
    }
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
    kill: Annotated[bool, typer.Option("--kill", help="Cut what runs, too.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Let nothing new run, until `wallet thaw`. What runs may spend what it holds, not more."""
    _set_status(config, customer, "killed" if kill else "frozen", reason)


@wallet.command()
def thaw(
    customer: Customer,
    reason: Annotated[str | None, typer.Option(help="Why; kept on record.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """End a freeze, also one that unusual spending has caused."""
    _set_status(config, customer, "active", reason)


def _set_status(config: Path, customer: str, status: Status, reason: str | None) -> None:
    facts = {"reason": reason} if reason else {}

    async def work(context: Context) -> bool:
        found = await wallet_of(context, customer)
        if status == wallet_status(found):
            return False
        try:
            terms = AccountTerms(
                found.account_rev + 1, found.credit_limit_nano, status, found.billing_day
            )
            await context.wallets.account(customer, terms, facts)
        except LedgerRefusal:
            raise fail(f"{customer} was changed by someone else just now; try again") from None
        if status == "killed":
            await context.changes.announce(customer)
        return True

    changed = on_ledger(config, work)
    said = f"{customer} is {status}." if changed else f"{customer} was {status} already."
    out.print(plain(said, "bold green" if changed else "yellow"))


async def _standings(context: Context, customer_id: str) -> list[Standing]:
    """How the limits of a customer, its models, its projects and its keys stand."""
    customer = compile_customers(context.settings).get(customer_id)
    if customer is None:
        return []
    stored = await context.accounts.list_keys(customer_id)
    keys = [
        *(key for key in compile_keys(context.settings).values() if key.customer_id == customer_id),
        *(
            Key(key.key_id, key.customer_id, key.project_id)
            for key in stored
            if key.revoked_at_ms is None
        ),
    ]
    accounts = [account_of(customer, key, 0) for key in keys]
    everyone = [limit for limit in customer.limits if limit.scope in ("customer", "model")]
    accounts.insert(0, Account(customer_id, "", customer.shard, 0, limits=tuple(everyone)))
    return await context.accounts.standings(accounts)


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
            out.print(plain(f"{said}, which no configuration names any more", "yellow"))
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
