"""Hosts with addresses of their own on this machine, and partitions between them. Linux, as root.

Each host is a network namespace on one bridge; this process reaches all of them through it. A
partition leaves connections open and packets unanswered, as a broken network does: `cut` takes a
host off the bridge, `separate` makes two groups of hosts unreachable for one another while this
process still reaches both. No packet filter is needed.

Names begin with `cg` and end when the network is closed. What a killed process left is removed by
the next one to make a network.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from loadtest.topology.options import Address

PORT: Final = 7000
BUS_PORT: Final = 17000
_SUBNETS: Final = range(256)
"""Third bytes of 198.18.x.0/24, addresses reserved for measurements inside one network."""
_NAMESPACES: Final = Path("/run/netns")
_BRIDGE: Final = re.compile(r"cgb(\d+)")
_NAMESPACE: Final = re.compile(r"cg-(\d+)-\d+-\d+")


class NoNetwork(Exception):
    """Namespaces or bridges cannot be made here. The message says what `ip` said."""


class Network:
    """Hosts on one bridge until `close`; `Places` for the nodes of a topology."""

    def __init__(self) -> None:
        """Make the bridge. Raises NoNetwork."""
        remove_leftovers()
        self._hosts: list[Address] = []
        self._apart: list[tuple[Address, Address]] = []
        self._subnet = _claim_subnet()
        self._is_open = True

    def __enter__(self) -> "Network":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def take(self) -> Address:
        """Add a host. Raises NoNetwork."""
        number = len(self._hosts) + 1
        name = f"cg-{os.getpid()}-{self._subnet}-{number}"
        address = Address(f"198.18.{self._subnet}.{number + 1}", PORT, BUS_PORT, name)
        self._hosts.append(address)  # before it is made, so that half a host is removed too
        link = self._link(address)
        _ip(
            f"netns add {name}",
            f"link add {link} type veth peer name eth0 netns {name}",
            f"link set {link} master {_bridge(self._subnet)} up",
        )
        _ip(
            f"addr add {address.host}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
            inside=name,
        )
        return address

    def cut(self, host: Address) -> None:
        """Take a host off the network: neither this process nor another host reaches it."""
        _ip(f"link set {self._link(host)} down")

    def separate(self, some: Iterable[Address], others: Iterable[Address]) -> None:
        """Let no packet pass between two groups of hosts. This process reaches both."""
        for one, other in itertools.product(some, others):
            _ip(f"route add blackhole {other.host}", inside=one.namespace)
            _ip(f"route add blackhole {one.host}", inside=other.namespace)
            self._apart.append((one, other))

    def mend(self) -> None:
        """End all partitions. Safe to repeat."""
        for host in self._hosts:
            _ip(f"link set {self._link(host)} up")
        while self._apart:
            one, other = self._apart.pop()
            _ip(f"route del blackhole {other.host}", inside=one.namespace)
            _ip(f"route del blackhole {one.host}", inside=other.namespace)

    def close(self) -> None:
        """Remove the hosts and the bridge. Stop the processes on the hosts first. Safe to repeat."""
        if self._is_open:
            _remove_bridge(self._subnet)
            for host in self._hosts:
                _try(f"netns del {host.namespace}")
        self._is_open = False
        self._hosts.clear()
        self._apart.clear()

    def _link(self, host: Address) -> str:
        """The end of a host's cable that is on the bridge. A name may have 15 characters."""
        return f"{_cable(self._subnet)}{host.host.rpartition('.')[2]}"


def available() -> bool:
    """Whether networks can be made here."""
    return not why_unavailable()


@functools.cache
def why_unavailable() -> str:
    """Say why no network can be made here; empty if one can, which is tried."""
    if shutil.which("ip") is None:
        return "no `ip` (iproute2)"
    try:
        with Network() as network:
            network.take()
    except NoNetwork as error:
        return str(error)
    return ""


def remove_leftovers() -> None:
    """Remove namespaces and bridges whose process is dead."""
    for subnet, pid in _subnets():
        if not _is_alive(pid):
            _remove_bridge(subnet)
    names = [path.name for path in _NAMESPACES.iterdir()] if _NAMESPACES.is_dir() else []
    for name in names:
        found = _NAMESPACE.fullmatch(name)
        if found and not _is_alive(int(found[1])):
            _try(f"netns del {name}")


def _remove_bridge(subnet: int) -> None:
    _remove_cables(subnet)
    _try(f"link del {_bridge(subnet)}")


def _remove_cables(subnet: int) -> None:
    """Remove the cables of a subnet. They outlast their namespaces, which end when the last packet
    of a dead process is given up, and meanwhile they keep their names."""
    for cable in _links("type", "veth"):
        if cable["ifname"].startswith(_cable(subnet)):
            _try(f"link del {cable['ifname']}")


def _subnets() -> list[tuple[int, int]]:
    """Return each subnet in use with the process that made it, which its bridge's alias names."""
    return [
        (int(found[1]), int(link["ifalias"]))
        for link in _links("type", "bridge")
        if (found := _BRIDGE.fullmatch(link["ifname"])) and link.get("ifalias", "").isdecimal()
    ]


def _links(*selected: str) -> list[dict[str, Any]]:
    """Return the network devices that `ip link show` selects; none if what it names is gone."""
    with contextlib.suppress(NoNetwork):
        said = _run(["ip", "-json", "link", "show", *selected])
        return [link for link in json.loads(said or "[]") if "ifname" in link]
    return []


def _claim_subnet() -> int:
    """Make a bridge; its name can be made once, so it claims the subnet."""
    for subnet in _SUBNETS:
        name = _bridge(subnet)
        if Path("/sys/class/net", name).exists():
            continue
        try:
            _ip(f"link add {name} type bridge")
        except NoNetwork:
            if Path("/sys/class/net", name).exists():
                continue  # another process was faster
            raise
        _remove_cables(subnet)
        _ip(
            f"link set {name} alias {os.getpid()}",
            f"addr add 198.18.{subnet}.1/24 dev {name}",
            f"link set {name} up",
        )
        return subnet
    raise NoNetwork("no free subnet of 198.18.0.0/16")


def _bridge(subnet: int) -> str:
    return f"cgb{subnet}"


def _cable(subnet: int) -> str:
    """How the names of cables begin, at the end that is on the bridge."""
    return f"cgv{subnet}-"


def _is_alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


def _ip(*commands: str, inside: str = "") -> None:
    """Run commands of `ip`, in a namespace if one is named, up to the first that fails."""
    within = ["-netns", inside] if inside else []
    _run(["ip", *within, "-batch", "-"], "\n".join(commands))


def _try(command: str) -> None:
    """Run a command that may fail, as when another process removes the same leftovers."""
    with contextlib.suppress(NoNetwork):
        _ip(command)


def _run(command: list[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise NoNetwork(f"{done.stderr.strip()} ({text or ' '.join(command)})")
    return done.stdout
