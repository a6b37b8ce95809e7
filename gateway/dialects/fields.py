"""The fields of a request that every dialect reads the same way, strictly.

Law: a field that decides the cost has its exact type and range, or the request is refused;
nothing is coerced, clamped or guessed, for the upstream would coerce in its own way.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from gateway.dialects.base import BadRequest, ReadOptions
from gateway.dialects.strict_json import require_lower_case
from gateway.domain.usage import DEFAULT_TIER

MAX_MODEL_CHARS: Final = 256
MAX_COUNT: Final = 128
"""The most of `n` or `best_of` (OpenAI's own limit for `n`)."""
MAX_OUTPUT_TOKENS: Final = 100_000_000
"""Beyond any model; each model's own maximum is checked where its price is known."""

AUTO_TIER: Final = "auto"
"""The service tier by which a caller leaves it to the provider."""

NOTHING: Final[tuple[object, ...]] = (None, False, "", [], {})
"""Values by which a field that is refused says that it is not used."""


def read_model(document: Mapping[str, Any]) -> str:
    """The model's name. Raises BadRequest when it is missing or not a plain, short text."""
    model = document.get("model")
    if type(model) is not str or not model:
        raise BadRequest("`model` is missing or not a text.", param="model")
    if len(model) > MAX_MODEL_CHARS or not model.isprintable():
        raise BadRequest(
            f"`model` must be at most {MAX_MODEL_CHARS} printable characters.", param="model"
        )
    return model


def read_flag(document: Mapping[str, Any], name: str, path: str | None = None) -> bool:
    """A boolean; absent and null are False. Raises BadRequest for anything else."""
    value = document.get(name)
    if value is None:
        return False
    if type(value) is not bool:
        raise BadRequest(f"`{name}` must be true or false.", param=path or name)
    return value


def read_count(document: Mapping[str, Any], name: str, most: int) -> int | None:
    """A whole number of 1 … most; None when absent or null. Raises BadRequest for anything else."""
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= most:
        raise BadRequest(f"`{name}` must be a whole number from 1 to {most}.", param=name)
    return value


def read_output_bound(document: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The largest of the output maxima that are given, None when there is none. Raises BadRequest."""
    bound: int | None = None
    for name in names:
        if name in document:
            value = read_count(document, name, MAX_OUTPUT_TOKENS)
            if value is not None and (bound is None or value > bound):
                bound = value
    return bound


def read_stream_options(document: dict[str, Any]) -> dict[str, Any] | None:
    """`stream_options` as an object, None when absent. Raises BadRequest."""
    options = document.get("stream_options")
    if options is None:
        return None
    if type(options) is not dict:
        raise BadRequest("`stream_options` must be an object.", param="stream_options")
    require_lower_case(options, "stream_options")
    return options


def read_list(document: Mapping[str, Any], name: str) -> list[Any]:
    """A list; absent and null are empty. Raises BadRequest for anything else."""
    value = document.get(name)
    if value is None:
        return []
    if type(value) is not list:
        raise BadRequest(f"`{name}` must be a list.", param=name)
    return value


REDIRECTING: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "api_base",
            "base_url",
            "api_key",
            "api_version",
            "api_type",
            "custom_llm_provider",
            "extra_body",
            "extra_headers",
        ),
        "the gate decides where a request runs and with which credential",
    ),
    **dict.fromkeys(
        ("fallback", "fallbacks", "model_list", "models", "route", "provider", "preset"),
        "the model that runs must be the one that is priced",
    ),
}
"""Fields by which some upstreams run another model, or elsewhere, than was priced."""

UNBOUNDED: Final[Mapping[str, str]] = {
    "background": "an answer that runs on without its connection cannot be metered",
    "background_options": "an answer that runs on without its connection cannot be metered",
    "deferred": "an answer that runs on without its connection cannot be metered",
    "context_management": "what the provider adds or summarises is not in the body",
    "mcp_servers": "what remote tools answer is not in the body",
    "plugins": "they bill by the call",
    "search_parameters": "searches bill by the call",
    "chat_template": "a template of the caller's own makes the prompt's length unknown",
    "prediction": "tokens of a prediction that are not used are billed beyond the maximum",
    "use_beam_search": "beams multiply the output",
    "speed": "its price differs",
}
"""Fields that make the bound a lie."""

STATEFUL: Final[Mapping[str, str]] = {
    "previous_response_id": "it names a stored conversation",
    "conversation": "it names a stored conversation",
    "container": "it names a stored container",
    "thread": "it names a stored conversation",
    "store": "the provider's store is shared by all customers of this gate",
}
"""Fields that name or keep something at the provider; `allow_stateful_ids` lets them pass."""

_SUSPECT: Final = frozenset(REDIRECTING) | frozenset(UNBOUNDED) | frozenset(STATEFUL)


def refuse_fields(document: Mapping[str, Any], options: ReadOptions) -> None:
    """Refuse what would make the price or the bound a lie. Raises BadRequest."""
    if _SUSPECT.isdisjoint(document):
        return
    for name in _SUSPECT.intersection(document):
        if document[name] in NOTHING:
            continue
        reason = REDIRECTING.get(name) or UNBOUNDED.get(name)
        if reason is None:
            if options.allow_stateful_ids:
                continue
            reason = STATEFUL[name]
        if name == "speed" and document[name] == "standard":
            continue
        raise BadRequest(
            f"`{name}` is not allowed here: {reason}. Leave it out.",
            param=name,
            code="unsupported_parameter",
        )


def refuse_unknown(document: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a name that is not known, for it may cost something. Raises BadRequest."""
    for name in document:
        if name not in known:
            raise unknown_field(name)


def unknown_field(name: str, param: str | None = None) -> BadRequest:
    """What to raise for a name that is not known. param: its whole path, where it has one."""
    return BadRequest(
        f"`{name[:64]}` is not known here, nor what it would cost; leave it out.",
        param=(param or name)[:256],
        code="unsupported_parameter",
    )


_DEFAULT_TIERS: Final = frozenset({"default", "standard", "standard_only", "on_demand"})
"""What providers call the tier that has the usual price."""


def read_service_tier(document: Mapping[str, Any]) -> str | None:
    """The service tier that is asked for; None where the provider is to choose. Raises BadRequest.

    Whether it has a price is for the flow to know. An absent tier stays absent: many upstreams do
    not know the field, and the provider then applies what the operator has set for the project.
    """
    tier = document.get("service_tier")
    if tier is None or tier == AUTO_TIER:
        return None
    if type(tier) is not str:
        raise BadRequest("`service_tier` must be a text.", param="service_tier")
    return name_tier(tier)


def name_tier(tier: str) -> str:
    """A provider's word for a service tier as ours."""
    return DEFAULT_TIER if tier in _DEFAULT_TIERS else tier


def pin_service_tier(document: dict[str, Any], tier: str | None) -> None:
    """Write the tier that `auto` can only be in its place, so that nothing else becomes of it."""
    if tier is not None and document.get("service_tier") == AUTO_TIER:
        document["service_tier"] = tier
