"""From settings to the values that the flow takes: the catalog, customers, keys, trusted header.

Built at start and at reload; nothing here runs per request. Routes that the gate answers
itself (`local`) are the application's to add.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.dialects.any_api.dialect import AnyApi, Terms
from gateway.dialects.base import Dialect, ForwardOptions, ReadOptions
from gateway.domain.modes import Modes
from gateway.domain.pricebook import Book
from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import Key, shard_of
from gateway.flow.catalog import Model, Route
from gateway.flow.customers import Customer, PlanTerms
from gateway.flow.headers import Forwarding
from gateway.flow.spread import Spread, Target
from gateway.http.cors import Cors
from gateway.http.interface import Upstream
from gateway.settings.catalogue import RouteSection, ServedBySection
from gateway.settings.customers import PlanSection
from gateway.settings.forwarding import compile_forwarding
from gateway.settings.root import Settings


def compile_models(settings: Settings, upstreams: Mapping[str, Upstream]) -> dict[str, Model]:
    """Compile every model, by the name callers use. upstreams: the clients by configured name."""
    models = {}
    forwarding = compile_forwarding(settings)
    for name, model in settings.models.items():
        targets = [
            _target(settings, served, upstreams, forwarding, model.upstream_model or name)
            for served in model.served_by
        ]
        first = targets[0]
        models[name] = Model(
            name=name,
            upstream=first.upstream,
            forwarding=first.forwarding,
            forward=first.forward,
            prices=model.price_table(name),
            max_output_tokens=model.max_output_tokens,
            context_tokens=model.context_tokens,
            hidden_output=model.hidden_output,
            auto_tiers=model.auto_service_tiers,
            scope_bits=settings.scope_bits((model.group,) if model.group else ()),
            spread=Spread(targets) if len(targets) > 1 else None,
        )
    for name, route in settings.routes.items():
        if route.prices is not None and route.upstream is not None:
            models[name] = Model(
                name=name,
                upstream=upstreams[route.upstream],
                forwarding=forwarding[route.upstream],
                forward=ForwardOptions(upstream_model=""),
                prices=route.price(name).table(),
                max_output_tokens=0,
                context_tokens=None,
                hidden_output=False,
                scope_bits=settings.scope_bits((route.group,) if route.group else ()),
                of_route=True,
            )
    return models


def _target(
    settings: Settings,
    served: ServedBySection,
    upstreams: Mapping[str, Upstream],
    forwarding: Mapping[str, Forwarding],
    model_name: str,
) -> Target:
    """Compile one upstream of a model. model_name: there, if `served` has no other"""
    section = settings.upstreams[served.upstream]
    return Target(
        upstream=upstreams[served.upstream],
        forwarding=forwarding[served.upstream],
        forward=ForwardOptions(
            upstream_model=served.upstream_model or model_name,
            inject_usage=section.inject_usage,
            continuous_usage_stats=section.continuous_usage_stats,
            max_output_field=section.max_output_field,
        ),
        weight=served.weight,
        failover_statuses=frozenset(section.failover_statuses),
    )


@dataclass(frozen=True, slots=True)
class PricedModels:
    """The models at the prices of one book.

    models:    at the price of everyone
    customers: by configured customer: the models that have another price for it
    plans:     by plan: the models that have another price for its customers in the ledger
    """

    models: Mapping[str, Model]
    customers: Mapping[str, Mapping[str, Model]]
    plans: Mapping[str, Mapping[str, Model]]


def price_models(
    settings: Settings,
    models: Mapping[str, Model],
    book: Book,
    tables: Mapping[str, PriceTable],
) -> PricedModels:
    """The models at the prices of a book.

    tables: by version; a model whose version is not among them keeps its price
    """

    def at(model: Model, version: str | None) -> Model:
        table = tables.get(version or "")
        if table is None or table.price_version == model.prices.price_version:
            return model
        return replace(model, prices=table)

    def overridden(overrides: Mapping[str, str]) -> dict[str, Model]:
        return {
            name: at(models[name], version) for name, version in overrides.items() if name in models
        }

    shared: dict[frozenset[tuple[str, str]], dict[str, Model]] = {}
    by_customer = {}
    for customer_id in settings.customers:
        overrides = book.overrides_of(customer_id)
        if overrides:
            same = frozenset(overrides.items())
            if same not in shared:
                shared[same] = overridden(overrides)
            by_customer[customer_id] = shared[same]
    return PricedModels(
        {name: at(model, book.models.get(name)) for name, model in models.items()},
        by_customer,
        {name: overridden(book.plans[name]) for name in settings.plans if name in book.plans},
    )


def compile_routes(
    settings: Settings, upstreams: Mapping[str, Upstream], dialects: Mapping[str, Dialect]
) -> dict[str, Route]:
    """Compile every configured route by path; routes for other methods are linked to the first
    one."""
    forwarding = compile_forwarding(settings)
    routes: dict[str, Route] = {}
    for name, section in settings.routes.items():
        route = _route(settings, name, section, upstreams, forwarding, dialects)
        first = routes.setdefault(route.path, route)
        if first is not route:
            routes[route.path] = replace(first, same_path=(*first.same_path, route))
    return routes


def compile_customers(settings: Settings) -> dict[str, Customer]:
    """Compile every customer by id, without keys."""
    return {
        customer_id: Customer(
            customer_id=customer_id,
            shard=shard_of(customer_id, settings.redis.shards),
            limits=settings.limits(customer_id),
            projects=settings.project_limits(customer_id),
            models=settings.models_of(customer_id),
            livemode=customer.livemode,
            tags=dict(customer.tags),
        )
        for customer_id, customer in settings.customers.items()
    }


def compile_plans(settings: Settings) -> dict[str, PlanTerms]:
    """Compile what each plan gives customers in the ledger; "" is for those without one."""
    plans = {"": PlanSection(), **settings.plans}
    return {
        name: PlanTerms(
            tuple(limit for section in plan.limits for limit in section.compiled()),
            None if plan.models is None else frozenset(plan.models),
        )
        for name, plan in plans.items()
    }


def compile_keys(settings: Settings) -> dict[str, Key]:
    """Compile every configured key by its hash in hex; none if keys are disabled."""
    if not settings.auth.keys:
        return {}
    return {
        key.sha256: Key(
            key_id=key.key_id,
            customer_id=customer_id,
            project_id=key.project,
            limits=tuple(section.compiled("key") for section in key.limits),
            models=None if key.models is None else frozenset(key.models),
            tags=dict(key.tags),
        )
        for customer_id, key in settings.api_keys()
    }


def compile_modes(settings: Settings) -> Modes:
    """Compile the configured modes; operators may set others over them."""
    customers = {
        customer_id: customer.mode
        for customer_id, customer in settings.customers.items()
        if customer.mode is not None
    }
    return Modes(settings.mode, customers)


def compile_cors(settings: Settings) -> Cors | None:
    """Compile the allowed CORS origins; None if there are none."""
    origins = settings.cors.origins
    return Cors(origins) if origins else None


def _route(
    settings: Settings,
    name: str,
    route: RouteSection,
    upstreams: Mapping[str, Upstream],
    forwarding: Mapping[str, Forwarding],
    dialects: Mapping[str, Dialect],
) -> Route:
    knobs = settings.knobs(route)
    return Route(
        path=route.path,
        methods=frozenset(route.methods),
        dialect=_dialect(settings, route, dialects),
        reading=ReadOptions(
            template_overhead_tokens=knobs.template_overhead_tokens,
            reference_tokens=knobs.reference_tokens,
            media_tokens=knobs.media_tokens,
            priced_tools=frozenset(route.priced_tools),
            max_tool_calls=route.max_tool_calls,
            unknown_tools=route.unknown_tools,
            extra_fields=frozenset(route.extra_fields),
            allow_stateful_ids=route.allow_stateful_ids,
            min_audio_bytes_per_second=route.min_audio_bytes_per_second,
            max_json_values=settings.listen.max_json_values,
        ),
        policy=settings.flow_policy(route),
        free=route.free,
        upstream=upstreams[route.upstream] if route.upstream else None,
        forwarding=forwarding[route.upstream] if route.upstream else None,
        priced_as=name if route.prices is not None else None,
    )


def _dialect(settings: Settings, route: RouteSection, dialects: Mapping[str, Dialect]) -> Dialect:
    """Return the named dialect; for a route without a model, a separate instance with the route's
    terms."""
    if route.upstream is None or route.dialect != AnyApi.name:
        return dialects[route.dialect]
    quantities = route.quantities(
        total_ms=settings.upstreams[route.upstream].timeouts.total_ms,
        max_body_bytes=settings.listen.max_body_bytes,
    )
    return AnyApi(Terms(quantities, frozenset(route.query), route.charge_errors))
