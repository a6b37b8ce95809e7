"""Starts a gate as its operator would, and tells its processes apart.

`serving` runs `creditgate serve` (or any command that takes a configuration and
`--ready-file`) in a child process; `write_config` writes a configuration for one simulated
provider and a few funded customers.

Invariants: what is started here is stopped here; a gate that does not start raises with its log.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

GATE_COMMAND: Final = (sys.executable, "-m", "gateway.cli", "serve")
MODEL: Final = "sim-small"
TLS_MODEL: Final = "sim-small-tls"
"""The same model behind the upstream that speaks TLS."""
_WORKER_MODULE: Final = "gateway.app.worker"


class GateFailed(Exception):
    """The gate did not start or did not stop; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A running gate: its URL, its first process, its folder with `gate.log` and `data`."""

    url: str
    pid: int
    folder: Path

    def processes(self) -> dict[str, int]:
        """Its processes by name, see `family`."""
        return family(self.pid)

    def pids(self, role: str) -> list[int]:
        """The processes of one role: "worker", "exporter"."""
        named = self.processes().items()
        return [pid for name, pid in named if name.partition("-")[0] == role]

    def log_tail(self) -> str:
        """The end of the gate's log."""
        return (self.folder / "gate.log").read_text(errors="replace")[-4000:]


def family(pid: int) -> dict[str, int]:
    """A gate's processes by name: supervisor, worker-0, …, exporter-0, and others by their program.

    pid: of its first process
    """
    try:
        tree = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    found = {"supervisor": pid}
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found[_name_of(process)] = process.pid
    return found


def _name_of(process: psutil.Process) -> str:
    words = process.cmdline()
    if _WORKER_MODULE in words:
        return words[-1]
    return f"{process.name()}:{process.pid}"


def write_config(
    folder: Path,
    upstream_url: str,
    *,
    workers: int = 1,
    redis_url: str = "embedded",
    tls_upstream: tuple[str, Path] | None = None,
    keys: Sequence[str] = ("sk-load",),
    credit: str = "9000.00",
    policy: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write `gate.yaml` for one upstream; each key belongs to a separate customer with this credit.

    tls_upstream: URL and authority of a second upstream, which serves TLS_MODEL
    keys:     API keys in clear; customer n is `customer-n`
    changes:  top-level sections to put in place
    """
    upstreams: dict[str, Any] = {"sim": {"base_url": upstream_url, "max_connections": 4096}}
    models = {MODEL: _model("sim")}
    if tls_upstream is not None:
        secure_url, authority = tls_upstream
        upstreams["sim_tls"] = {
            "base_url": secure_url,
            "max_connections": 4096,
            "tls": {"ca_file": str(authority)},
        }
        models[TLS_MODEL] = _model("sim_tls")
    document: dict[str, Any] = {
        "listen": {
            "host": "127.0.0.1",
            "port": 0,
            "workers": workers,
            "max_connections_per_address": 100_000,
        },
        "admin": {"host": "127.0.0.1", "port": 0},
        "console": {"enabled": False},
        "data_dir": str(folder / "data"),
        "redis": redis_url,
        "upstreams": upstreams,
        "models": models,
        "customers": {
            f"customer-{number}": {
                "grants": [{"name": "load", "amount": credit, "category": "paid"}],
                "keys": [
                    {
                        "id": f"key-{number}",
                        "sha256": hashlib.sha256(key.encode()).hexdigest(),
                    }
                ],
            }
            for number, key in enumerate(keys)
        },
        "policy": dict(policy or {}),
        **(changes or {}),
    }
    target = folder / "gate.yaml"
    # the one in C, where there is one: a configuration may have many customers
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    target.write_text(yaml.dump(document, Dumper=dumper, sort_keys=False))
    return target


def _model(upstream: str) -> dict[str, Any]:
    return {
        "upstream": upstream,
        "upstream_model": MODEL,
        "prices": {"input": "0.50", "cache_read": "0.05", "output": "2.00"},
        "costs": {"input": "0.25", "output": "1.00"},
        "max_output_tokens": 16_384,
    }


@contextlib.contextmanager
def serving(
    config: Path,
    *,
    command: Sequence[str] = GATE_COMMAND,
    environ: Mapping[str, str] | None = None,
    ready_s: float = 60.0,
    stop_s: float = 120.0,
) -> Iterator[Gate]:
    """Run the gate on this configuration until the block ends, then drain and stop it.

    Its log is written next to the configuration. Raises GateFailed.
    """
    folder = config.parent
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    log_path = folder / "gate.log"
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            [*command, str(config), "--ready-file", str(ready)],
            stdout=log,
            stderr=log,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
        gate = Gate("", child.pid, folder)
        try:
            deadline_s = time.monotonic() + ready_s
            while not ready.exists():
                if child.poll() is not None or time.monotonic() > deadline_s:
                    raise GateFailed(f"the gate did not start:\n{gate.log_tail()}")
                time.sleep(0.02)
            yield Gate(ready.read_text().strip(), child.pid, folder)
        finally:
            _stop(child, gate, stop_s)


def _stop(child: "subprocess.Popen[bytes]", gate: Gate, stop_s: float) -> None:
    left = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
    child.terminate()
    try:
        child.wait(stop_s)
    except subprocess.TimeoutExpired:
        stuck = []
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                stuck.append(" ".join(process.cmdline()[-5:]))
                process.kill()
        child.kill()
        child.wait()
        said = f"the gate did not stop in {stop_s:g} s; its child processes were {stuck}"
        raise GateFailed(f"{said}:\n{gate.log_tail()}") from None
