"""A running supervisor over the trivial service, in a process of its own."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

HERE = Path(__file__).parent


def until(true: Callable[[], Any], what: str, within_s: float = 30) -> Any:
    """Wait for something to become true and return it."""
    deadline = time.monotonic() + within_s
    while True:
        result = true()
        if result:
            return result
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie that nobody waits for does not."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


class Gate:
    """A trivial gate as a program, and what one may ask it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self._edits = itertools.count()
        self.settings = {"greeting": "hello"} | settings
        self.write_config(self.settings)
        self._stderr = (folder / "stderr").open("ab")
        self._logged = 0
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "trivial_gate.py"), str(folder)],
            stderr=self._stderr,
            env=os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parents[2]}"},
            start_new_session=True,
        )
        self.running: dict[str, Any] = {}

    def write_config(self, settings: dict[str, Any]) -> None:
        staged = self.folder / "gate.staged"
        # No two are alike: the watcher takes edits that follow at once for one.
        staged.write_text(json.dumps(settings | {"edit": next(self._edits)}))
        staged.rename(self.folder / "gate.json")

    def wait_ready(self) -> "Gate":
        path = self.folder / "running.json"

        def told() -> bool:
            assert self.process.poll() is None, self.log()
            return path.exists()

        until(told, "the gate is ready")
        self.running = json.loads(path.read_text())
        return self

    def log(self) -> str:
        """What was logged since the start or the last restart."""
        return (self.folder / "stderr").read_text()[self._logged :]

    def begin_anew(self) -> None:
        """As after its start: the first configuration is in force, and nothing is logged yet."""
        self.write_config(self.settings)
        until(lambda: {self.ask()[0] for _ in range(32)} == {"hello"}, "all have it")
        self._forget_log()
        # Reloads come one after the other: when one more has ended, so have those before it.
        self.process.send_signal(signal.SIGHUP)
        ends = ("configuration_committed", "configuration_unchanged")
        until(lambda: any(end in self.log() for end in ends), "all reloads have ended")
        self._forget_log()
        (self.folder / "written").write_text("")

    def _forget_log(self) -> None:
        self._logged = len((self.folder / "stderr").read_text())

    def open(self, request: bytes = b"hello\n") -> socket.socket:
        host, port = self.running["gate"].split(":")
        sock = socket.create_connection((host, int(port)), timeout=30)
        sock.sendall(request)
        return sock

    def ask(self, request: bytes = b"hello\n") -> list[str]:
        with self.open(request) as sock, sock.makefile("rb") as file:
            return file.readline().decode().split()

    def accepts(self) -> bool:
        """Whether a new connection is taken and answered."""
        try:
            return bool(self.ask())
        except ConnectionError:
            return False

    def kill_a_worker(self) -> None:
        """Have the worker that takes the next connection die, and wait until it has."""
        with self.open(b"die\n") as sock, contextlib.suppress(ConnectionError):
            assert sock.recv(100) == b""

    def admin(self, path: str, token: str | None = None) -> tuple[int, str]:
        request = urllib.request.Request(f"http://{self.running['admin']}{path}")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, line: str) -> float:
        """The value of one line of /metrics, by its name and labels; 0 when absent."""
        _, text = self.admin("/metrics", self.running["admin_token"])
        for row in text.splitlines():
            name, _, value = row.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def processes(self) -> list[psutil.Process]:
        """The supervisor's children."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._stderr.close()


@pytest.fixture
def start_gate(tmp_path: Path) -> Iterator[Callable[..., Gate]]:
    """Starts gates on the test's own folder and ends them after it."""
    gates: list[Gate] = []

    def start(**settings: Any) -> Gate:
        gate = Gate(tmp_path, **settings)
        gates.append(gate)
        return gate

    yield start
    for gate in gates:
        gate.end()


@pytest.fixture(scope="module")
def gate_of_many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A gate of two workers for all tests of a file that leave it running."""
    gate = Gate(tmp_path_factory.mktemp("gate"), workers=2)
    yield gate.wait_ready()
    gate.end()


@pytest.fixture
def gate(gate_of_many: Gate) -> Gate:
    """The same, as after its start."""
    gate_of_many.begin_anew()
    return gate_of_many
