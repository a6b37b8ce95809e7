"""`creditgate loadtest` as a person runs it: exit codes, the report, what is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app, dev_state, loadtest, output
from loadtest import children

SHORT = ("--rate", "40", "-d", "500ms", "--warmup", "0s", "--model", "m", "--key", "k")


@pytest.fixture(scope="module")
def provider_url() -> Iterator[str]:
    with children.provider() as provider:
        yield provider.url


def run(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "loadtest", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "120"} | environ,
        timeout=115,
        check=False,
    )


Here = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """`creditgate loadtest WORDS` in this process and the test's folder: for what sends nothing."""
    assert loadtest, "importing it is what registers the command"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output.err, "_width", 120)  # chosen when it is imported
    runner = CliRunner()
    return lambda *words: runner.invoke(app, ["loadtest", *words])


def test_targets_that_are_met_exit_0_and_leave_a_report_to_compare_with(
    tmp_path: Path, provider_url: str
) -> None:
    done = run(tmp_path, provider_url, *SHORT, "-t", "p99<60s", "-t", "errors<1%", "-o", "r.html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ p99<60s" in done.stdout
    assert "report: r.html" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verdict"] == "met"
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    (tmp_path / "b.json").write_bytes((tmp_path / "r.json").read_bytes())
    done = run(tmp_path, "--compare", "r.html", "b.json", "--json", "-o", "both.html")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["full response p99"]["change"] == "="
    assert (tmp_path / "both.html").exists()


def test_targets_that_are_missed_exit_1_or_3_when_the_generator_was_the_limit(
    tmp_path: Path, provider_url: str
) -> None:
    done = run(tmp_path, provider_url, *SHORT, "-t", "p50<1us", "-t", "errors<1%", "--json")
    report = json.loads(done.stdout)
    limited = bool(report["stages"][0]["senders"]["limits"])
    assert done.returncode == (3 if limited else 1)
    assert [target["met"] for target in report["stages"][0]["targets"]] == [False, True]


def test_mistakes_exit_2_each_told_by_its_flag_and_nothing_is_sent(
    here: Here, tmp_path: Path
) -> None:
    done = here("http://127.0.0.1:1", "--rate", "quick", "-t", "p99", "-m", "m", "-k", "k")
    assert done.exit_code == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["--rate", "--target"]
    assert not list(tmp_path.iterdir())


def test_without_a_url_and_without_a_running_gate_it_says_what_to_give(here: Here) -> None:
    done = here()
    assert done.exit_code == 2
    assert "names no gate" in done.stderr
    assert "make run" in done.stderr


def test_a_trace_that_is_wrong_exits_2(here: Here, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"timestamp": "soon"}\n')
    words = ("http://127.0.0.1:1", "--trace", "t.jsonl", "-m", "m", "-k", "k")
    done = here(*words)
    assert done.exit_code == 2
    assert "t.jsonl:1: timestamp" in done.stderr


def test_what_is_no_report_exits_2(here: Here) -> None:
    done = here("--compare", "a.html", "c.html")
    assert (done.exit_code, "a.json: No such file" in done.stderr) == (2, True)


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'hdrh' else find(name, *a)\n"
    )
    done = run(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "hdrh" in done.stderr
    assert "make loadtest" in done.stderr


def test_where_dev_runs_is_read_while_it_runs(tmp_path: Path) -> None:
    gate = dev_state.DevGate("http://127.0.0.1:1", "http://127.0.0.1:2", os.getpid())
    with dev_state.kept(tmp_path):
        dev_state.write(tmp_path, gate)
        assert dev_state.read(tmp_path) == gate
    assert dev_state.read(tmp_path) is None


def test_a_dev_that_was_killed_is_as_if_it_had_told_nothing(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dev_state.write(tmp_path, dev_state.DevGate("http://127.0.0.1:1", "", ended.pid))
    assert dev_state.read(tmp_path) is None
    with dev_state.kept(tmp_path):
        pass
    (tmp_path / dev_state.FILE).write_text("{")
    assert dev_state.read(tmp_path) is None
