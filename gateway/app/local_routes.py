"""The routes that the gate answers without an upstream: health, credits, lists of models, and what key
holders see of their usage."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from gateway.app.balance import BalanceReader
from gateway.app.key_holders.routes import HolderRoutes
from gateway.app.ledger_health import LedgerHealth
from gateway.dialects import DIALECTS
from gateway.dialects.base import ReadOptions
from gateway.dialects.models import GeminiModel, ModelTerms
from gateway.domain.reservation import Account
from gateway.flow.catalog import Catalog, LocalAnswer, Route
from gateway.flow.local_routes import (
    answer_credits,
    answer_gemini_model,
    answer_gemini_models,
    answer_health,
    answer_model,
    answer_models,
)
from gateway.flow.shown_prices import pricing_of
from gateway.settings import Settings

SPEAKERS: Final = {
    "anthropic": DIALECTS["anthropic_messages"],
    "gemini": DIALECTS["gemini_generate"],
}
"""API → the dialect in whose shape requests are refused that match no route."""


@dataclass(frozen=True, slots=True)
class LocalRoutes:
    """Makes the routes for a configuration.

    catalog:  the one in force, asked for each request: prices change without a reload
    not_serving: why this worker does not serve requests, in one word; None while it does
    """

    balance: BalanceReader
    health: LedgerHealth
    catalog: Callable[[], Catalog]
    not_serving: Callable[[], str | None]
    started_s: int
    holders: HolderRoutes

    def routes(self, settings: Settings) -> dict[str, Route]:
        """By path."""
        names, since = list(settings.models), self.started_s
        shows_prices = settings.key_holders.enabled

        def terms_of(name: str, account: Account | None) -> ModelTerms:
            return self._terms_of(name, account, shows_prices=shows_prices)

        answers: dict[str, LocalAnswer] = {
            "/v1/credits": answer_credits(self.balance.read),
            "/v1/models": answer_models(names, since, terms_of),
            **{f"/v1/models/{name}": answer_model(name, since, terms_of) for name in names},
        }
        probes: dict[str, LocalAnswer] = {
            "/healthz": answer_health(lambda: None),
            "/readyz": answer_health(self._why_not_ready, self.health.degraded),
        }
        facts = [
            GeminiModel(name, model.max_output_tokens, model.context_tokens)
            for name, model in settings.models.items()
        ]
        gemini: dict[str, LocalAnswer] = {
            "/v1beta/models": answer_gemini_models(facts, terms_of),
            **{
                f"/v1beta/models/{each.name}": answer_gemini_model(each, terms_of) for each in facts
            },
        }
        routes = {
            **{path: _route(settings, path, answer) for path, answer in answers.items()},
            **{
                path: _route(settings, path, answer, public=True) for path, answer in probes.items()
            },
            **{path: _route(settings, path, answer, "gemini") for path, answer in gemini.items()},
        }
        for each in self.holders.paths(settings):
            route = _route(settings, each.path, each.answer, public=each.public)
            if each.method != "GET":
                route = replace(route, methods=frozenset({each.method}))
            first = routes.setdefault(each.path, route)
            if first is not route:
                routes[each.path] = replace(first, same_path=(*first.same_path, route))
        return routes

    def _why_not_ready(self) -> str | None:
        why_not = self.not_serving()
        if why_not is None and self.catalog().modes.enforces:
            why_not = self.health.why_not_ready()  # nobody else needs the ledger
        return why_not

    def _terms_of(self, name: str, account: Account | None, *, shows_prices: bool) -> ModelTerms:
        """What a model costs an account now."""
        model = self.catalog().model_for(name, account)
        if model is None:
            return ModelTerms()
        prices = model.prices
        return ModelTerms(prices.service_tiers, pricing_of(prices) if shows_prices else None)


def _route(
    settings: Settings, path: str, answer: LocalAnswer, api: str = "", *, public: bool = False
) -> Route:
    return Route(
        path=path,
        methods=frozenset({"GET", "HEAD"}),
        dialect=SPEAKERS.get(api, DIALECTS["generic"]),
        reading=ReadOptions(),
        policy=settings.flow_policy(),
        local=answer,
        public=public,
    )
