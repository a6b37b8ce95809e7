"""The sample configurations are right, and say what the commands and the README need."""

import hashlib
from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings

CONFIG = Path(__file__).parents[3] / "config"
ENVIRON = {
    "SIM_URL": "http://127.0.0.1:9001",
    "LLAMA_URL": "http://127.0.0.1:9002",
    "OPENAI_API_KEY": "o",
    "ANTHROPIC_API_KEY": "a",
}

SAMPLES = [
    "gateway",
    "dev",
    "demo",
    "prepaid",
    "subscription",
    "tiers",
    "reseller",
    "teams",
    "rest",
]


def sample(name: str, **environ: str) -> Settings:
    return load_settings(CONFIG / f"{name}.yaml", {**ENVIRON, **environ})


def customer_of(settings: Settings, key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()
    (customer_id,) = [owner for owner, each in settings.api_keys() if each.sha256 == digest]
    return customer_id


def credits_of(settings: Settings, customer_id: str) -> int:
    return sum(grant.amount_nano for _, grant in settings.starting_grants(customer_id))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_right_and_names_its_schema(name: str) -> None:
    sample(name)
    first = (CONFIG / f"{name}.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"


def test_dev_has_a_funded_customer_and_a_broke_one_behind_a_simulated_provider() -> None:
    settings = sample("dev")
    assert set(settings.models) == {"sim-small", "sim-large", "sim-embed", "sim-claude"}
    assert settings.upstreams["sim"].base_url == "http://127.0.0.1:9001"
    assert credits_of(settings, customer_of(settings, "sk-demo")) == 10_000_000_000
    assert credits_of(settings, customer_of(settings, "sk-broke")) == 0
    assert settings.redis.embedded


def test_demo_has_a_real_model_and_a_small_wallet() -> None:
    settings = sample("demo")
    assert settings.models["gemma-3-270m"].upstream == "llama"
    assert settings.models["sim-embed"].upstream == "sim"
    assert credits_of(settings, customer_of(settings, "sk-demo")) == 10_000_000_000
    assert 0 < credits_of(settings, customer_of(settings, "sk-pocket")) <= 10_000_000


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "gateway"])
def test_samples_with_well_known_keys_listen_on_this_machine_alone(name: str) -> None:
    settings = sample(name)
    assert (settings.listen.host, settings.admin.host) == ("127.0.0.1", "127.0.0.1")
    assert (settings.listen.port, settings.admin.port) == (8080, 8081)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_moved_by_the_environment(name: str) -> None:
    settings = sample(name, CREDITGATE_PORT="9", CREDITGATE_DATA_DIR="/d", CREDITGATE_WORKERS="2")
    assert (settings.listen.port, settings.listen.workers, str(settings.data_dir)) == (9, 2, "/d")


def test_the_gateway_sample_sends_each_provider_its_own_credential() -> None:
    settings = sample("gateway")
    shown = {
        name: upstream.credential and upstream.credential.value.get_secret_value()
        for name, upstream in settings.upstreams.items()
    }
    assert shown == {"openai": "Bearer o", "anthropic": "a"}


def test_no_sample_sells_below_cost() -> None:
    for name in SAMPLES:
        for model_name, model in sample(name).models.items():
            costs = model.costs.rates_pico() if model.costs else {}
            charges = {
                rate.unit: min(t.rate_pico for t in rate.tiers)
                for rate in model.price(model_name).rates
            }
            if name != "demo":
                assert all(charges[unit] >= cost for unit, cost in costs.items())
