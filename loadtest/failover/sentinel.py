"""`make sentinel`: a gate under load while its Sentinels replace the primary of its ledger.

    python -m loadtest.failover.sentinel [--rate 60] [--folder FOLDER]

A primary, two replicas and three Sentinels as real processes; on hosts of their own, so that they
can be cut off, where network namespaces can be made (Linux, as root). Exit 1 unless the gate served
again after each step without a restart, and every request is charged or named.
"""

from pathlib import Path

import uvloop
from rich.console import Console

from loadtest.failover.commandline import RATE, command
from loadtest.failover.scenario import Run, Step, play
from loadtest.topology import hosts
from loadtest.topology.node import Node
from loadtest.topology.places import LocalPlaces
from loadtest.topology.sentinels import SERVICE, Sentinels


class Script:
    """What happens to the servers, step by step."""

    def __init__(self, servers: Sentinels, network: hosts.Network | None) -> None:
        self._servers = servers
        self._network = network
        self._old: Node

    def short(self) -> list[Step]:
        """A failure, and the return of what failed."""
        return [
            Step("primary killed (-9)", self._kill, self._servers.wait_settled),
            Step("old primary restarted", self._return),
        ]

    def every(self) -> list[Step]:
        """Each way for a primary to go, and to come back."""
        settled = self._servers.wait_settled
        steps = [
            # First: within some 20 s of another switch a Sentinel may take its new primary for the
            # old one, and revert it.
            Step("FAILOVER COORDINATED", lambda: self._servers.failover("COORDINATED")),
            *self.short(),
            Step("FAILOVER", self._servers.failover, settled),
            Step("primary frozen", self._freeze, settled),
            Step("old primary thawed", self._return),
        ]
        if self._network is not None:
            steps += [
                Step("primary cut off", self._cut),
                Step("old primary back", self._mend),
                Step("primary alone with the gate", self._separate),
                Step("network mended", self._mend),
            ]
        return steps

    def _kill(self) -> None:
        self._old = self._servers.primary()
        self._servers.kill(self._old)

    def _freeze(self) -> None:
        self._old = self._servers.primary()
        self._servers.freeze(self._old)

    def _return(self) -> None:
        self._servers.rejoin(self._old)

    def _cut(self) -> None:
        assert self._network is not None
        self._old = self._servers.primary()
        self._network.cut(self._old.address)
        self._servers.wait_for_switch(self._old)

    def _separate(self) -> None:
        """The gate reaches both sides, and the old primary accepts what it writes there."""
        assert self._network is not None
        self._old = self._servers.primary()
        others = [node.address for node in self._servers.nodes if node is not self._old]
        self._network.separate([self._old.address], [*others, *self._servers.addresses])
        self._servers.wait_for_switch(self._old)

    def _mend(self) -> None:
        assert self._network is not None
        self._network.mend()
        self._servers.rejoin(self._old)


def run(folder: Path, console: Console, *, rate: float = RATE, short: bool = False) -> Run:
    """Play it. Raises NotServed, NotRecovered, GateFailed, NodeFailed."""
    network = hosts.Network() if not short and hosts.available() else None
    with Sentinels(folder / "servers", places=network or LocalPlaces()) as servers:
        script = Script(servers, network)
        steps = script.short() if short else script.every()
        url = f"redis+sentinel://{','.join(map(str, servers.addresses))}/{SERVICE}"
        return uvloop.run(play(folder, {"url": url}, steps, rate=rate, console=console))


def main() -> None:
    """The command line; exit 1 if the run failed."""
    command("loadtest.failover.sentinel", __doc__ or "", run)


if __name__ == "__main__":
    main()
