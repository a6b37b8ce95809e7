"""Providers' prices become costs that a configuration takes."""

from decimal import Decimal
from pathlib import Path

import orjson
import pytest
import yaml

from gateway.operations.pricing_import import (
    ImportFailed,
    fragment,
    from_genai_prices,
    from_litellm,
)
from gateway.settings.prices import CostsSection, PricesSection

LISTED = {
    "gpt-x": {
        "litellm_provider": "openai",
        "input_cost_per_token": 2e-06,
        "cache_read_input_token_cost": 5e-07,
        "output_cost_per_token": 8e-06,
        "input_cost_per_token_batches": 1e-06,
        "input_cost_per_token_flex": 1e-06,
        "output_cost_per_token_flex": 4e-06,
        "output_cost_per_token_priority": 1.4e-05,
        "max_input_tokens": 1047576,
        "max_output_tokens": 32768,
    }
}


@pytest.fixture
def litellm(tmp_path: Path) -> Path:
    file = tmp_path / "prices.json"
    file.write_bytes(orjson.dumps(LISTED))
    return file


def test_litellms_rates_are_per_million_and_exact(litellm: Path) -> None:
    (cost,) = from_litellm(litellm, ["gpt-x"])
    assert cost.per_million == {
        "input": Decimal(2),
        "cache_read": Decimal("0.5"),
        "output": Decimal(8),
        "flex.input": Decimal(1),
        "flex.output": Decimal(4),
    }
    assert cost.left_out == (
        "input_cost_per_token_batches",
        "priority: has no price for one side",
    )


def test_the_fragment_is_what_a_configuration_takes(litellm: Path) -> None:
    text = fragment(from_litellm(litellm, ["gpt-x"]), markup="1.5")
    model = yaml.safe_load(text)["models"]["gpt-x"]
    costs = CostsSection.model_validate(model["costs"])
    price = PricesSection.model_validate(model["prices"]).price(costs, counter="gpt-x")
    assert price.table().rates_pico == {
        "input": 3_000_000,
        "cache_read": 750_000,
        "output": 12_000_000,
        "flex.input": 1_500_000,
        "flex.output": 6_000_000,
    }
    assert (model["context_tokens"], model["max_output_tokens"]) == (1047576, 32768)


def test_the_bundled_list_knows_the_providers_models() -> None:
    (cost,) = from_genai_prices(["gpt-4.1"], "openai")
    assert cost.provider == "openai"
    assert cost.per_million.keys() >= {"input", "cache_read", "output"}


def test_a_tier_by_the_inputs_length_is_told_and_the_base_rate_taken() -> None:
    (cost,) = from_genai_prices(["claude-sonnet-4-5"], "anthropic")
    assert cost.per_million["input"] == Decimal(3)
    assert any("by the input's length" in each for each in cost.left_out)


def test_an_unknown_model_is_refused_by_name(litellm: Path) -> None:
    with pytest.raises(ImportFailed, match="no model 'gpt-z'"):
        from_litellm(litellm, ["gpt-z"])
    with pytest.raises(ImportFailed, match="no model 'gpt-z'"):
        from_genai_prices(["gpt-z"])
