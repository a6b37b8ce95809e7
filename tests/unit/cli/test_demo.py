"""`creditgate demo` as a person runs it: to its end, interrupted, killed, and where it cannot start."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import gateway.cli.demo
from gateway.cli import app
from gateway.cli.output import out
from loadtest.demo.operator import DemoFailed, Operator
from tests.unit.app.conftest import alive, until

ROOT = Path(__file__).parents[3]
WHOLE_STORY_S = 240


def with_the_model(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that starts llama.cpp."""
    for mark in (pytest.mark.long, pytest.mark.model, pytest.mark.timeout(2 * WHOLE_STORY_S)):
        test = mark(test)
    return test


class Demo:
    """One `creditgate demo` in a process of its own; its temporary files are in `scratch`."""

    def __init__(self, folder: Path, cache: Path, *options: str) -> None:
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self._said = folder / "said"
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "demo", "--cache", str(cache), *options],
                cwd=folder,
                stdout=said,
                stderr=said,
                env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.scratch)},
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait_for(self, text: str) -> None:
        def told() -> bool:
            assert self.process.poll() is None, self.said
            return text in self.said

        until(told, f"it says {text!r}", within_s=WHOLE_STORY_S)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model is assembled, once for these tests."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def demo(tmp_path: Path, cache: Path) -> Iterator[Demo]:
    started = Demo(tmp_path, cache)
    yield started
    if started.process.poll() is None:
        started.process.terminate()
        started.process.wait(60)


@with_the_model
def test_every_step_of_the_story_adds_up(demo: Demo) -> None:
    assert demo.process.wait(WHOLE_STORY_S) == 0, demo.said
    said = demo.said
    assert "The capital of France is Paris." in said
    assert said.count("the event says") == 6, "each request of the story, to the unit"
    assert "402, sent 1 time" in said
    assert "The key payment-1 was used for this before: nothing was changed." in said
    assert "refused with 402: insufficient_credits" in said
    assert "charged, rounded up" in said
    assert "No drift." in said
    assert said.index("No drift.") < said.index("nothing is left running")
    assert list(demo.scratch.iterdir()) == []


@with_the_model
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_it_leaves_no_process_and_no_file(
    demo: Demo, how: signal.Signals
) -> None:
    demo.wait_for("A stream")
    family = demo.family()
    assert len(family) >= 5, "llama.cpp, the provider, the gate with its ledger, worker, exporter"
    demo.process.send_signal(how)
    assert demo.process.wait(90) == 130
    assert "nothing is left running" in demo.said
    assert "Traceback" not in demo.said
    assert not alive(family)
    assert list(demo.scratch.iterdir()) == []


@with_the_model
def test_killed_it_takes_what_it_started_with_it(demo: Demo) -> None:
    demo.wait_for("A stream")
    family = demo.family()
    demo.process.kill()
    demo.process.wait()
    until(lambda: not alive(family), "nothing of it is left", within_s=60)


@with_the_model
def test_a_gate_that_cannot_start_ends_it_in_words(tmp_path: Path, cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        failing = Demo(tmp_path, cache, "--port", str(taken.getsockname()[1]))
        until(lambda: len(failing.family()) > 0 or failing.process.poll() is not None, "it begins")
        family = failing.family() if failing.process.poll() is None else []
        assert failing.process.wait(WHOLE_STORY_S) == 1
    assert "The demo failed: the gate does not start" in failing.said
    assert "Traceback" not in failing.said
    assert not alive(family)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.cli.demo, "_NEEDED", ("orjson", "no_such_package"))
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert " ".join(result.stderr.split()) == (
        "the demo needs no_such_package: `make demo` installs them"
    )


def test_an_operator_s_command_that_fails_fails_the_demo(tmp_path: Path) -> None:
    operator = Operator({**os.environ, "CREDITGATE_CONFIG": str(tmp_path / "none.yaml")}, out)
    with pytest.raises(DemoFailed, match="creditgate wallet ended with 1"):
        operator.run("wallet", "show", "demo")
