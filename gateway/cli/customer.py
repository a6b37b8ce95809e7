"""`customer create|show|list|update|suspend|resume|delete`: customers that no configuration file names."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from gateway.cli import app
from gateway.cli import customer_options as given
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.customer_options import Customer
from gateway.cli.output import AsJson, err, out, plain, print_json, row, table
from gateway.cli.parameters import Reason, identifier
from gateway.operations.backend import Backend
from gateway.operations.customer_changes import (
    CustomerChange,
    NewCustomer,
    create_customer,
    delete_customer,
    resume_customer,
    suspend_customer,
    update_customer,
)
from gateway.operations.customers import (
    CustomerView,
    customer_document,
    get_customer,
    list_customers,
)
from gateway.operations.own_prices import keep_own_prices

customers = typer.Typer(help="Customers: created, changed and suspended while gates run.")
app.add_typer(customers, name="customer", no_args_is_help=True)

_PAGE: Final = 100


@customers.command()
def create(
    customer: Annotated[
        str | None,
        typer.Argument(
            metavar="CUSTOMER",
            parser=identifier,
            help="Its id, which is permanent; one is made up if omitted.",
            show_default=False,
        ),
    ] = None,
    plan: given.Plan = None,
    name: given.Name = None,
    email: given.Email = None,
    external: given.External = None,
    tag: given.Tag = None,
    credit_limit: given.CreditLimit = None,
    billing_day: given.BillingDay = None,
    models: given.Models = None,
    limits: given.Limits = None,
    project_limits: given.ProjectLimits = None,
    prices: given.PricesFile = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Create a customer and its wallet, with the starting grants of its plan. Every gate serves it at
    once; it needs a key (`key create`). An interrupted creation is completed by repeating it."""
    fields = _fields(
        plan=plan,
        name=name,
        email=email,
        external_ids=external,
        tags=tag,
        credit_limit_nano=credit_limit,
        billing_day=billing_day,
        models=models,
        limits=limits,
        projects=project_limits,
    )
    own = given.read_prices(prices)

    async def work(backend: Backend) -> CustomerView:
        if own is not None:
            fields["prices"] = await keep_own_prices(backend, own)
        return await create_customer(backend, NewCustomer(customer, **fields), reason)

    _answer(on_ledger(config, work), "Created", as_json)


