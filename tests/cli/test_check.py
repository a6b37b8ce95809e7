"""`creditgate check` and `creditgate schema`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gateway.cli.check
from gateway.cli import app
from gateway.settings.reference import reference_text
from gateway.settings.schema import json_schema

CONFIG = Path(__file__).parents[2] / "config"
assert gateway.cli.check, "the import is what registers the commands"


def run(*arguments: str, **environ: str) -> tuple[int, str]:
    result = CliRunner(env={"SIM_URL": "http://127.0.0.1:9", "COLUMNS": "200", **environ}).invoke(
        app, list(arguments)
    )
    return result.exit_code, result.stdout


def test_a_right_configuration_is_summed_up() -> None:
    code, said = run("check", str(CONFIG / "dev.yaml"))
    assert code == 0
    assert "dev.yaml is right" in said
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
