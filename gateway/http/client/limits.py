"""What bounds the requests to an upstream: deadlines, connections, callers that wait."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpstreamTimeouts:
    """Per phase, in ms; they are kept to within a quarter of the smallest, at most 500 ms, and
    between_ms to within twice that.

    connect_ms: DNS, TCP and TLS; also how long a caller waits for a free connection
    head_ms:    from the first byte written to the head of the response
    between_ms: between two reads of the body, while the reader waits
    total_ms:   from the first byte written to the last byte read; None for no bound
    idle_ms:    an unused connection is closed after this (Node and uvicorn close theirs after 5 s)
    """

    connect_ms: int = 5_000
    head_ms: int = 600_000
    between_ms: int = 120_000
    total_ms: int | None = None
    idle_ms: int = 4_000


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of a pool, and how its connections are shared.

    connections_most: in use or idle at a time
    waiting_most:     callers that may wait for one; beyond that some are refused (sent=False)
    separate:         a connection carries the requests of one owner only
    """

    connections_most: int = 1_000
    waiting_most: int = 1_000
    separate: bool = False
