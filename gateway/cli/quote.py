"""`quote`: what a request would hold and could cost at most, and whether it would be admitted now.

The body is read by the route's own dialect, bounded as the flow bounds it and rated by the
ledger's own script, at the prices of the book in force: it is the gate's answer, without the
request. Nothing is sent, nothing held.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from gateway.cli import app
from gateway.cli.context import DEFAULT_CONFIG, ConfigFile, Context, on_ledger
from gateway.cli.customers import check_configured, wallet_of
from gateway.cli.lines import price_columns
from gateway.cli.output import AsJson, fail, out, plain, print_json, row, table
from gateway.dialects import DIALECTS
from gateway.dialects.base import Asked, BadRequest
from gateway.dialects.reading.strict_json import parse_object
from gateway.domain.money import format_amount
from gateway.domain.pricebook import Book
from gateway.domain.reservation import Account, Key, Quote
from gateway.domain.usage import Usage
from gateway.flow.authentication import account_of
from gateway.flow.catalog import Model, Route
from gateway.flow.estimate import Estimate, estimate_request
from gateway.flow.paths import PathTable
from gateway.http.interface import Answer
from gateway.ledger.accounts import RedisRunner
from gateway.ledger.operations import Ledger
from gateway.ledger.pricebook import UnreadablePrice
from gateway.operations.documents import line_amounts
from gateway.operations.why import PriceLine, price_line
from gateway.settings import Settings
from gateway.settings.compiling import (
    compile_customers,
    compile_keys,
    compile_models,
    compile_routes,
    price_models,
)
from gateway.settings.problems import suggest

DEFAULT_ROUTE: Final = "/v1/chat/completions"

_HELP: Final = (
    "Tell what a request would hold and cost at most, and whether it would be admitted now.\n\n"
    "Exit 0 whatever the decision; 1 when there is nothing to decide: a body that cannot be priced,"
    " a model or an endpoint that is not offered, one that is free."
)
_DECISIONS: Final = {
    "allow": "It would be admitted now.",
    "insufficient_credits": "It would be refused: the balance cannot pay for it.",
    "credit_held": (
        "It would be refused for the moment: the balance could pay for it, but requests that"
        " still run hold too much."
    ),
    "spend_limit": "It would be refused: a spend limit leaves less than it could cost.",
    "rate_limit": "It would be refused for the moment: a limit on requests or tokens is reached.",
    "concurrency_limit": "It would be refused for the moment: too many requests run already.",
    "wallet_frozen": "It would be refused: the wallet is frozen.",
}


@dataclass(frozen=True, slots=True)
class Quoted:
    """The answer. `held` and `most` are usages; `most` is what the hold may grow to."""

    account: Account
    route: Route
    model: Model
    stream: bool
    bound: Estimate
    held: Usage
    most: Usage
    hold: Quote
    at_most_nano: int


@app.command(help=_HELP)
def quote(
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="Who would pay.")],
    model: Annotated[
        str | None, typer.Option(help="In place of the model that the body names.")
    ] = None,
    route: Annotated[str, typer.Option(help="The endpoint's path.")] = DEFAULT_ROUTE,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="The request's body; stdin without it.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY_ID",
            help="As with this key: its project, models and limits. Without it, as with a new one.",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Tell what a request would hold and cost at most, and whether it would be admitted now."""
    body = _body(file)

    async def work(context: Context) -> Quoted:
        settings = context.settings
        check_configured(settings, customer)
        found = await _account(context, customer, key)
        asked = Asked("POST", route, "", (), body)
        return await _quote(context, found, _route(settings, route), model, asked)

    quoted = on_ledger(config, work)
    if as_json:
        print_json(quote_document(quoted))
    else:
        _print(quoted)


async def _quote(
    context: Context, account: Account, route: Route, named: str | None, asked: Asked
) -> Quoted:
    settings = context.settings
    upstreams = {name: _Unasked(name) for name in settings.upstreams}
    models = await _priced(context, account.customer_id, compile_models(settings, upstreams))
    try:
        if named is not None:
            body = orjson.dumps({**parse_object(asked.body), "model": named})
            asked = replace(asked, body=body)
        facts = route.dialect.read(asked, route.reading)
        name = route.priced_as or facts.model
        model = models.get(name)
        if model is None or model.of_route is not (route.priced_as is not None):
            raise fail(f"there is no model {name}. {suggest(name, settings.models)}")
        if account.models is not None and model.name not in account.models:
            allowed = ", ".join(sorted(account.models))
            raise fail(f"{account.customer_id} may not use {model.name}, only: {allowed}")
        bound = estimate_request(facts, model, route.policy)
    except BadRequest as bad:
        at = f" ({bad.param})" if bad.param else ""
        raise fail(f"the gate would refuse this body with 400: {bad.message}{at}") from None
    # The windows of limits are packed for a moment: the ledger's own, asked once.
    now_ms = await context.accounts.now_ms()
    redis = settings.redis
    ledger = Ledger(
        RedisRunner(context.client),
        namespace=redis.namespace,
        shard_count=redis.shards,
        clock_ms=lambda: now_ms,
    )
    whole = replace(bound, held_output=bound.output)
    held, most = bound.held_usage(model), whole.held_usage(model)
    prices, bits = model.prices, model.scope_bits
    hold = await ledger.quote(
        account,
        prices,
        prices.vector(held),
        tokens=bound.tokens,
        scope_bits=bits,
        model=model.name,
    )
    at_most = await ledger.quote(
        account,
        prices,
        prices.vector(most),
        tokens=whole.tokens,
        scope_bits=bits,
        model=model.name,
    )
    return Quoted(
        account, route, model, facts.stream, bound, held, most, hold, at_most.estimate_nano
    )


