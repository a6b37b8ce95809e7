"""`prices`: the price book, and providers' prices as costs."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, on_ledger
from gateway.cli.output import AsJson, fail, moment, out, plain, print_json, row, table
from gateway.cli.parameters import Reason, moment_ms
from gateway.domain.pricing import PriceTable
from gateway.ledger.book_changes import Taken
from gateway.operations.backend import Backend
from gateway.operations.price_books import (
    BookView,
    activate_book,
    activation_document,
    apply_prices,
    book_document,
    roll_back_prices,
    show_book,
    taken_document,
)
from gateway.operations.price_text import rate_text, unit_price
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
        int | None, typer.Option("--book", help="This book instead of the one in force.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show a price book and which books are in force when."""

    view = on_ledger(config, lambda backend: show_book(backend, number))
    if as_json:
        print_json(book_document(view))
    else:
        _print_book(view)


@prices.command()
def apply(
    from_: From = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Put this configuration's pending prices in force, now or from a moment on."""
    from_ms = moment_ms(from_) if from_ is not None else None

    async def work(backend: Backend) -> Taken:
        return await apply_prices(backend, backend.configured.price_draft(), from_ms, reason)

    taken = on_ledger(config, work)
    if as_json:
        print_json(taken_document(taken))
        return
    when = f" from {moment(taken.from_ms)}" if taken.state == "scheduled" else " in force"
    out.print(plain(f"book {taken.number}:{when}", "green"))


@prices.command()
def activate(
    number: Annotated[int, typer.Argument(metavar="BOOK", help="Its number.")],
    from_: From = None,
    reason: Reason = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Put a book of the ledger in force again, now or from a moment on."""
    from_ms = moment_ms(from_) if from_ is not None else None

    activation = on_ledger(config, lambda backend: activate_book(backend, number, from_ms, reason))
    if as_json:
        print_json(activation_document(activation))
    else:
        out.print(plain(f"book {number} is in force from {moment(activation.from_ms)}", "green"))


@prices.command()
def rollback(
    reason: Reason = None, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Undo the last change: cancel one to come, else put the book before it in force."""

    schedule = on_ledger(config, lambda backend: roll_back_prices(backend, reason))
    if as_json:
        print_json([activation_document(each) for each in schedule.activations])
    else:
        last = schedule.activations[-1]
        out.print(plain(f"book {last.number} is in force from {moment(last.from_ms)}", "green"))


@prices.command("import")
def import_(
    models: Annotated[list[str], typer.Argument(metavar="MODEL…", help="Names in the list.")],
    provider: Annotated[
        str | None, typer.Option(help="The provider, where several have a model of this name.")
    ] = None,
    litellm: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="LiteLLM's model_prices_and_context_window.json as the list."
        ),
    ] = None,
    markup: Annotated[
        str | None, typer.Option(help="Add a price: the cost times this, such as 1.5.")
    ] = None,
) -> None:
    """Print providers' prices as costs, as YAML for a configuration. Changes nothing."""
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


def _print_book(view: BookView) -> None:
    book, tables, schedule, now_ms = view.book, view.tables, view.schedule, view.now_ms
    listed = table("whose", "model", "class", "price", "cost", "version", right=("price", "cost"))
    for model, version in book.models.items():
        _rows(listed, "", model, tables[version])
    for plan, overrides in book.plans.items():
        for model, version in overrides.items():
            _rows(listed, f"plan {plan}", model, tables[version])
    for name, customer in book.customers.items():
        for model, version in customer.prices.items():
            _rows(listed, name, model, tables[version])
    out.print(plain(f"book {view.number}: {schedule.state_of(view.number, now_ms)}", "bold"))
    out.print(listed)
    history = table("book", "from", "decided", "by", "state")
    for each in schedule.activations:
        current = schedule.at(now_ms)
        state = "in force" if each == current else "to come" if each.from_ms > now_ms else ""
        begins = moment(each.from_ms) if each.from_ms else "the start"
        row(history, (each.number, begins, moment(each.decided_ms), each.reason, state))
    out.print(history)


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
