"""What is known of a request so far, for its log line, its metrics and its refusal."""

import os
import time
from dataclasses import dataclass, field

from gateway.domain.reservation import Account, Denied
from gateway.proxy.catalog import Route


def new_request_id() -> str:
    """32 hex digits that sort by time: 48 bits of Unix ms, 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


@dataclass(slots=True)
class Trail:
    """The flow fills it in as it goes.

    started_at, upstream_s: seconds by the monotonic clock
    admitted:  the gate has decided to forward it; what fails later is no denial
    denied:    the ledger's last answer, when it was a refusal
    reason:    why it was denied or ended early; "" when neither
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
