"""From a request's body to a quote: read by the route's dialect and bounded as the flow bounds it, at the
prices of the book in force."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import orjson

from gateway.dialects import DIALECTS
from gateway.dialects.base import Asked, BadRequest
from gateway.dialects.reading.strict_json import parse_object
from gateway.domain.pricebook import Book
from gateway.domain.reservation import Account, Key, shard_of
from gateway.domain.suggestions import suggest
from gateway.flow.catalog import Catalog, Model, Route
from gateway.flow.customers import Customer, account_of, customer_of_record
from gateway.flow.estimate import estimate_request
from gateway.flow.paths import PathTable
from gateway.http.interface import Breaker, Upstream
from gateway.ledger.pricebook import UnreadablePrice
from gateway.operations.backend import Backend, CustomerRef
from gateway.operations.customers import find_customer, wallet_of
from gateway.operations.errors import Conflict, NotFound
from gateway.operations.quote import Quoted, QuoteRequest, WorstCase, quote
from gateway.settings import Settings
from gateway.settings.compiling import (
    compile_customers,
    compile_keys,
    compile_models,
    compile_plans,
    compile_routes,
    price_models,
)


@dataclass(frozen=True, slots=True)
class RequestToQuote:
    """A request that is not sent.

    key_id: acts with this key; None for a key that has used nothing yet
    model:  in place of the one that the body names; None for that one
    """

    customer_id: str
    path: str
    body: bytes
    key_id: str | None = None
    model: str | None = None


async def quote_request(settings: Settings, backend: Backend, request: RequestToQuote) -> Quoted:
    """What the request would hold and cost at most. Raises NotFound, Conflict, LedgerUnavailable."""
    account = await _account(settings, backend, request)
    upstreams = {name: _NamedUpstream(name) for name in settings.upstreams}
    route = _route(settings, upstreams, request.path)
    models = await _priced(settings, backend, upstreams, account)
    asked = Asked("POST", request.path, "", (), request.body)
    try:
        if request.model is not None:
            body = orjson.dumps({**parse_object(asked.body), "model": request.model})
            asked = replace(asked, body=body)
        facts = route.dialect.read(asked, route.reading)
        model = _model(route, route.priced_as or facts.model, models, settings)
        if account.models is not None and model.name not in account.models:
            allowed = ", ".join(sorted(account.models))
            raise Conflict(f"{account.customer_id} may not use {model.name}, only: {allowed}")
        bound = estimate_request(facts, model, route.policy)
    except BadRequest as bad:
        at = f" ({bad.param})" if bad.param else ""
        raise Conflict(f"the gate would refuse this body with 400: {bad.message}{at}") from bad
    grown = replace(bound, held_output=bound.output)
    return await quote(
        backend,
        QuoteRequest(
            account=account,
            route=route.path,
            model=model.name,
            upstream=model.upstream.name,
            stream=facts.stream,
            prices=model.prices,
            scope_bits=model.scope_bits,
            input=bound.input,
            output=bound.output,
            held_output=bound.held_output,
            held=WorstCase(bound.held_usage(model), bound.tokens),
            most=WorstCase(grown.held_usage(model), grown.tokens),
        ),
    )


def _model(route: Route, name: str, models: Mapping[str, Model], settings: Settings) -> Model:
    model = models.get(name)
    if model is None or model.of_route is not (route.priced_as is not None):
        raise NotFound(f"there is no model {name}. {suggest(name, settings.models)}")
    return model


async def _priced(
    settings: Settings, backend: Backend, upstreams: Mapping[str, Upstream], account: Account
) -> dict[str, Model]:
    """The models at the prices that a running gate has for this account: those of the book in
    force, and the configuration's for what the book does not name."""
    models, draft = compile_models(settings, upstreams), settings.price_draft()
    books = backend.accounts.books
    in_force = await books.in_force()
    book = draft.under(in_force[1] if in_force else Book({}))
    try:
        tables = {**draft.tables(), **await books.tables(book.versions())}
    except UnreadablePrice as error:
        raise Conflict(str(error)) from error
    priced = price_models(settings, models, book, tables)
    catalog = Catalog(
        routes={},
        models=priced.models,
        fallback=DIALECTS["generic"],
        max_body_bytes=0,
        overrides=priced.customers,
        plan_overrides=priced.plans,
    )
    charged = {name: catalog.model_for(name, account) for name in priced.models}
    return {name: model for name, model in charged.items() if model is not None}


def _route(settings: Settings, upstreams: Mapping[str, Upstream], path: str) -> Route:
    routes = compile_routes(settings, upstreams, DIALECTS)
    found = PathTable(routes.items()).find(path)
    if found is None:
        raise NotFound(f"there is no endpoint {path}. {suggest(path, routes)}")
    for each in (found, *found.same_path):
        if not each.free:
            return each
    raise Conflict(f"{path} is free: there is nothing to hold or to charge")


async def _account(settings: Settings, backend: Backend, request: RequestToQuote) -> Account:
    """The account that a key acts for; without one, that of a key that has used nothing yet."""
    customer_id, key_id = request.customer_id, request.key_id
    found = await find_customer(backend, customer_id)
    wallet = await wallet_of(backend, customer_id)
    customer = await _customer(settings, backend, found)
    key = Key(key_id="", customer_id=customer_id)
    if key_id is not None:
        configured = compile_keys(settings).values()
        keys = {each.key_id: each for each in configured if each.customer_id == customer_id}
        for each in await backend.accounts.keys.entries(customer_id):
            if each.revoked_at_ms is None:
                keys[each.key_id] = each.as_key()
        if key_id not in keys:
            raise NotFound(f"{customer_id} has no valid key {key_id}. {suggest(key_id, keys)}")
        key = keys[key_id]
    return account_of(customer, key, wallet.account_rev)


async def _customer(settings: Settings, backend: Backend, found: CustomerRef) -> Customer:
    """The customer as a running gate knows it. Raises Conflict."""
    if isinstance(found, str):
        return compile_customers(settings)[found]
    plan = compile_plans(settings).get(found.plan or "")
    if plan is None:
        raise Conflict(f"the plan {found.plan} of {found.customer_id} is not configured")
    tables = await backend.accounts.books.tables(found.prices.values())
    prices = {model: tables[version] for model, version in found.prices.items()}
    shard = shard_of(found.customer_id, settings.redis.shards)
    return customer_of_record(found, plan, shard, prices)


class _NamedUpstream:
    """An upstream that has only its name: models and routes refer to one, and a quote sends nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.breaker = Breaker()

    async def send(self, *_: object, **__: object) -> NoReturn:
        """Refuse: a quote that sends is a bug."""
        raise AssertionError(f"a quote must send nothing, not even to {self.name}")

    async def close(self) -> None:
        """Nothing is open."""
