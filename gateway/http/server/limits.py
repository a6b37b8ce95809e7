"""Bounds of the server: times, connections, open files, and whom an address counts for."""

import ipaddress
import resource
from dataclasses import dataclass
from typing import Final

CONNECTIONS_MAX: Final = 20_000
BACKLOG_MAX: Final = 2048
FILES_RESERVED: Final = 128
"""Descriptors for everything but clients and upstreams: ledger, listeners, logs, journals, stores."""
_CLIENT_PART_MIN: Final = 4
"""At least one in so many descriptors is for clients, however large the upstream pools may grow."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of the server; times in seconds, kept to within 0.5 s or a quarter of the smallest.

    idle_s:                   an idle connection is closed after this
    head_s:                   from a head's first byte to its last, else 408
    body_s:                   from when the flow asks for the body to its last byte, else 408
    write_s:                  how long a client may leave a full buffer unread before it is cut
    linger_s:                 how long bytes that arrive behind the last response are discarded
                              before the connection is closed
    starved_s:                how long a body waits for room in the byte budget, then 503
    connections_most:         open at a time; the next takes the place of the one idle for longest
    connections_per_address:  the same per peer (IPv6: per /64; not for unix sockets), then 503
    buffer_bytes:             what may be buffered of all requests and responses together
    buffer_share_bytes:       what may be buffered for one owner (`Exchange.owner`)
    """

    idle_s: float = 75.0
    head_s: float = 9.0
    body_s: float = 30.0
    write_s: float = 30.0
    linger_s: float = 2.0
    starved_s: float = 1.0
    connections_most: int = CONNECTIONS_MAX
    connections_per_address: int = 2_000
    buffer_bytes: int = 256 * 1024 * 1024
    buffer_share_bytes: int = 128 * 1024 * 1024


def raise_open_files() -> int:
    """Raise this process' soft limit of open files to the hard one; returns the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            return soft  # a sandbox may forbid it: the bound follows the limit that holds
    return hard


def client_bound(open_files: int, upstream_connections: int) -> int:
    """Return how many clients leave enough descriptors for the upstreams, the ledger and files.

    open_files:            the process' limit, from `raise_open_files`
    upstream_connections:  the most that all pools together may open
    """
    if open_files < 0:  # RLIM_INFINITY
        return CONNECTIONS_MAX
    left = max(open_files - upstream_connections - FILES_RESERVED, open_files // _CLIENT_PART_MIN)
    # The event loop accepts as many as wait before the first of them can be refused.
    return min(CONNECTIONS_MAX, left * 4 // 5)


def accept_backlog(connections_most: int) -> int:
    """Return how many connections may wait to be accepted: a quarter of the bound at most."""
    return max(16, min(BACKLOG_MAX, connections_most // 4))


def counted_address(remote: str) -> str:
    """Return what a peer's connections are counted under: its IPv4 address, or its IPv6 /64.

    One IPv6 customer usually has a /64 (RFC 6177), so single addresses of it bound nothing.
    """
    if ":" not in remote:
        return remote
    try:
        address = ipaddress.IPv6Address(remote.partition("%")[0])
    except ValueError:
        return remote
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
