"""Compose and systemd: what they refer to exists, and the gate accepts what they give it."""

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import Settings
from tests.deploy.accepted import command_problem, settings_in

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "config/deploy"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
UNIT = FOLDER / "creditgate.service"


def unit() -> configparser.ConfigParser:
    # systemd allows repeated options, of which this keeps the last: those that are read here are single.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    environment = dict.fromkeys(SERVICES["gate"]["environment"], "a-value-of-many-characters")
    text = (FOLDER / "compose/gate/gateway.yaml").read_text()
    return settings_in(tmp_path, text, environment)


def test_the_gate_of_compose_accepts_its_configuration(settings: Settings) -> None:
    ports = {each.rpartition(":")[2] for each in SERVICES["gate"]["ports"]}
    assert ports == {str(settings.listen.port), str(settings.console.port)}
    assert {settings.listen.host, settings.admin.host, settings.console.host} == {"0.0.0.0"}
    mounts = [each.split(":") for each in SERVICES["gate"]["volumes"]]
    assert ["gate", str(settings.data_dir)] in mounts


def test_compose_gives_the_gate_longer_to_stop_than_its_drain(settings: Settings) -> None:
    grace_s = seconds(SERVICES["gate"]["stop_grace_period"])
    assert grace_s >= settings.listen.drain_grace_ms / 1000 + 30


def test_the_servers_that_the_configuration_names_are_services(settings: Settings) -> None:
    ledger = settings.redis.connection_url() or ""
    assert "@ledger:" in ledger
    [sink] = settings.export.sinks.values()
    assert sink.postgres is not None
    assert "@store/" in sink.postgres.url.get_secret_value()
    assert SERVICES["gate"]["depends_on"].keys() == {"ledger", "store"}
    assert all(SERVICES[name]["healthcheck"] for name in ("ledger", "store"))


def test_every_file_and_volume_that_compose_mounts_exists() -> None:
    files = set()
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                files.add(source)
                assert (FOLDER / source).exists(), source
            else:
                assert source in COMPOSE["volumes"], source
    assert len(files) >= 5
    assert (FOLDER / SERVICES["gate"]["build"]["context"]).resolve() == ROOT


def test_every_variable_that_compose_needs_is_on_the_page() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    needed = set(re.findall(r"\$\{([A-Z_]+)", text))
    page = (ROOT / "docs/how-to/deploy.md").read_text()
    assert needed <= set(re.findall(r"^([A-Z_]+)=", page, re.MULTILINE))


def test_prometheus_scrapes_the_gate_with_its_token_and_has_the_rules(settings: Settings) -> None:
    config = yaml.safe_load((FOLDER / "compose/prometheus.yaml").read_text())
    [job] = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"gate:{settings.admin.port}"]}]
    [secret] = SERVICES["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"][secret]["environment"] in SERVICES["gate"]["environment"]
    inside = {each.split(":")[1] for each in SERVICES["prometheus"]["volumes"]}
    assert set(config["rule_files"]) <= inside


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    inside = {each.split(":")[1] for each in SERVICES["grafana"]["volumes"]}
    provisioned = FOLDER / "compose/grafana"
    [provider] = yaml.safe_load((provisioned / "dashboards/creditgate.yaml").read_text())[
        "providers"
    ]
    assert any(each.startswith(provider["options"]["path"] + "/") for each in inside)
    [source] = yaml.safe_load((provisioned / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES


def test_the_unit_runs_commands_that_exist_on_one_configuration() -> None:
    service = unit()["Service"]
    paths = set()
    for option in ("ExecStartPre", "ExecStart"):
        program, *words = shlex.split(service[option])
        assert program == "/opt/creditgate/bin/creditgate"
        assert command_problem(words) is None
        paths.add(words[-1])
    assert paths == {"/etc/creditgate/gateway.yaml"}


def test_the_unit_lets_a_drain_end() -> None:
    service = unit()["Service"]
    default_s = Settings.model_fields["listen"].default_factory().drain_grace_ms / 1000  # type: ignore
    assert service["KillMode"] == "mixed"
    assert seconds(service["TimeoutStopSec"]) >= default_s + 30


def test_systemd_accepts_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    # It checks that programs exist, which are installed elsewhere here.
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/creditgate/bin/creditgate", "/bin/true"))
    verify = ["systemd-analyze", "verify", str(copy)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    security = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(copy)]
    done = subprocess.run(security, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
