"""Servers as child processes: when they are there, and what is said of one that is not."""

import sys
from pathlib import Path

import psutil
import pytest

from loadtest import children
from loadtest.ports import free_ports

SERVER = "import http.server as h, sys; h.test(h.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')"


def test_a_server_runs_until_the_block_ends(tmp_path: Path) -> None:
    [port] = free_ports(1)
    command = [sys.executable, "-c", SERVER, str(port)]
    with (tmp_path / "log").open("wb") as log:
        with children.answering(command, f"http://127.0.0.1:{port}", log, folder=tmp_path) as pid:
            assert psutil.Process(pid).cwd() == str(tmp_path)
        assert not psutil.pid_exists(pid)


def test_a_server_that_does_not_start_raises_with_the_end_of_its_log(tmp_path: Path) -> None:
    [port] = free_ports(1)
    command = [sys.executable, "-c", "raise SystemExit('no such setting')"]
    with (
        (tmp_path / "log").open("wb") as log,
        pytest.raises(children.NotStarted, match="no such setting"),
        children.answering(command, f"http://127.0.0.1:{port}", log),
    ):
        pass


def test_the_version_of_a_package_is_read_in_its_own_environment() -> None:
    here = Path(sys.executable)
    assert children.installed_version(here, "psutil") == psutil.__version__
    with pytest.raises(children.NotStarted, match="no-such-package"):
        children.installed_version(here, "no-such-package")
