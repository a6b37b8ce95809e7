"""Bodies of `GET /v1/models` and `GET /v1/models/{id}`, in OpenAI's or Anthropic's shape, and of
`GET /v1beta/models` in Gemini's.

Shapes: platform.openai.com/docs/api-reference/models, docs.anthropic.com/en/api/models-list,
ai.google.dev/api/models. A client that sends `anthropic-version` gets Anthropic's.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson


@dataclass(frozen=True, slots=True)
class ModelTerms:
    """What a list says of a model's price.

    service_tiers: those that have a price
    pricing:       unit → price; None where prices are not shown
    """

    service_tiers: Sequence[str] = ()
    pricing: Mapping[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        """What is added to the model."""
        added: dict[str, Any] = {}
        if len(self.service_tiers) > 1:  # there is a choice
            added["service_tiers"] = ["auto", *self.service_tiers]
        if self.pricing is not None:
            added["pricing"] = dict(self.pricing)
        return added


NO_TERMS: Final = ModelTerms()
Terms = Mapping[str, ModelTerms]
"""By the model's name."""
NONE_KNOWN: Final[Terms] = {}


def list_models(
    names: Sequence[str], created_s: int, *, anthropic: bool, terms: Terms = NONE_KNOWN
) -> bytes:
    """All models that a key may use. created_s: Unix seconds shown as their date."""
    shown = [_model(name, created_s, anthropic, terms.get(name, NO_TERMS)) for name in names]
    if not anthropic:
        return orjson.dumps({"object": "list", "data": shown})
    return orjson.dumps(
        {
            "data": shown,
            "has_more": False,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
        }
    )


def show_model(name: str, created_s: int, *, anthropic: bool, terms: Terms = NONE_KNOWN) -> bytes:
    """One model. created_s: Unix seconds shown as its date."""
    return orjson.dumps(_model(name, created_s, anthropic, terms.get(name, NO_TERMS)))


@dataclass(frozen=True, slots=True)
class GeminiModel:
    """A model as Gemini's API shows it. context_tokens: None when unknown."""

    name: str
    max_output_tokens: int
    context_tokens: int | None

    def document(self, terms: ModelTerms = NO_TERMS) -> dict[str, Any]:
        """Its resource."""
        shown: dict[str, Any] = {
            "name": f"models/{self.name}",
            "baseModelId": self.name,
            "version": "001",
            "displayName": self.name,
            "outputTokenLimit": self.max_output_tokens,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }
        if self.context_tokens is not None:
            shown["inputTokenLimit"] = self.context_tokens
        if terms.pricing is not None:
            shown["pricing"] = dict(terms.pricing)
        return shown


def list_gemini_models(models: Sequence[GeminiModel], terms: Terms = NONE_KNOWN) -> bytes:
    """All models that a key may use; on one page, whatever `pageSize` says."""
    return orjson.dumps(
        {"models": [each.document(terms.get(each.name, NO_TERMS)) for each in models]}
    )


def show_gemini_model(model: GeminiModel, terms: ModelTerms = NO_TERMS) -> bytes:
    """One model."""
    return orjson.dumps(model.document(terms))


def _model(name: str, created_s: int, anthropic: bool, terms: ModelTerms) -> dict[str, Any]:
    model: dict[str, Any]
    if anthropic:
        created = dt.datetime.fromtimestamp(created_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        model = {"type": "model", "id": name, "display_name": name, "created_at": created}
        if terms.pricing is not None:
            model["pricing"] = dict(terms.pricing)
        return model
    model = {"id": name, "object": "model", "created": created_s, "owned_by": "creditgate"}
    return model | terms.fields()
