"""Finds what a request is for: its route, the model that it names, and the plan by which it runs."""

from gateway.flow.catalog import Catalog, Model, Route
from gateway.flow.context import RequestContext
from gateway.flow.known_head import KnownHead
from gateway.flow.plan import Plan, ShadowPlan, make_plan
from gateway.flow.refusals import Particulars, Refused
from gateway.http.interface import Exchange


def find_route(catalog: Catalog, exchange: Exchange) -> Route:
    """The route that serves this path and method. Raises Refused."""
    route = catalog.paths.find(exchange.path)
    if route is None:
        raise Refused(
            "not_found",
            f"There is no endpoint {exchange.method} {exchange.path[:200]} here."
            " This gateway serves only the endpoints its operator has configured.",
        )
    if exchange.method not in route.methods:
        for other in route.same_path:
            if exchange.method in other.methods:
                return other
        methods = route.methods.union(*(other.methods for other in route.same_path))
        raise Refused(
            "method_not_allowed",
            f"{exchange.path} takes {', '.join(sorted(methods))}, not {exchange.method[:20]}.",
            Particulars(headers=(("allow", ", ".join(sorted(methods))),)),
        )
    return route


def find_model(catalog: Catalog, context: RequestContext, name: str) -> Model:
    """The model that a request names, or its route's own, at the customer's price. Raises Refused where
    there is none."""
    account = context.account
    assert account is not None
    route = context.route
    free = route.free
    model = catalog.free_model(route, name) if free else catalog.model_for(name, account)
    if model is None or model.of_route is not (route.priced_as is not None):
        raise Refused(
            "unknown_model",
            f"The model `{context.model_name}` does not exist here or has no price.",
            code="model_not_found",
            param="model",
        )
    return model


def find_plan(context: RequestContext, known: KnownHead) -> Plan:
    """The plan of a request, made at the first of its kind. Raises Refused."""
    route = context.route
    name = route.priced_as or context.facts.model
    context.model_name = name[:200]
    plan = known.plans.get(name)
    if plan is None:
        account = known.account
        assert account is not None
        # The configuration of the head, although a reload may have replaced it meanwhile.
        catalog = known.catalog
        model = find_model(catalog, context, name)
        plan = make_plan(catalog, account, route, model)
        refused = forbidden(context, model)
        if refused is not None:
            if not isinstance(plan, ShadowPlan):
                raise refused
            plan.objection = refused
        known.plans[name] = plan
    return plan


def forbidden(context: RequestContext, model: Model) -> Refused | None:
    """Why the request's key may not use a model; None where it may."""
    account, route = context.account, context.route
    assert account is not None
    if account.models is None or model.name in account.models:
        return None
    if route.free and route.upstream is not None:
        return None  # its request names no model
    return Refused(
        "forbidden_model",
        f"This API key may not use the model `{context.model_name}`.",
        code="model_not_found",
        param="model",
    )
