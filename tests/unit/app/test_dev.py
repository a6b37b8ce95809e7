"""`creditgate dev` as a person uses it: the printed lines are run as they stand."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import alive, until

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.slow]


class Dev:
    """One `creditgate dev` in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._out = (folder / "out").open("w+")
        self._err = (folder / "err").open("w+")
        ports = ("--port", "0", "--admin-port", "0", "--console-port", "0")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "dev", *ports, *options],
            cwd=folder,
            stdout=self._out,
            stderr=self._err,
            env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"},
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        return (self.folder / "out").read_text() + (self.folder / "err").read_text()

    def wait_ready(self) -> "Dev":
        def told() -> bool:
            assert self.process.poll() is None, self.said
            return "Ctrl-C" in self.said

        until(told, "it has said how to use it", within_s=60)
        return self

    def paste(self, title: str) -> str:
        """Run the line that was printed under a title, as a shell would."""
        lines = self.said.splitlines()
        [at] = [n for n, line in enumerate(lines) if line.startswith(f"# {title}")]
        done = subprocess.run(
            ["bash", "-c", lines[at + 1]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def balance(self) -> str:
        told: str = json.loads(self.paste("what the key"))["data"]["balance"]
        return told

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
        self._out.close()
        self._err.close()


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One for the first test, which the second ends and starts again."""
    started = Dev(tmp_path_factory.mktemp("dev"))
    yield started.wait_ready()
    started.end()


def test_one_gate_is_found_by_a_second_by_a_load_test_and_by_its_printed_lines(
    dev: Dev, subtests: pytest.Subtests
) -> None:
    """In this order: the first two charge nothing."""
    for step in (
        a_second_one_on_the_same_data_says_so_and_harms_nothing,
        a_load_test_finds_the_gate_and_everything_around_it,
        the_printed_lines_work_as_they_stand,
    ):
        with subtests.test(step.__name__):
            step(dev)


def the_printed_lines_work_as_they_stand(dev: Dev) -> None:
    assert dev.balance() == "10"
    chat = json.loads(dev.paste("a chat"))
    assert chat["usage"]["completion_tokens"] > 0
    stream = dev.paste("a stream")
    assert stream.startswith("data: ")
    assert stream.rstrip().endswith("data: [DONE]")
    refusal = json.loads(dev.paste("a refusal"))
    assert refusal["error"]["code"] == "credit_balance_exhausted"
    until(lambda: dev.balance() != "10", "the balance has moved")
    assert 'outcome="allow"' in dev.paste("metrics")


def test_ctrl_c_drains_and_kill_9_too_leaves_no_process_and_the_wallets_stay(dev: Dev) -> None:
    dev.paste("a chat")
    until(lambda: json.loads(dev.paste("what the key"))["data"]["held"] == "0", "it is settled")
    before, family = dev.balance(), dev.family()
    assert len(family) >= 4
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(60) == 0
    assert "nothing is left running" in dev.said
    assert not alive(family)
    again = Dev(dev.folder).wait_ready()
    assert again.balance() == before

    family = again.family()
    again.process.kill()
    again.process.wait()
    again.end()
    third = Dev(dev.folder).wait_ready()
    until(lambda: not alive(family), "nothing of the killed one is left", within_s=60)
    assert len([p for p in third.family() if "valkey" in p.name()]) == 1
    assert third.balance() == before
    third.end()


def a_second_one_on_the_same_data_says_so_and_harms_nothing(dev: Dev) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gateway.cli", "dev"),
            *("--port", "0", "--admin-port", "0", "--console-port", "0"),
        ],
        cwd=dev.folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"another gate (process {dev.process.pid})" in done.stderr
    assert "--data-dir" in done.stderr
    assert "Traceback" not in done.stderr
    assert dev.balance() == "10"


def a_load_test_finds_the_gate_and_everything_around_it(dev: Dev) -> None:
    targets = ("-t", "added p50<60s", "-t", "errors<50%")
    words = ("--rate", "20", "-d", "2s", "--warmup", "0s", *targets)
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "loadtest", *words],
        cwd=dev.folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((dev.folder / "reports" / "loadtest.json").read_text())
    [stage] = report["stages"]
    assert stage["gate"]["good"] > 0
    assert stage["direct"]["good"] > 0
    watched = {process["name"] for process in stage["processes"]}
    assert {"worker-0", "admin-0", "exporter-0", "supervisor", "ledger", "provider"} == watched
    assert dev.balance() == "10"  # the customer to try with has paid nothing
