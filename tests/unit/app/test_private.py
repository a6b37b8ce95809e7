"""The data folder is its owner's alone, and each process has only the secrets that it needs."""

import os
import pickle
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from structlog.testing import capture_logs

from gateway.app.lock import FolderLock
from gateway.app.parts import CannotStart
from gateway.app.private import (
    check_folder,
    child_environment,
    for_admin,
    for_exporter,
    for_worker,
)
from gateway.app.run import parts_for
from gateway.settings import Settings, load_settings
from tests.support.gate import gate_config
from tests.unit.app.test_dev import Dev

SECRETS = {
    "provider": "sk-provider-secret",
    "header": "header-secret-value",
    "pepper": "pepper-secret-value",
    "admin": "admin-secret-token",
    "webhook": "webhook-secret-value",
    "redis": "redis-secret-value",
    "store": "store-secret-value",
    "billing": "billing-secret-value",
    "oidc": "oidc-secret-value",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A configuration with every kind of secret in it."""
    document: dict[str, Any] = gate_config("http://127.0.0.1:9", tmp_path / "data", "redis://a/0")
    document["upstreams"]["sim"] |= {
        "credential": {"value": f"Bearer {SECRETS['provider']}"},
        "headers": {"x-extra": SECRETS["header"]},
    }
    document["auth"] = {"key_pepper": SECRETS["pepper"]}
    document["admin"]["token"] = SECRETS["admin"]
    document["console"] = {
        "oidc": {
            "issuer": "https://login.example",
            "client_id": "gate",
            "client_secret": SECRETS["oidc"],
            "roles": {"platform": "admin"},
        }
    }
    document["redis"]["password"] = SECRETS["redis"]
    document["signals"] = {
        "webhook": {"url": "http://127.0.0.1:9", "secret": SECRETS["webhook"]},
    }
    document["export"] = {
        "required": "warehouse",
        "sinks": {
            "warehouse": {"postgres": {"url": f"postgresql://gate:{SECRETS['store']}@db/events"}},
            "billing": {"stripe": {"key": SECRETS["billing"], "meters": {"input": "tokens"}}},
        },
    }
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(document))
    return load_settings(file)


def held(value: object) -> set[str]:
    """The secrets that a process holds which was sent this."""
    sent = pickle.dumps(value)
    return {name for name, secret in SECRETS.items() if secret.encode() in sent}


def test_a_worker_is_given_no_secret_of_the_operator_the_webhook_or_an_optional_sink(
    settings: Settings,
) -> None:
    assert held(settings) == set(SECRETS)
    assert held(for_worker(settings)) == {"provider", "header", "pepper", "redis", "store"}
    assert for_worker(settings).digest == settings.digest


def test_the_exporter_is_given_no_provider_s_credential(settings: Settings) -> None:
    given = for_exporter(settings)
    assert held(given) == {"webhook", "redis", "store", "billing"}
    assert given.upstreams.keys() == settings.upstreams.keys()


def test_the_console_is_given_no_provider_s_credential(settings: Settings) -> None:
    given = for_admin(settings)
    assert held(given) == set(SECRETS) - {"provider", "header"}
    assert given.upstreams.keys() == settings.upstreams.keys()


def test_each_process_of_a_gate_is_given_its_part(tmp_path: Path, settings: Settings) -> None:
    parts = parts_for(tmp_path / "gateway.yaml", settings)
    assert "webhook" not in held(parts.settings_for("worker-3", settings))
    assert "provider" not in held(parts.settings_for("exporter-0", settings))


def test_of_the_environment_a_child_gets_what_an_interpreter_reads() -> None:
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "PYTHONPATH": "x",
        "OPENAI_API_KEY": "s",
        "AWS_SECRET_ACCESS_KEY": "s",
        "REDIS_PASSWORD": "s",
        "CREDITGATE_DATA_DIR": "s",
        "HTTPS_PROXY": "http://u:s@p",
    }
    assert child_environment(environ).keys() == {"PATH", "LC_ALL", "PYTHONPATH"}


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o710, 0o740, 0o704, 0o702, 0o777])
def test_a_folder_that_others_can_enter_is_refused_with_the_way_to_close_it(
    tmp_path: Path, mode: int
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(CannotStart) as refused, FolderLock(folder):
        pass
    assert f"chmod 700 {folder}" in str(refused.value)
    assert f"{mode:04o}" in str(refused.value)
    folder.chmod(0o700)
    with FolderLock(folder):
        pass


def test_a_folder_of_another_owner_is_worth_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o770)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with capture_logs() as logs:
        check_folder(tmp_path)
    [line] = logs
    assert (line["event"], line["mode"]) == ("data_folder_open", "0770")


def test_everything_a_gate_writes_is_its_owner_s_and_no_child_inherits_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_API_KEY", SECRETS["provider"])
    before = os.umask(0o022)
    dev = Dev(tmp_path)
    try:
        dev.wait_ready()
        dev.paste("a chat")
        children: dict[str, list[psutil.Process]] = {}
        for process in dev.family():
            command = " ".join(process.cmdline())
            for name in ("gateway.app.worker", "valkey"):
                if name in command:
                    children.setdefault(name, []).append(process)
        assert len(children["gateway.app.worker"]) == 3, "a worker, the exporter, the console"
        assert len(children["valkey"]) == 1
        for process in (each for found in children.values() for each in found):
            assert "PROVIDER_API_KEY" not in psutil.Process(process.pid).environ()
        written = list((tmp_path / "data").rglob("*"))
        assert {path.name for path in written} > {"events.db", "admin.token", "journal", "dev.json"}
        for path in written:
            found = path.lstat()
            wanted = 0o700 if stat.S_ISDIR(found.st_mode) or stat.S_ISSOCK(found.st_mode) else 0o600
            assert stat.S_IMODE(found.st_mode) == wanted, path
    finally:
        dev.end()
        os.umask(before)
