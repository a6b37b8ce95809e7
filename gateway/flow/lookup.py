"""Finds what a request is for: its route, and the model that it names."""

from gateway.flow.catalog import Catalog, Model, Route
from gateway.flow.context import RequestContext
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
