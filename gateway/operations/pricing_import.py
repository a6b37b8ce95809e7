"""Providers' prices from public lists, as costs: from the package `genai-prices` (bundled with it,
offline) and from LiteLLM's `model_prices_and_context_window.json`.

Invariants: decimals stay decimals, exact. A class that this gate has no unit for is left out and reported;
so is a tier by the request's length, of which the base rate is taken.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.domain.usage import DEFAULT_TIER, SERVICE_TIERS, in_tier, without_tier

MILLION: Final = Decimal(1_000_000)

GENAI_FIELDS: Final = {
    "input_mtok": "input",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
}
"""Fields of genai-prices (per million), with the class of each."""
LITELLM_FIELDS: Final = {
    "input_cost_per_token": "input",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
}
"""Fields of LiteLLM's list (per token), with the class of each."""
LITELLM_TIERS: Final = ("flex", "priority")
"""Service tiers of LiteLLM's list: `input_cost_per_token_flex`."""


class ImportFailed(Exception):
    """The list cannot be read, or has no such model. The message says which."""


@dataclass(frozen=True, slots=True)
class ImportedCost:
    """What a provider bills for one model, in dollars per million of each class. Those of another
    service tier than the default one are named with it, `flex.input`.

    left_out: what the list has as well, and this gate does not support
    """

    provider: str
    model: str
    per_million: Mapping[str, Decimal]
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    left_out: tuple[str, ...] = field(default=())


def from_genai_prices(names: Iterable[str], provider: str | None = None) -> list[ImportedCost]:
    """Models from the bundled list, by their names at the provider. Raises ImportFailed."""
    try:
        from genai_prices.data import providers
    except ImportError:
        raise ImportFailed(
            "the package genai-prices is not installed: pip install 'creditgate[prices]'"
        ) from None
    found = []
    for name in names:
        matches = [
            (each.id, model)
            for each in providers
            if provider in (None, each.id)
            for model in each.models
            if model.id == name or (provider is not None and model.is_match(name))
        ]
        if not matches:
            where = f" of {provider}" if provider else ""
            raise ImportFailed(f"the list has no model {name!r}{where}")
        if len(matches) > 1:
            who = ", ".join(sorted(each for each, _ in matches))
            raise ImportFailed(f"several providers have {name!r}: {who}; name one by --provider")
        ((owner, model),) = matches
        found.append(_genai(owner, name, model))
    return found


def _genai(owner: str, name: str, model: Any) -> ImportedCost:
    rates: dict[str, Decimal] = {}
    left_out = []
    for key, value in vars(model.get_prices(datetime.now(UTC))).items():
        unit = GENAI_FIELDS.get(key)
        if value is None or key.startswith("_"):
            continue
        if unit is None:
            left_out.append(key)
            continue
        if not isinstance(value, Decimal):
            starts = ", ".join(f"{tier.price} from {tier.start}" for tier in value.tiers)
            left_out.append(f"{key} by the input's length: {starts}")
            value = value.base
        rates[unit] = value
    return ImportedCost(owner, name, rates, model.context_window, None, tuple(left_out))


def from_litellm(file: Path, names: Iterable[str]) -> list[ImportedCost]:
    """Models from LiteLLM's list, by their keys there. Raises ImportFailed."""
    try:
        listed = orjson.loads(file.read_bytes())
    except OSError as error:
        raise ImportFailed(f"cannot read {file}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise ImportFailed(f"{file} is not JSON: {error}") from None
    if not isinstance(listed, dict):
        raise ImportFailed(f"{file} is not LiteLLM's list of models")
    found = []
    for name in names:
        said = listed.get(name)
        if not isinstance(said, dict):
            raise ImportFailed(f"the list has no model {name!r}")
        found.append(litellm_cost(name, said))
    return found


def litellm_cost(name: str, said: Mapping[str, Any]) -> ImportedCost:
    """The cost of one model, from an entry of the list or of a configuration. Raises ImportFailed."""
    rates: dict[str, Decimal] = {}
    left_out = []
    for key, value in said.items():
        if value is None or "cost" not in key:
            continue
        unit = _litellm_unit(key)
        if unit is None:
            left_out.append(key)
            continue
        try:
            # The shortest text of the double is what the list's author wrote.
            rates[unit] = Decimal(str(value)) * MILLION
        except InvalidOperation:
            raise ImportFailed(f"{name}: {key} is not a number") from None
    for tier in LITELLM_TIERS:  # half a price would leave the other half free
        listed = [unit for unit in rates if unit.startswith(f"{tier}.")]
        if listed and not {in_tier("input", tier), in_tier("output", tier)} <= rates.keys():
            left_out.append(f"{tier}: has no price for one side")
            for unit in listed:
                del rates[unit]
    return ImportedCost(
        str(said.get("litellm_provider", "")),
        name,
        rates,
        _whole(said.get("max_input_tokens")),
        _whole(said.get("max_output_tokens")),
        tuple(left_out),
    )


def _litellm_unit(key: str) -> str | None:
    base, _, tier = key.rpartition("_")
    if tier in LITELLM_TIERS and base in LITELLM_FIELDS:
        return in_tier(LITELLM_FIELDS[base], tier)
    return LITELLM_FIELDS.get(key)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def fragment(costs: Iterable[ImportedCost], *, markup: str | None = None) -> str:
    """The costs as a piece of a configuration, to be put under `models:`."""
    lines = ["models:"]
    for cost in costs:
        lines.append(f"  {orjson.dumps(cost.model).decode()}:  # {cost.provider}")
        by_tier = {tier: _rates_in(tier, cost.per_million) for tier in SERVICE_TIERS}
        said = [_said(by_tier.pop(DEFAULT_TIER))]
        tiers = {tier: rates for tier, rates in by_tier.items() if rates}
        if tiers:
            inside = ", ".join(f"{tier}: {{{_said(rates)}}}" for tier, rates in tiers.items())
            said.append(f"service_tiers: {{{inside}}}")
        lines.append(f"    costs: {{{', '.join(said)}}}")
        if markup is not None:
            marked = [f'markup: "{markup}"']
            if tiers:
                inside = ", ".join(f'{tier}: {{markup: "{markup}"}}' for tier in tiers)
                marked.append(f"service_tiers: {{{inside}}}")
            lines.append(f"    prices: {{{', '.join(marked)}}}")
        if cost.context_tokens:
            lines.append(f"    context_tokens: {cost.context_tokens}")
        if cost.max_output_tokens:
            lines.append(f"    max_output_tokens: {cost.max_output_tokens}")
        lines += [f"    # left out: {each}" for each in cost.left_out]
    return "\n".join(lines) + "\n"


def _rates_in(tier: str, per_million: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """The rates of one service tier by class; where one side of a token price has one, both do."""
    rates = {
        without_tier(unit): rate
        for unit, rate in per_million.items()
        if in_tier(without_tier(unit), tier) == unit
    }
    if rates.keys() & {"input", "output"}:
        rates = {"input": Decimal(0), "output": Decimal(0), **rates}
    return rates


def _said(rates: Mapping[str, Decimal]) -> str:
    return ", ".join(f'{unit}: "{plain_decimal(rate)}"' for unit, rate in rates.items())


def plain_decimal(number: Decimal) -> str:
    """A decimal without an exponent and without trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
