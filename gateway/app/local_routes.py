"""The routes that the gate answers without an upstream: health, credits, lists of models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.app.balance import BalanceReader
from gateway.app.ledger_health import LedgerHealth
from gateway.dialects import DIALECTS
from gateway.dialects.base import ReadOptions
from gateway.dialects.models import GeminiModel
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

    def routes(self, settings: Settings) -> dict[str, Route]:
        """By path."""
        names, since = list(settings.models), self.started_s
        answers: dict[str, LocalAnswer] = {
            "/v1/credits": answer_credits(self.balance.read),
            "/v1/models": answer_models(names, since, self._tiers_of),
            **{f"/v1/models/{name}": answer_model(name, since, self._tiers_of) for name in names},
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
            "/v1beta/models": answer_gemini_models(facts),
            **{f"/v1beta/models/{each.name}": answer_gemini_model(each) for each in facts},
        }
        return {
            **{path: _route(settings, path, answer) for path, answer in answers.items()},
            **{
                path: _route(settings, path, answer, public=True) for path, answer in probes.items()
            },
            **{path: _route(settings, path, answer, "gemini") for path, answer in gemini.items()},
        }

    def _why_not_ready(self) -> str | None:
        why_not = self.not_serving()
        if why_not is None and self.catalog().modes.enforces:
            why_not = self.health.why_not_ready()  # nobody else needs the ledger
        return why_not

    def _tiers_of(self, name: str, account: Account | None) -> tuple[str, ...]:
        """The service tiers of a model that have a price for an account now."""
        model = self.catalog().model_for(name, account)
        return model.prices.service_tiers if model is not None else ()


def _route(
    settings: Settings, path: str, answer: LocalAnswer, api: str = "", *, public: bool = False
) -> Route:
    return Route(
        path=path,
        methods=frozenset({"GET", "HEAD"}),
        dialect=SPEAKERS.get(api, DIALECTS["generic"]),
        reading=ReadOptions(),
        policy=settings.knobs().flow(),
        local=answer,
        public=public,
    )
