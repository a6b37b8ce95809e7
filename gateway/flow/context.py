"""What is known of a request so far, for its log line, its metrics and its refusal."""

import os
import time
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.reservation import Account, Denied
from gateway.flow.catalog import Route

_RANDOM_HEX: Final = 20
_RANDOM_AT_ONCE: Final = 256
_random: list[str] = []


def new_request_id() -> str:
    """32 hex digits that sort by time: 48 bits of Unix ms, 80 random bits."""
    if not _random:  # one call of the kernel for many ids
        drawn = os.urandom(_RANDOM_AT_ONCE * _RANDOM_HEX // 2).hex()
        _random.extend(drawn[at : at + _RANDOM_HEX] for at in range(0, len(drawn), _RANDOM_HEX))
    return f"{time.time_ns() // 1_000_000:012x}{_random.pop()}"


@dataclass(slots=True)
class Trail:
    """The flow fills it in as it goes.

    started_at, upstream_s: seconds by the monotonic clock
    admitted:  the gate has decided to forward it; what fails later is no denial
    denied:    the ledger's last answer, when it was a refusal
    reason:    why it was denied or ended early; "" when neither
    upstream_error: what failed at the upstream, in the gate's own words
    """

    request_id: str = field(default_factory=new_request_id)
    started_at: float = field(default_factory=time.monotonic)
    route: Route | None = None
    account: Account | None = None
    model: str | None = None
    held_nano: int = 0
    admitted: bool = False
    denied: Denied | None = None
    decision: str = "allow"
    reason: str = ""
    upstream_s: float = 0.0
    upstream_error: str = ""
