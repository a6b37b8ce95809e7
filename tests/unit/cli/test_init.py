"""`creditgate init`: what it writes passes `creditgate check`, and what it cannot carry over is listed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import load_settings
from tests.support.gate import digest

from .desk import Desk

LITELLM = """
model_list:
  - model_name: gpt-4o
    litellm_params: {model: openai/gpt-4o, api_key: os.environ/OPENAI_API_KEY, weight: 3}
  - model_name: gpt-4o
    litellm_params:
      {model: azure/gpt-4o-eu, api_base: "https://eu.example/", api_key: secret-of-azure, rpm: 600}
    model_info: {base_model: azure/gpt-4o}
  - model_name: claude
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_key: os.environ/ANTHROPIC_API_KEY}
    model_info: {max_output_tokens: 64000, input_cost_per_token: 3e-06, output_cost_per_token: 0.000015}
  - model_name: embedding
    litellm_params: {model: text-embedding-3-small}
    model_info: {mode: embedding}
  - model_name: local
    litellm_params: {model: hosted_vllm/mine, api_base: "http://localhost:8001/v1"}
    model_info: {input_cost_per_token: 0.0000001, output_cost_per_token: 2e-7}
  - model_name: half
    litellm_params: {model: hosted_vllm/half, api_base: "http://localhost:8001/v1"}
    model_info: {input_cost_per_token: 0.0000001}
  - {model_name: bedrock, litellm_params: {model: bedrock/claude-v2}}
  - {model_name: "openai/*", litellm_params: {model: "openai/*"}}
  - {model_name: free, litellm_params: {model: hosted_vllm/x, api_base: "http://localhost:8001"}}
  - {model_name: drawing, litellm_params: {model: dall-e-3}, model_info: {mode: image_generation}}
router_settings: {model_group_alias: {fast: gpt-4o, lost: bedrock}, num_retries: 2}
general_settings: {master_key: sk-master}
"""
KEYS = (
    "token,key_alias,spend,expires,models,user_id,team_id,max_parallel_requests,blocked,tpm_limit,"
    "rpm_limit,max_budget,budget_duration,organization_id\n"
)
TEAMS = (
    "team_id,team_alias,organization_id,max_budget,spend,rpm_limit,budget_duration,models,blocked\n"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_API_KEY"):
        monkeypatch.setenv(name, "set")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "gateway.yaml")


async def init(desk: Desk, **files: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The written configuration, which must pass the check, and what was left out with its reasons."""
    folder, words = desk.config.parent, list[str]()
    for name, text in files.items():
        file = folder / name.replace("_", ".")
        file.write_text(text)
        words += ["--from", str(file)]
    said = await desk.ask("init", *words, "--output", str(desk.config))
    checked = await desk.run("check", str(desk.config))
    assert checked.code == 0, checked
    tree = await asyncio.to_thread(lambda: yaml.safe_load(desk.config.read_text()))
    return tree, {each["what"]: each["reason"] for each in said["left_out"]}


async def test_models_have_upstreams_costs_and_no_secret(desk: Desk) -> None:
    tree, _ = await init(desk, litellm_yaml=LITELLM)
    models = tree["models"]
    assert models.keys() == {"gpt-4o", "claude", "embedding", "local", "fast"}
    served = [
        {"upstream": "openai", "weight": 3},
        {"upstream": "azure", "weight": 1, "upstream_model": "gpt-4o-eu"},
    ]
    assert models["gpt-4o"]["upstreams"] == served
    assert models["fast"]["upstreams"][0] == {**served[0], "upstream_model": "gpt-4o"}
    assert models["gpt-4o"]["costs"]["input"] == "2.5"
    assert models["claude"]["costs"] == {"input": "3", "output": "15"}
    assert models["claude"]["max_output_tokens"] == 64000
    assert tree["upstreams"]["anthropic"] == {
        "base_url": "https://api.anthropic.com",
        "credential": {"header": "x-api-key", "value": "${ANTHROPIC_API_KEY}"},
    }
    assert tree["upstreams"]["azure"]["base_url"] == "https://eu.example/openai/v1"
    text = await asyncio.to_thread(desk.config.read_text)
    assert "secret-of-azure" not in text
    assert "sk-master" not in text
    assert (await asyncio.to_thread(desk.config.stat)).st_mode & 0o077 == 0


async def test_what_cannot_be_carried_over_is_listed_with_its_reason(desk: Desk) -> None:
    _, left_out = await init(desk, litellm_yaml=LITELLM)
    expected = {
        "model_list[6] (bedrock)": "not a provider",
        "model_list[7] (openai/*)": "wildcards",
        "model free": "no price is known",
        "model half": "no price is known",
        "model_list[9] (drawing)": "priced by route",
        "model_list[1] (gpt-4o) rpm": "parameters of a deployment",
        "api_key of gpt-4o": "AZURE_API_KEY",
        "model claude": "does not translate",
        "general_settings.master_key": "administration",
        "router_settings.num_retries": "never sent twice",
        "router_settings.model_group_alias.lost": "its model is left out",
    }
    for what, part in expected.items():
        assert part in left_out[what]
    text = await asyncio.to_thread(desk.config.read_text)
    assert "# - model free: no price is known." in text


