"""TCP ports for servers that die and come back.

A port that was free a moment ago may be somebody's a moment later, and a dead node's port must
wait for its restart. Two things keep a claimed port ours: it lies below the range from which the
kernel takes ports for outgoing connections and for port 0, and as long as it is claimed a UDP
socket is bound to the same number, which no other claim can bind. The kernel frees it if we die.
"""

import random
import socket
from pathlib import Path
from typing import Final

LOWEST: Final = 10_000
_RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_FIRST_EPHEMERAL: Final = 32_768
_TRIES: Final = 2_000


class ClaimedPort:
    """One port of 127.0.0.1 until `release`. Raises OSError if none is free."""

    def __init__(self) -> None:
        highest = _first_ephemeral() - 1
        for _ in range(_TRIES):
            port = random.randint(LOWEST, highest)  # many test processes search at once
            claim = _claim(port)
            if claim is not None:
                self.port = port
                self._claim = claim
                return
        raise OSError(f"no free port between {LOWEST} and {highest}")

    def release(self) -> None:
        """Let others have the port. Safe to repeat."""
        self._claim.close()


def _claim(port: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        claim.bind(("127.0.0.1", port))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        claim.close()
        return None
    return claim


def _first_ephemeral() -> int:
    try:
        first = int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL_FIRST_EPHEMERAL
    return max(first, LOWEST + 1_000)
