"""Providers of LiteLLM: where they are and how they are given a key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ENVIRONMENT: Final = "os.environ/"
"""How LiteLLM's file names a variable."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider with an API that the gate forwards.

    base_url: None where the deployment names it
    path:     what follows the URL that the deployment names
    genai:    its name in the package genai-prices
    note:     what callers must know
    """

    base_url: str | None
    variable: str
    header: str = "authorization"
    path: str = ""
    genai: str | None = None
    note: str | None = None


_NATIVE: Final = (
    "the gate does not translate between APIs: callers use the provider's own ({}), or an upstream that"
    " has OpenAI's"
)

PROVIDERS: Final[Mapping[str, Provider]] = {
    "openai": Provider("https://api.openai.com", "OPENAI_API_KEY", genai="openai"),
    "anthropic": Provider(
        "https://api.anthropic.com",
        "ANTHROPIC_API_KEY",
        "x-api-key",
        genai="anthropic",
        note=_NATIVE.format("/v1/messages"),
    ),
    "gemini": Provider(
        "https://generativelanguage.googleapis.com",
        "GEMINI_API_KEY",
        "x-goog-api-key",
        genai="google",
        note=_NATIVE.format("generateContent"),
    ),
    "azure": Provider(
        None,
        "AZURE_API_KEY",
        "api-key",
        "/openai/v1",
        "azure",
        "the upstream is Azure's v1 API, which needs no api-version; check its URL",
    ),
    "groq": Provider("https://api.groq.com/openai", "GROQ_API_KEY", genai="groq"),
    "mistral": Provider("https://api.mistral.ai", "MISTRAL_API_KEY", genai="mistral"),
    "deepseek": Provider("https://api.deepseek.com", "DEEPSEEK_API_KEY", genai="deepseek"),
    "xai": Provider("https://api.x.ai", "XAI_API_KEY", genai="x-ai"),
    "together_ai": Provider("https://api.together.xyz", "TOGETHERAI_API_KEY", genai="together"),
    "fireworks_ai": Provider(
        "https://api.fireworks.ai/inference", "FIREWORKS_AI_API_KEY", genai="fireworks"
    ),
    "openrouter": Provider("https://openrouter.ai/api", "OPENROUTER_API_KEY", genai="openrouter"),
    "cerebras": Provider("https://api.cerebras.ai", "CEREBRAS_API_KEY", genai="cerebras"),
    "hosted_vllm": Provider(None, "HOSTED_VLLM_API_KEY"),
    "openai_like": Provider(None, "OPENAI_LIKE_API_KEY"),
    "lm_studio": Provider(None, "LM_STUDIO_API_KEY"),
    "ollama_chat": Provider("http://localhost:11434", "OLLAMA_API_KEY"),
    "ollama": Provider("http://localhost:11434", "OLLAMA_API_KEY"),
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """One entry of LiteLLM's `model_list`. model: its name at the provider"""

    name: str
    provider: str
    model: str
    params: Mapping[str, Any]
    info: Mapping[str, Any]

    @property
    def said(self) -> Mapping[str, Any]:
        """Prices and bounds: of the model's description, or of the parameters."""
        return {**self.info, **self.params}


def split_model(text: str, params: Mapping[str, Any]) -> tuple[str, str]:
    """Provider and model of `provider/model`; the provider is guessed where the file has none."""
    given = params.get("custom_llm_provider")
    first, slash, rest = text.partition("/")
    if given:
        return str(given), rest if slash and first == given else text
    if slash and (first in PROVIDERS or first.isidentifier()):
        return first, rest
    for start, provider in (("claude", "anthropic"), ("gemini", "gemini")):
        if text.startswith(start):
            return provider, text
    return "openai", text


def variable_of(value: Any) -> str | None:
    """The variable that a value of LiteLLM's file refers to; None for one that stands there itself."""
    text = str(value)
    return text.removeprefix(ENVIRONMENT) if text.startswith(ENVIRONMENT) else None
