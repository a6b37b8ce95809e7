"""Where the next node of a topology may listen."""

from typing import Protocol

from loadtest.topology.options import Address
from loadtest.topology.ports import ClaimedPort


class Places(Protocol):
    """Hands out addresses; `close` gives them all back once the nodes are stopped."""

    def take(self) -> Address: ...

    def close(self) -> None: ...


class LocalPlaces:
    """Ports of 127.0.0.1, each claimed until `close`."""

    def __init__(self) -> None:
        self._claims: list[ClaimedPort] = []

    def take(self) -> Address:
        """Claim a port for clients and one for the cluster's bus."""
        port, bus_port = ClaimedPort(), ClaimedPort()
        self._claims += [port, bus_port]
        return Address("127.0.0.1", port.port, bus_port.port)

    def close(self) -> None:
        """Release all ports. Safe to repeat."""
        for claim in self._claims:
            claim.release()
        self._claims.clear()
