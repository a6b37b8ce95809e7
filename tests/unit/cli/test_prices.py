"""`prices`: what an operator types, on a real ledger."""

import json
from pathlib import Path

import pytest
import yaml
from redis.asyncio import Redis
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.cli import prices as _  # noqa: F401 - registers the command
from tests.support.gate import gate_config


@pytest.fixture
def config(tmp_path: Path, valkey: Redis, valkey_socket: Path) -> Path:
    """A configuration on an emptied ledger."""
    return written(tmp_path, valkey_socket, "1.00")


def written(folder: Path, socket: Path, input_price: str) -> Path:
    document = gate_config("http://127.0.0.1:9", folder / "data", f"unix://{socket}")
    document["models"]["small"]["prices"]["input"] = input_price
    file = folder / f"gate-{input_price}.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["prices", *words])


def test_prices_are_applied_shown_changed_and_taken_back(
    config: Path, tmp_path: Path, valkey_socket: Path
) -> None:
    assert run("show", "--config", str(config)).exit_code == 1
    applied = run("apply", "--json", "--config", str(config))
    assert json.loads(applied.stdout) == {"book": 1, "state": "in_force", "from": None}
    shown = json.loads(run("show", "--json", "--config", str(config)).stdout)
    assert shown["models"]["small"]["prices"]["input"] == "1 /M"
    dearer = written(tmp_path, valkey_socket, "2.00")
    later = run("apply", "--from", "2100-01-01T00:00:00Z", "--json", "--config", str(dearer))
    assert json.loads(later.stdout)["state"] == "scheduled"
    assert "to come" in run("show", "--config", str(config)).stdout
    taken_back = json.loads(run("rollback", "--json", "--config", str(config)).stdout)
    assert [each["book"] for each in taken_back] == [1]
    again = run("activate", "2", "--json", "--config", str(config))
    assert json.loads(again.stdout)["book"] == 2
    assert run("activate", "9", "--config", str(config)).exit_code == 1


def test_a_book_has_the_prices_of_all_service_tiers(config: Path) -> None:
    document = yaml.safe_load(config.read_text())
    flex = {"input": "0.50", "output": "2.00"}
    document["models"]["small"]["prices"]["service_tiers"] = {"flex": flex}
    config.write_text(yaml.safe_dump(document))
    assert run("apply", "--config", str(config)).exit_code == 0
    shown = json.loads(run("show", "--json", "--config", str(config)).stdout)
    prices = shown["models"]["small"]["prices"]
    assert (prices["output"], prices["flex.input"], prices["flex.output"]) == (
        "4 /M",
        "0.5 /M",
        "2 /M",
    )
    assert "flex.input 0.5 /M" in " ".join(run("show", "--config", str(config)).stdout.split())


def test_an_import_prints_a_piece_of_configuration() -> None:
    printed = run("import", "gpt-4.1", "--provider", "openai", "--markup", "1.5")
    model = yaml.safe_load(printed.stdout)["models"]["gpt-4.1"]
    assert model["prices"] == {"markup": "1.5"}
    assert "input" in model["costs"]


def test_a_factor_that_is_none_is_a_usage_error() -> None:
    assert run("import", "gpt-4.1", "--markup", "0").exit_code == 2
