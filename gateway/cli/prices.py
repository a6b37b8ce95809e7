"""`prices`: the price book as operators see it, and the providers' prices as costs."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.lines import rate_text, unit_price
from gateway.cli.output import AsJson, fail, moment, out, plain, print_json, row, table
from gateway.cli.parameters import moment_ms
from gateway.domain.pricebook import Activation, Book, Schedule
from gateway.domain.pricing import PriceTable
from gateway.ledger.pricebook import NothingToUndo, Taken, UnknownBook, UnreadablePrice
from gateway.operations.documents import timestamp
from gateway.operations.pricing_import import (
    ImportFailed,
    fragment,
    from_genai_prices,
    from_litellm,
)
from gateway.settings.prices import Markup

prices = typer.Typer(help="The price book: see it, change it, import providers' prices.")
app.add_typer(prices, name="prices")

From = Annotated[
    str | None,
    typer.Option("--from", metavar="WHEN", help="From this moment on: 2027-01-01T00:00:00Z."),
]


@prices.command()
def show(
    number: Annotated[
        int | None, typer.Option("--book", help="This book, in place of the one in force.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show a price book and which books are in force when."""

    async def work(context: Context) -> tuple[int, Book, dict[str, PriceTable], Schedule, int]:
        books = context.accounts.price_books()
        schedule, now_ms = await books.schedule()
        current = schedule.at(now_ms)
        wanted = number if number is not None else current.number if current else None
        if wanted is None:
            raise fail("the ledger has no price book yet: start the gate, or `prices apply`")
        try:
            book = await books.book(wanted)
            return wanted, book, await books.tables(book.versions()), schedule, now_ms
        except (UnknownBook, UnreadablePrice) as error:
            raise fail(str(error)) from None

    shown, book, tables, schedule, now_ms = on_ledger(config, work)
    if as_json:
        print_json(
            {
                "book": shown,
                "state": schedule.state_of(shown, now_ms),
                "models": {m: _document(tables[v]) for m, v in book.models.items()},
                "plans": {
                    plan: {m: _document(tables[v]) for m, v in own.items()}
                    for plan, own in book.plans.items()
                },
                "customers": {
                    name: {
                        "plan": own.plan,
                        "prices": {m: _document(tables[v]) for m, v in own.prices.items()},
                    }
                    for name, own in book.customers.items()
                },
                "schedule": [_activation(each) for each in schedule.activations],
            }
        )
        return
    listed = table("whose", "model", "class", "price", "cost", "version", right=("price", "cost"))
    for model, version in book.models.items():
        _rows(listed, "", model, tables[version])
    for plan, own in book.plans.items():
        for model, version in own.items():
            _rows(listed, f"plan {plan}", model, tables[version])
    for name, customer in book.customers.items():
        for model, version in customer.prices.items():
            _rows(listed, name, model, tables[version])
    out.print(plain(f"book {shown}: {schedule.state_of(shown, now_ms)}", "bold"))
    out.print(listed)
    history = table("book", "from", "decided", "by", "state")
    for each in schedule.activations:
        current = schedule.at(now_ms)
        state = "in force" if each == current else "to come" if each.from_ms > now_ms else ""
        begins = moment(each.from_ms) if each.from_ms else "the start"
        row(history, (each.number, begins, moment(each.decided_ms), each.reason, state))
    out.print(history)


@prices.command()
def apply(from_: From = None, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Put this configuration's pending prices in force, now or from a moment on."""
    from_ms = moment_ms(from_) if from_ is not None else None

    async def work(context: Context) -> Taken:
        draft = context.settings.price_draft()
        await context.accounts.put_prices(draft.tables().values())
        return await context.accounts.price_books().apply(draft, from_ms)

    taken = on_ledger(config, work)
    if as_json:
        begins = timestamp(taken.from_ms) if taken.from_ms else None
        print_json({"book": taken.number, "state": taken.state, "from": begins})
        return
    when = f" from {moment(taken.from_ms)}" if taken.state == "scheduled" else " in force"
    out.print(plain(f"book {taken.number}:{when}", "green"))


@prices.command()
def activate(
    number: Annotated[int, typer.Argument(metavar="BOOK", help="Its number.")],
    from_: From = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Put a book of the ledger in force again, now or from a moment on."""
    from_ms = moment_ms(from_) if from_ is not None else None

    async def work(context: Context) -> Activation:
        try:
            return await context.accounts.price_books().activate(number, from_ms)
        except UnknownBook as error:
            raise fail(str(error)) from None

    activation = on_ledger(config, work)
    if as_json:
        print_json(_activation(activation))
    else:
        out.print(plain(f"book {number} is in force from {moment(activation.from_ms)}", "green"))


@prices.command()
def rollback(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Take back the last change: one to come is cancelled, else the book before is in force."""

    async def work(context: Context) -> Schedule:
        try:
            return await context.accounts.price_books().rollback()
        except NothingToUndo as error:
            raise fail(str(error)) from None

    schedule = on_ledger(config, work)
    if as_json:
        print_json([_activation(each) for each in schedule.activations])
    else:
        last = schedule.activations[-1]
        out.print(plain(f"book {last.number} is in force from {moment(last.from_ms)}", "green"))


@prices.command("import")
def import_(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Names in the list.")],
    provider: Annotated[
        str | None, typer.Option(help="Whose, where several providers have one of this name.")
    ] = None,
    litellm: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="LiteLLM's model_prices_and_context_window.json as the list."
        ),
    ] = None,
    markup: Annotated[
        str | None, typer.Option(help="Also a price: the cost times this, such as 1.5.")
    ] = None,
) -> None:
    """Print providers' prices as costs, a piece of YAML for a configuration. Nothing is changed."""
    if markup is not None:
        try:
            TypeAdapter(Markup).validate_python(markup)
        except ValidationError:
            raise typer.BadParameter(f"{markup!r} is not a factor such as 1.5") from None
    try:
        costs = from_litellm(litellm, models) if litellm else from_genai_prices(models, provider)
    except ImportFailed as error:
        raise fail(str(error)) from None
    typer.echo(fragment(costs, markup=markup), nl=False)


def _activation(activation: Activation) -> dict[str, Any]:
    return {
        "book": activation.number,
        "from": timestamp(activation.from_ms),
        "decided_at": timestamp(activation.decided_ms),
        "reason": activation.reason,
    }


def _document(price: PriceTable) -> dict[str, Any]:
    return {
        "price_version": price.price_version,
        "prices": {unit: rate_text(rate) for unit, rate in price.rates.items()},
        "costs": {unit: unit_price(unit, pico) for unit, pico in price.costs_pico.items()},
    }


def _rows(listed: Any, whose: str, model: str, price: PriceTable) -> None:
    for unit in price.units:
        rate, cost = price.rates.get(unit), price.costs_pico.get(unit)
        row(
            listed,
            (
                whose,
                model,
                unit,
                rate_text(rate) if rate else "as its parent",
                unit_price(unit, cost) if cost is not None else "",
                price.price_version,
            ),
        )