async def _priced(
    context: Context, customer_id: str, models: Mapping[str, Model]
) -> dict[str, Model]:
    """The models at the prices that a running gate has for this customer: those of the book in
    force, and the configuration's for what the book does not name."""
    books, draft = context.accounts.price_books(), context.settings.price_draft()
    in_force = await books.in_force()
    book = draft.under(in_force[1] if in_force else Book({}))
    try:
        tables = {**draft.tables(), **await books.tables(book.versions())}
    except UnreadablePrice as error:
        raise fail(str(error)) from None
    priced, overrides = price_models(context.settings, models, book, tables)
    return {**priced, **overrides.get(customer_id, {})}


def quote_document(quoted: Quoted) -> dict[str, Any]:
    """The quote as a document; amounts are decimal strings of credits, quantities tokens."""
    hold, bound, prices = quoted.hold, quoted.bound, quoted.model.prices
    return {
        "customer_id": quoted.account.customer_id,
        "key_id": quoted.account.key_id or None,
        "route": quoted.route.path,
        "model": quoted.model.name,
        "upstream": quoted.model.upstream.name,
        "stream": quoted.stream,
        "decision": hold.decision,
        "hold": format_amount(hold.estimate_nano),
        "at_most": format_amount(quoted.at_most_nano),
        "available": format_amount(hold.available_nano),
        "balance": format_amount(hold.balance_nano),
        "bound": {"input": bound.input, "output": bound.output, "held_output": bound.held_output},
        "price_version": prices.price_version,
        "lines": [
            {
                "unit": line.unit,
                "quantity": line.quantity,
                **line_amounts(line),
            }
            for line in _lines(quoted.model, quoted.held)
        ],
    }


def _print(quoted: Quoted) -> None:
    hold, model = quoted.hold, quoted.model
    columns = ("at most", "price", "held", "could cost")
    bill = table("class", *columns, right=columns)
    for held, most in zip(_lines(model, quoted.held), _lines(model, quoted.most), strict=True):
        row(bill, (held.unit, most.quantity, *price_columns(held), price_columns(most)[1]))
    amounts = (format_amount(hold.estimate_nano), format_amount(quoted.at_most_nano))
    row(bill, ("in credits, rounded up", "", model.prices.price_version, *amounts), "bold")
    out.print(bill)
    if hold.estimate_nano < quoted.at_most_nano:
        out.print(plain("A stream: its hold grows while it runs.", "dim"))
    available, balance = format_amount(hold.available_nano), format_amount(hold.balance_nano)
    out.print(plain(f"available {available} of a balance of {balance}"))
    unknown = f"The ledger would admit nothing now: {hold.decision}."
    style = "bold green" if hold.decision == "allow" else "bold red"
    out.print(plain(_DECISIONS.get(hold.decision, unknown), style))


def _lines(model: Model, usage: Usage) -> list[PriceLine]:
    """The priced units of a usage."""
    rates = model.prices.rates
    lines = (price_line(unit, n, rates) for unit, n in usage.items())
    return [line for line in lines if line.rate_pico != 0 or line.unit in rates]


def _body(file: Path | None) -> bytes:
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise fail(f"cannot read {file}: {error.strerror}", 2) from None
    if sys.stdin.isatty():
        raise fail("give the request's body: --file BODY.json, or on stdin", 2)
    return sys.stdin.buffer.read()


def _route(settings: Settings, path: str) -> Route:
    upstreams = {name: _Unasked(name) for name in settings.upstreams}
    routes = compile_routes(settings, upstreams, DIALECTS)
    found = PathTable(routes.items()).find(path)
    if found is None:
        raise fail(f"there is no endpoint {path}. {suggest(path, routes)}")
    for each in (found, *found.beside):
        if not each.free:
            return each
    raise fail(f"{path} is free: there is nothing to hold or to charge")


async def _account(context: Context, customer_id: str, key_id: str | None) -> Account:
    """The account that a key acts for; without one, that of a key that has used nothing yet."""
    wallet = await wallet_of(context, customer_id)
    customer = compile_customers(context.settings)[customer_id]
    key = Key(key_id="", customer_id=customer_id)
    if key_id is not None:
        configured = compile_keys(context.settings).values()
        stored = await context.accounts.list_keys(customer_id)
        keys = {each.key_id: each for each in configured if each.customer_id == customer_id}
        for each in stored:
            if each.revoked_at_ms is None:
                keys[each.key_id] = Key(each.key_id, customer_id, each.project_id)
        if key_id not in keys:
            raise fail(f"{customer_id} has no valid key {key_id}. {suggest(key_id, keys)}")
        key = keys[key_id]
    return account_of(customer, key, wallet.account_rev)


class _Unasked:
    """An upstream by its name alone: a quote sends nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def send(self, method: str, path: str, headers: bytes, body: bytes) -> Answer:
        """Never called."""
        raise NotImplementedError

    async def close(self) -> None:
        """There is nothing to close."""
