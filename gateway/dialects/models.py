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

NO_TIERS: Final[Mapping[str, Sequence[str]]] = {}
Tiers = Mapping[str, Sequence[str]]
"""Of models with more than one price: the service tiers that a request may ask for."""


def list_models(
    names: Sequence[str], created_s: int, *, anthropic: bool, tiers: Tiers = NO_TIERS
) -> bytes:
    """All models that a key may use. created_s: Unix seconds shown as their date."""
    shown = [_model(name, created_s, anthropic, tiers) for name in names]
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


def show_model(name: str, created_s: int, *, anthropic: bool, tiers: Tiers = NO_TIERS) -> bytes:
    """One model. created_s: Unix seconds shown as its date."""
    return orjson.dumps(_model(name, created_s, anthropic, tiers))


@dataclass(frozen=True, slots=True)
class GeminiModel:
    """A model as Gemini's API shows it. context_tokens: None when unknown."""

    name: str
    max_output_tokens: int
    context_tokens: int | None

    def document(self) -> dict[str, Any]:
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
        return shown


def list_gemini_models(models: Sequence[GeminiModel]) -> bytes:
    """All models that a key may use; on one page, whatever `pageSize` says."""
    return orjson.dumps({"models": [model.document() for model in models]})


def show_gemini_model(model: GeminiModel) -> bytes:
    """One model."""
    return orjson.dumps(model.document())


def _model(name: str, created_s: int, anthropic: bool, tiers: Tiers) -> dict[str, Any]:
    if anthropic:
        created = dt.datetime.fromtimestamp(created_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"type": "model", "id": name, "display_name": name, "created_at": created}
    model: dict[str, Any] = {"id": name, "object": "model", "created": created_s}
    model["owned_by"] = "creditgate"
    if name in tiers:
        model["service_tiers"] = list(tiers[name])
    return model
