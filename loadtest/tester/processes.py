"""Whose CPU and memory is whose: the gate's processes, its ledger's server, the upstream's.

The gate is found by who listens on its port, the rest from there: its children, and the Redis
or Valkey on this machine that it is connected to. What cannot be found so is named by the plan.

Invariants: only processes of this machine, and only those that the user may see; what is not found is
absent from the report.
"""

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from loadtest.gate import family

LEDGER = "ledger"
PROVIDER = "provider"
_SERVERS = re.compile(r"(redis|valkey|keydb|dragonfly)")


@dataclass(frozen=True, slots=True)
class Use:
    """What a process has used: CPU seconds so far, resident bytes now."""

    cpu_s: float
    memory_bytes: int


def port_here(url: str) -> int | None:
    """The port of a URL that means this machine; None for another's."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    with contextlib.suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return parts.port or (443 if parts.scheme == "https" else 80)
    return None


def listeners(port: int) -> set[int]:
    """The processes that listen on a TCP port of this machine, as far as we may see."""
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS tells only root
        return set()
    return {
        one.pid
        for one in found
        if one.pid and one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
    }


def first_of(pids: Iterable[int]) -> int | None:
    """The process that started the one that listens: the gate's supervisor, or itself."""
    for pid in sorted(pids):
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            for parent in process.parents():
                if not _is_gate(parent.cmdline()):
                    break
                process = parent
            return process.pid
    return None


def _is_gate(words: Iterable[str]) -> bool:
    """Whether a command line is a process of creditgate."""
    return any(word.startswith("gateway.") or Path(word).name == "creditgate" for word in words)


def find(url: str, direct_url: str | None, named: Mapping[str, str]) -> dict[str, list[int]]:
    """Processes by name: worker-0, …, exporter-0, supervisor, ledger, provider, and those named.

    named: a process id, or ":PORT", by name
    """
    found: dict[str, list[int]] = {}
    port = port_here(url)
    if port is not None:
        first = first_of(listeners(port))
        if first is not None:
            found |= _gate(first)
    upstream_port = port_here(direct_url) if direct_url else None
    if upstream_port is not None and PROVIDER not in found:
        pids = listeners(upstream_port)
        if pids:
            found[PROVIDER] = sorted(pids)
    for name, whom in named.items():
        pids = listeners(int(whom[1:])) if whom.startswith(":") else {int(whom)}
        alive = sorted(pid for pid in pids if psutil.pid_exists(pid))
        if alive:
            found[name] = alive
    return found


def _gate(first: int) -> dict[str, list[int]]:
    if not _is_gate(_words(first)):  # some other server: all of it together
        tree = [first]
        with contextlib.suppress(psutil.NoSuchProcess):
            tree += [child.pid for child in psutil.Process(first).children(recursive=True)]
        return {_name(first): tree}
    found: dict[str, list[int]] = {}
    for name, pid in family(first).items():
        program, colon, _ = name.partition(":")
        if not colon:
            found[name] = [pid]
        elif _SERVERS.search(program):
            found[LEDGER] = [pid]
        elif "loadtest.provider" in _words(pid):
            found[PROVIDER] = [pid]
    if LEDGER not in found:
        found |= _connected_ledger(found)
    return found


def _connected_ledger(gate: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The Redis of this machine that a worker is connected to by TCP."""
    ports = set()
    for name, [pid, *_] in gate.items():
        if name.startswith("worker-"):
            with contextlib.suppress(psutil.Error):
                connections = psutil.Process(pid).net_connections("tcp")
                ports |= {one.raddr.port for one in connections if one.raddr}
    for port in sorted(ports):
        pids = [pid for pid in listeners(port) if _SERVERS.search(_name(pid))]
        if pids:
            return {LEDGER: pids}
    return {}


def _words(pid: int) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).cmdline()
    return []


def _name(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return str(psutil.Process(pid).name())
    return ""


def use_of(pids: Iterable[int]) -> Use:
    """What these processes have used together; one that is gone counts nothing."""
    cpu_s, memory_bytes = 0.0, 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                cpu_s += times.user + times.system
                memory_bytes += process.memory_info().rss
    return Use(cpu_s, memory_bytes)
