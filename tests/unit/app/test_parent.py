"""A module that dies with its parent, however the parent dies."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from .conftest import until

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "gateway.app.parent", str(os.getpid()), "sleeper"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_tied_module_dies_with_a_killed_parent_and_leads_its_own_session(
    tmp_path: Path,
) -> None:
    ready = tmp_path / "ready"
    (tmp_path / "sleeper.py").write_text(
        f"import pathlib, time\npathlib.Path({str(ready)!r}).touch()\ntime.sleep(60)\n"
    )
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"},
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    until(ready.exists, "the module runs")
    assert os.getsid(child.pid) == child.pid
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not child.is_running(), "the child is gone")


def test_a_module_whose_parent_is_already_gone_does_not_start(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "toucher.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "gateway.app.parent", "1", "toucher"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"},
        timeout=30,
    )
    assert done.returncode == 0
    assert not ran.exists()
