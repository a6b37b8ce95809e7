"""The fields of a request that every dialect reads the same way, strictly.

Invariants: a field that decides the cost has its exact type and range, or the request is refused;
nothing is coerced, clamped or guessed, for the upstream would coerce in its own way.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from gateway.dialects.base import BadRequest, ReadOptions
from gateway.dialects.reading.strict_json import require_lower_case
from gateway.domain.usage import DEFAULT_TIER

MAX_MODEL_CHARS: Final = 256
MAX_COUNT: Final = 128
"""The most of `n` or `best_of` (OpenAI's own limit for `n`)."""
MAX_OUTPUT_TOKENS: Final = 100_000_000
"""Beyond any model; each model's own maximum is checked where its price is known."""

AUTO_TIER: Final = "auto"
"""The service tier by which a caller leaves it to the provider."""


def read_model(document: Mapping[str, Any]) -> str:
    """The model's name. Raises BadRequest when it is missing or not a plain, short text."""
    model = document.get("model")
    if type(model) is not str or not model:
        raise BadRequest("`model` is missing or not a string.", param="model")
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
    # Sorted, so that the error always names the same one of several.
    for name in sorted(document.keys() & names):
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
    "compaction": "what the provider adds or summarises is not in the body",
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

_SAMPLING_NAMES: Final = (
    # vLLM and SGLang
    "allowed_token_ids bad_words include_stop_str_in_output length_penalty min_p no_stop_trim"
    " repetition_penalty return_token_ids return_tokens_as_token_ids skip_special_tokens"
    " spaces_between_special_tokens stop_regex stop_token_ids top_k truncate_prompt_tokens"
    # constraints on the output, in the spellings of vLLM, SGLang and llama.cpp
    " ebnf grammar guided_choice guided_decoding_backend guided_grammar guided_json guided_regex"
    " guided_whitespace_pattern json_schema regex structured_outputs"
    # what the template does, and how reasoning is shown
    " add_generation_prompt add_special_tokens chat_template_kwargs continue_final_message documents"
    " include_reasoning reasoning_format separate_reasoning stream_reasoning"
    # llama.cpp
    " cache_prompt dry_allowed_length dry_base dry_multiplier dry_penalty_last_n"
    " dry_sequence_breakers dynatemp_exponent dynatemp_range min_keep mirostat mirostat_eta"
    " mirostat_tau n_keep n_probs penalize_nl post_sampling_probs repeat_last_n repeat_penalty"
    " return_tokens samplers t_max_predict_ms timings_per_token top_n_sigma typical_p"
    " xtc_probability xtc_threshold"
    # Mistral
    " random_seed"
)
SAMPLING: Final = frozenset(_SAMPLING_NAMES.split())
"""Fields of servers that copy OpenAI's API which choose tokens and do not change their price. What
raises the least output (`min_tokens`, `ignore_eos`), chooses a replica or an adapter, or runs code is
not among them."""

_SUSPECT: Final = frozenset(REDIRECTING) | frozenset(UNBOUNDED) | frozenset(STATEFUL)


SCOPED: Final = frozenset({"prompt_cache_key", "user", "safety_identifier", "cache_salt"})
"""Names that a caller chooses and that share state at the provider: caches, limits, blocks."""

SCOPED_CHARS: Final = 64
"""The most of such a name that OpenAI takes."""


def check_fields(
    document: dict[str, Any],
    known: frozenset[str],
    options: ReadOptions,
    own: frozenset[str] = frozenset(),
) -> None:
    """Let pass what the dialect knows to be harmless and what the operator has listed.

    A field of another name that says nothing (null, false, empty) is removed, for it must not reach
    the upstream either. Raises BadRequest.

    own: known names that mean something else in this dialect, or that it checks itself
    """
    if not known.issuperset(document):
        for name in document.keys() - known - options.extra_fields:
            if not _says_nothing(document[name]):
                raise _suspect(name, options) or unknown_field(name)
            del document[name]
    if not _SUSPECT.isdisjoint(document):
        for name in _SUSPECT.intersection(document) - options.extra_fields - own:
            if not _says_nothing(document[name]) and (wrong := _suspect(name, options)):
                raise wrong
    if not SCOPED.isdisjoint(document):
        for name in SCOPED.intersection(document):
            if type(document[name]) is not str and document[name] is not None:
                raise BadRequest(f"`{name}` must be a string.", param=name)


def scope_names(document: dict[str, Any], scope: str | None) -> None:
    """Put the customer's scope in front of names that share state at the provider."""
    if scope is None:
        return
    for name in SCOPED.intersection(document):
        if document[name]:
            document[name] = scoped(document[name], scope, SCOPED_CHARS)


def scoped(name: str, scope: str, most_chars: int) -> str:
    """The customer's own form of a name; one that would be too long is hashed."""
    whole = f"{scope}-{name}"
    if len(whole) <= most_chars:
        return whole
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{scope}-{digest}"[:most_chars]


def _says_nothing(value: Any) -> bool:
    """Whether a value says that its field is not used. Zero is a number: it says something."""
    return value is None or value is False or (type(value) in (str, list, dict) and not value)


def _suspect(name: str, options: ReadOptions) -> BadRequest | None:
    """What to raise for a field that makes the price or the bound a lie; None for others."""
    reason = REDIRECTING.get(name) or UNBOUNDED.get(name)
    if reason is None and not options.allow_stateful_ids:
        reason = STATEFUL.get(name)
    if reason is None:
        return None
    return BadRequest(
        f"`{name}` is not allowed here: {reason}. Omit it.",
        param=name,
        code="unsupported_parameter",
    )


def unknown_field(name: str, param: str | None = None) -> BadRequest:
    """What to raise for a name that is not known. param: its complete path, where it has one."""
    advice = "" if param else ", or ask the operator to list it in `extra_fields` of the route"
    return BadRequest(
        f"`{name[:64]}` is not a field that this gateway knows, so its effect on the price is"
        f" unknown. Omit it{advice}.",
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
        raise BadRequest("`service_tier` must be a string.", param="service_tier")
    return name_tier(tier)


def name_tier(tier: str) -> str:
    """A provider's word for a service tier as ours."""
    return DEFAULT_TIER if tier in _DEFAULT_TIERS else tier


def pin_service_tier(document: dict[str, Any], tier: str | None) -> None:
    """Write the tier that `auto` can only be in its place, so that nothing else becomes of it."""
    if tier is not None and document.get("service_tier") == AUTO_TIER:
        document["service_tier"] = tier
