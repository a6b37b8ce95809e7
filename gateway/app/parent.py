"""Dying with one's parent, so that no process outlives a supervisor that was killed -9.

On Linux the kernel sends a signal when the parent's thread that forked us ends
(prctl(2), PR_SET_PDEATHSIG). Elsewhere a thread looks once a second.

As a module, `python -m gateway.app.parent PARENT_PID MODULE ARGUMENT…` runs a Python module
that dies with its parent and takes no part in the terminal's Ctrl-C.
"""

import contextlib
import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent_pid: int, number: signal.Signals) -> None:
    """Have this process sent `number` when its parent ends; exit now if it already has."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    else:
        threading.Thread(target=_watch, args=(parent_pid, number), daemon=True).start()
    if os.getppid() != parent_pid:  # it died before we could ask
        raise SystemExit(0)


def _watch(parent_pid: int, number: signal.Signals) -> None:
    while os.getppid() == parent_pid:
        time.sleep(1)
    os.kill(os.getpid(), number)


def main() -> None:
    """Run the module that the command line names, tied to our parent."""
    die_with_parent(int(sys.argv[1]), signal.SIGKILL)
    with contextlib.suppress(PermissionError):  # we already lead a session
        os.setsid()
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