async def test_keys_keep_working_with_budgets_and_rates_as_limits(desk: Desk) -> None:
    lines = [
        f'{digest("sk-a")},web app,1.5,,"{{gpt-4o,zzz}}",u1,team one,5,f,100000,60,10.5,30d,\n',
        f"{digest('sk-b')},,7.25,,{{}},u2,,,,,,10,,\n",
        "sk-plain,proj,0,,{all-team-models},,t2,,,,,5,14d,org1\n",
    ]
    tree, left_out = await init(desk, litellm_yaml=LITELLM, keys_csv=KEYS + "".join(lines))
    customers = tree["customers"]
    assert customers["team-one"]["keys"] == [
        {
            "id": "web-app",
            "sha256": digest("sk-a"),
            "models": ["gpt-4o"],
            "limits": [
                {"measure": "requests", "window": "minute", "ceiling": 60},
                {"measure": "tokens", "window": "minute", "ceiling": 100000},
                {"measure": "concurrent", "ceiling": 5},
                {"measure": "spend", "window": "month", "ceiling": "10.5"},
            ],
        }
    ]
    total = {"measure": "spend", "window": "total"}
    assert customers["u2"]["keys"][0]["limits"] == [{**total, "ceiling": "2.75"}]
    [key] = customers["org1"]["keys"]
    assert (key["sha256"], key["project"]) == (digest("sk-plain"), "t2")
    assert key["limits"] == [{**total, "ceiling": "5"}]
    assert "models" not in key
    assert left_out["key web app models zzz"] == "there are no such models here"
    assert "may owe" in left_out["wallets"]
    settings = await asyncio.to_thread(load_settings, desk.config)
    assert {each.sha256 for _, each in settings.api_keys()} >= {digest("sk-a"), digest("sk-plain")}


async def test_keys_that_would_be_allowed_more_here_are_left_out(desk: Desk) -> None:
    lines = [
        f"{digest('sk-a')},blocked,0,,{{}},u1,,,t,,,,,\n",
        f"{digest('sk-b')},expired,0,2020-01-01 00:00:00,{{}},u1,,,,,,,,\n",
        f"{digest('sk-c')},expires,0,2130-01-01 00:00:00,{{}},u1,,,,,,,,\n",
        "not-a-hash,odd,0,,{},u1,,,,,,,,\n",
        f"{digest('sk-d')},unknown,0,,{{zzz}},u1,,,,,,,,\n",
    ]
    tree, left_out = await init(desk, litellm_yaml=LITELLM, keys_csv=KEYS + "".join(lines))
    assert [key["id"] for key in tree["customers"]["u1"]["keys"]] == ["unknown"]
    assert tree["customers"]["u1"]["keys"][0]["models"] == [], "an unknown model is not all models"
    assert {left_out[f"key {name}"] for name in ("blocked", "expired")} == {
        *("it is blocked", "it has expired"),
    }
    assert "do not: create one" in left_out["key expires"]
    assert "key odd" in left_out


async def test_teams_have_limits_as_customers_or_as_projects(desk: Desk) -> None:
    teams = TEAMS + "t1,One ${HOME},,100,3,600,1mo,{gpt-4o},f\nt2,Two,org1,50,0,,7d,{},t\n"
    tree, _ = await init(desk, litellm_yaml=LITELLM, teams_csv=teams)
    assert tree["customers"]["t1"] == {
        "plan": "litellm",
        "limits": [
            {"scope": "customer", "measure": "requests", "window": "minute", "ceiling": 600},
            {"scope": "customer", "measure": "spend", "window": "month", "ceiling": "100"},
        ],
        "models": ["gpt-4o"],
        "tags": {"team": "One {HOME}"},
    }
    limits = tree["customers"]["org1"]["projects"]["t2"]["limits"]
    assert limits == [
        {"measure": "spend", "window": "week", "ceiling": "50"},
        {"measure": "concurrent", "ceiling": 0},
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.yaml", "models: []", "it has no `model_list`"),
        ("x.yaml", "a: [", "it is not YAML"),
        ("x.csv", "id,name\n", "neither LiteLLM_VerificationToken"),
        ("x.csv", KEYS + f"{digest('a')},,,,,u,,,,,many,,,\n", "'many' is not a number"),
        ("x.csv", KEYS + f"{digest('a')},,,,,u,,,,,1.5,,,\n", "'1.5' is not a whole number"),
        ("x.csv", KEYS + f"{digest('a')},,,,,u,,,,,,NaN,,\n", "'NaN' is not a number"),
        ("x.csv", KEYS + f"{digest('a')},,,,[oops,u,,,,,,,,\n", "are no list"),
    ],
)
async def test_other_files_are_refused(
    desk: Desk, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    refused = await desk.run("init", "--from", str(tmp_path / name), "-o", str(desk.config))
    assert refused.code == 2
    assert said in refused.err
    assert not await asyncio.to_thread(desk.config.exists)


async def test_an_existing_file_is_kept(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "l.yaml").write_text(LITELLM)
    desk.config.write_text("mine")
    words = ("init", "--from", str(tmp_path / "l.yaml"), "--output", str(desk.config))
    assert (await desk.run(*words)).code == 2
    assert await asyncio.to_thread(desk.config.read_text) == "mine"
    assert (await desk.run(*words, "--force")).code == 0