@customers.command()
def update(
    customer: Customer,
    plan: given.Plan = None,
    name: given.Name = None,
    email: given.Email = None,
    external: given.External = None,
    tag: given.Tag = None,
    credit_limit: given.CreditLimit = None,
    billing_day: given.BillingDay = None,
    models: given.Models = None,
    limits: given.Limits = None,
    project_limits: given.ProjectLimits = None,
    prices: given.PricesFile = None,
    unset: Annotated[
        list[given.Unset] | None, typer.Option(help="Empty this field; may be repeated.")
    ] = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Change a customer; every gate applies it to the next request.

    What is given replaces the whole field: `--tag a=1` leaves one tag. A new plan gives its starting
    grants and ends the recurring grants of the old one.
    """
    fields = _fields(
        plan=plan,
        name=name,
        email=email,
        external_ids=external,
        tags=tag,
        credit_limit_nano=credit_limit,
        billing_day=billing_day,
        models=models,
        limits=limits,
        projects=project_limits,
    )
    own = given.read_prices(prices)
    for field in unset or ():
        [emptied] = given.EMPTY[field].items()
        if emptied[0] in fields or (field is given.Unset.PRICES and own is not None):
            raise typer.BadParameter(f"--unset {field.value} contradicts another option")
        fields.update([emptied])
    if not fields and own is None:
        raise typer.BadParameter("nothing to change: give an option, such as --plan")

    async def work(backend: Backend) -> CustomerView:
        if own is not None:
            fields["prices"] = await keep_own_prices(backend, own)
        return await update_customer(backend, customer, CustomerChange(**fields), reason)

    _answer(on_ledger(config, work), "Updated", as_json)


@customers.command()
def show(customer: Customer, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show a customer, configured or created, and its balance. What is empty is the plan's."""
    document = customer_document(on_ledger(config, lambda backend: get_customer(backend, customer)))
    if as_json:
        print_json(document)
        return
    shown = table("customer", document["id"])
    for field, value in document.items():
        if field != "id" and value not in (None, {}, []):
            row(shown, (field.replace("_", " "), _text(value)))
    out.print(shown)


@customers.command(name="list")
def list_(
    prefix: Annotated[str, typer.Option(help="Only ids that begin with it.")] = "",
    plan: Annotated[str | None, typer.Option(help="Only customers on this plan.")] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=1000, help="How many at most.")
    ] = _PAGE,
    after: Annotated[str, typer.Option(help="Continue after this id.")] = "",
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List customers in the order of their ids, without deleted ones."""
    page = on_ledger(
        config,
        lambda backend: list_customers(backend, after=after, limit=count, prefix=prefix, plan=plan),
    )
    documents = [customer_document(each) for each in page.customers]
    if as_json:
        print_json({"customers": documents, "after": page.after})
        return
    numbers = ("balance", "held")
    shown = table("customer", "plan", "name", "kept in", *numbers, "status", right=numbers)
    for each in documents:
        status = "frozen" if each["frozen"] and each["status"] == "active" else each["status"]
        columns = ("id", "plan", "name", "kept_in", *numbers)
        cells = (*(each[column] for column in columns), status)
        row(shown, cells, None if status == "active" else "yellow")
    out.print(shown)
    if page.after is not None:
        err.print(plain(f"There are more: --after {page.after}", "dim"), soft_wrap=True)


@customers.command()
def suspend(
    customer: Customer,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Admit nothing of a customer until `customer resume`. Running requests may spend what they hold."""
    view = on_ledger(config, lambda backend: suspend_customer(backend, customer, reason))
    _answer(view, "Suspended", as_json)


@customers.command()
def resume(
    customer: Customer,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """End a suspension, and any other freeze of the customer's wallets."""
    view = on_ledger(config, lambda backend: resume_customer(backend, customer, reason))
    _answer(view, "Resumed", as_json)


@customers.command()
def delete(
    customer: Customer,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Erase a customer's name, email, external ids and tags, revoke its keys and freeze its wallets,
    permanently. Its books stay: wallet, events and statements, under the id, which cannot be reused."""
    if not yes:
        typer.confirm(f"Delete {customer} permanently?", abort=True, err=True)
    view = on_ledger(config, lambda backend: delete_customer(backend, customer, reason))
    _answer(view, "Deleted", as_json)


def _fields(**options: Any) -> dict[str, Any]:
    """The fields of a record that were given."""
    fields = {name: value for name, value in options.items() if value is not None}
    for name in ("external_ids", "tags"):
        if name in fields:
            fields[name] = given.by_name(fields[name])
    if "models" in fields:
        fields["models"] = frozenset(fields["models"])
    if "limits" in fields:
        fields["limits"] = tuple(fields["limits"])
    if "projects" in fields:
        fields["projects"] = given.by_project(fields["projects"])
    return fields


def _answer(view: CustomerView, done: str, as_json: bool) -> None:
    document = customer_document(view)
    if as_json:
        print_json(document)
        return
    out.print(plain(f"{done} {document['id']}.", "bold green"))
    plan = f"plan {document['plan']}, " if document["plan"] else ""
    out.print(plain(f"{plan}balance {document['balance']}, status {document['status']}"))


def _text(value: Any) -> str:
    """A field of the document as a line of a table."""
    if isinstance(value, dict) and value.keys() == {"limits"}:
        return _text(value["limits"])
    if isinstance(value, dict) and "measure" in value:
        return _limit(value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _limit(document: Mapping[str, Any]) -> str:
    """A limit as `--limit` takes it."""
    scope = ":".join(filter(None, (document["scope"], document.get("model"))))
    rolling = "rolling-" if document["rolling"] else ""
    window = f"/{rolling}{document['window']}" if "window" in document else ""
    return f"{scope}:{document['measure']}{window}={document['ceiling']}"
