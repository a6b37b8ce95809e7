"""`creditgate check` and `creditgate schema`."""

import json
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import gateway
import gateway.cli.check
from gateway.cli import app
from gateway.settings.reference import reference_text
from gateway.settings.schema import json_schema
from tests.support.gate import Gate

from .desk import Desk

CONFIG = Path(__file__).parents[3] / "config"
assert gateway.cli.check, "the import is what registers the commands"


def run(*arguments: str, **environ: str) -> tuple[int, str]:
    result = CliRunner(env={"SIM_URL": "http://127.0.0.1:9", "COLUMNS": "200", **environ}).invoke(
        app, list(arguments)
    )
    return result.exit_code, result.stdout


def test_a_right_configuration_is_summed_up() -> None:
    code, said = run("check", str(CONFIG / "dev.yaml"))
    assert code == 0
    assert "dev.yaml is valid" in said
    assert "sim-large" in said
    assert "input 5, " in said
    assert "broke" in said


def test_every_problem_is_told_with_its_place_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(CONFIG / "bad")
    code, said = run("check", "many_at_once.yaml")
    assert code == 1
    expected = Path("many_at_once.expected").read_text().splitlines()
    for line in expected:
        assert line.split(": ")[0] in said
    assert f"{len(expected)} problems." in said


def test_json_says_the_same_for_programs() -> None:
    code, said = run("check", "--json", str(CONFIG / "dev.yaml"))
    answer = json.loads(said)
    assert (code, answer["ok"], answer["customers"], answer["keys"]) == (0, True, 3, 3)
    code, said = run("check", "--json", str(CONFIG / "bad" / "out_of_range.yaml"))
    answer = json.loads(said)
    assert (code, answer["ok"]) == (1, False)
    (problem,) = answer["problems"]
    assert (problem["line"], problem["column"], problem["path"]) == (5, 10, "listen.port")


def test_a_version_in_a_base_url_is_a_note_and_no_problem() -> None:
    url = {"SIM_URL": "http://127.0.0.1:9/v1"}
    code, said = run("check", str(CONFIG / "dev.yaml"), **url)
    assert code == 0
    note = "/v1/chat/completions goes to http://127.0.0.1:9/v1/chat/completions."
    assert note in said
    code, said = run("check", "--json", str(CONFIG / "dev.yaml"), **url)
    [told] = json.loads(said)["notes"]
    assert (code, note in told) == (0, True)
    assert json.loads(run("check", "--json", str(CONFIG / "dev.yaml"))[1])["notes"] == []


def test_square_brackets_in_a_path_are_shown() -> None:
    _, said = run("check", str(CONFIG / "bad" / "unknown_model.yaml"))
    assert "plans.starter.models[0]" in said


def test_the_schema_and_the_reference_page_are_printed() -> None:
    code, said = run("schema")
    assert (code, json.loads(said)) == (0, json_schema())
    assert run("schema", "--reference") == (0, reference_text())


async def test_live_tells_kept_grants_and_pending_prices_and_changes_nothing(
    desk: Desk, gate: Gate
) -> None:
    document = yaml.safe_load(desk.config.read_text())
    untouched = await desk.ask("check", "--live", str(desk.config))
    assert untouched["live"] == {
        "problems": [],
        "kept_grants": [],
        "prices": {"state": "in_force", "book": 1, "changes": []},
    }
    document["customers"]["acme"]["grants"][0]["amount"] = "99.00"
    document["models"]["small"]["prices"]["output"] = "400.00"
    desk.config.write_text(yaml.safe_dump(document))
    for _ in range(2):
        said = await desk.run("check", "--live", str(desk.config))
        assert said.code == 0
        assert "customers.acme: the starting grant 'start' was given on other terms" in said.out
        assert "small output 4 /M 400 /M" in said.out
        assert "`creditgate prices apply` activates it" in said.out
    live = (await desk.ask("check", "--live", str(desk.config)))["live"]
    assert live["kept_grants"] == [{"customer_id": "acme", "name": "start"}]
    (change,) = live["prices"]["changes"]
    assert (change["model"], change["after"]["prices"]["output"]) == ("small", "400 /M")
    plan = await desk.run("prices", "plan", "--config", str(desk.config))
    assert "small output 4 /M 400 /M" in plan.out


async def test_live_refuses_what_a_start_would_be_refused_for(desk: Desk, gate: Gate) -> None:
    document = yaml.safe_load(desk.config.read_text())
    grants = [{"name": f"g{n}", "amount": "0.01"} for n in range(65)]
    document["customers"]["acme"]["grants"] = grants
    desk.config.write_text(yaml.safe_dump(document))
    said = await desk.run("check", "--live", str(desk.config))
    assert said.code == 1
    assert "customers.acme: would have 66 open grants; a wallet takes 64." in said.out
    said = await desk.run("check", "--live", "--json", str(desk.config))
    assert (said.code, json.loads(said.out)["ok"]) == (1, False)


def test_live_starts_no_ledger_where_there_is_none(tmp_path: Path) -> None:
    environ = {"CREDITGATE_DATA_DIR": str(tmp_path / "data")}
    code, said = run("check", "--live", str(CONFIG / "dev.yaml"), **environ)
    assert code == 0
    assert "no price book yet" in said
    assert not (tmp_path / "data").exists()


def test_the_version_has_one_source() -> None:
    code, said = run("--version")
    assert (code, said) == (0, f"creditgate {gateway.__version__}\n")
    project = tomllib.loads((CONFIG.parent / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"] == {"path": "gateway/__init__.py"}
    assert metadata.version("creditgate") == gateway.__version__, "the environment is stale"
