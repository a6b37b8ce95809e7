"""The circuit breaker of one upstream: whether requests may be sent to it, concluded from how the last
ones ended. Pure: the caller says how late it is, in seconds of the monotonic clock.

    closed ──too many failures──▶ open ──after open_s──▶ half-open ──the probe succeeds──▶ closed
                                   ▲                        │
                                   └────the probe fails─────┘

Each worker concludes for itself. Half-open lets one request through, the probe; one that takes longer
than `open_s` is followed by another.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

BreakerState = Literal["closed", "half_open", "open"]
BREAKER_STATES: Final = ("closed", "half_open", "open")
"""From good to bad; the metric of the state is the index."""

DEFAULT_STATUSES: Final = frozenset({502, 503, 504})
"""What a proxy or a server answers that cannot serve at all. A 500 may be about one request, a 429
about its sender."""

_LEAST_WAIT_S: Final = 1


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """When a breaker opens, and for how long.

    enabled:            an upstream whose breaker is not stays closed
    consecutive_most:   failures in a row, without one success between, that open it
    failure_ratio:      share of failures (0 … 1) that opens it, of at least `requests_least`
    requests_least, window_s: requests that end within a window, which begins with a failure
    open_s:             until a probe may try whether the upstream is back
    failure_statuses:   statuses of responses that count as failures
    rest_most_s:        the longest time that a 429 can set the upstream aside; 0 never does
    """

    enabled: bool = True
    consecutive_most: int = 5
    failure_ratio: float = 0.5
    requests_least: int = 20
    window_s: float = 10.0
    open_s: float = 10.0
    failure_statuses: frozenset[int] = DEFAULT_STATUSES
    rest_most_s: float = 60.0


class Breaker:
    """See the module.

    wary:       not closed: `admits` must be asked before a request. Read for each request.
    successes:  responses that were no failure; whoever gets the head of one adds 1, also while not
                closed, and takes it back if the response breaks off
    """

    __slots__ = (
        "_failures",
        "_in_row",
        "_open_until",
        "_probe",
        "_probe_until",
        "_rest_until",
        "_seen",
        "_window_from",
        "_window_start",
        "limits",
        "successes",
        "wary",
    )

    def __init__(self, limits: BreakerLimits | None = None) -> None:
        self.limits = limits or BreakerLimits()
        self.wary = False
        self.successes = 0
        self._in_row = 0
        self._failures = 0
        self._seen = 0
        """The successes at the last failure."""
        self._window_start = -math.inf
        self._window_from = 0
        """The successes at the window's start."""
        self._open_until = 0.0
        self._probe = 0
        """The number of the last probe."""
        self._probe_until = 0.0
        """When another probe may follow it; 0 while the breaker is closed, or open without a probe."""
        self._rest_until = 0.0

    @property
    def state(self) -> BreakerState:
        """What it is now. An open one stays so until the first request that comes after its time."""
        if not self.wary:
            return "closed"
        return "half_open" if self._probe_until else "open"

    def admits(self, now: float) -> bool:
        """Whether a request may be sent now."""
        return not self.wary or now >= max(self._open_until, self._probe_until)

    def wait_s(self, now: float) -> int:
        """How long it admits nothing, in full seconds and at least one, unless a probe ends before."""
        return max(_LEAST_WAIT_S, math.ceil(max(self._open_until, self._probe_until) - now))

    def probe(self, now: float) -> int:
        """Let an admitted request through; returns its number if it is a probe, else 0.

        A probe reports its end with its number; `drop` if it ends without a result.
        """
        if not self.wary:
            return 0
        self._probe += 1
        self._probe_until = now + self.limits.open_s
        return self._probe

    def drop(self, probe: int) -> None:
        """A probe has ended without a result: the next request is one."""
        if self.wary and probe == self._probe and self._probe_until:
            self._probe_until = self._open_until

    def close(self) -> None:
        """A probe has succeeded."""
        self.successes += 1
        self.wary = False
        self._in_row = 0
        self._failures = 0
        self._window_start = -math.inf
        self._probe_until = 0.0

    def fail(self, now: float, probe: int = 0) -> bool:
        """A request has failed; whether that has opened the breaker.

        probe: its number. While the breaker is not closed, the failure of the last probe alone counts.
        """
        limits = self.limits
        if not limits.enabled:
            return False
        if self.wary:
            if not probe or probe != self._probe:
                return False
            self._open(now)
            return True
        successes = self.successes
        self._in_row = self._in_row + 1 if successes == self._seen else 1
        self._seen = successes
        if now - self._window_start > limits.window_s:
            self._window_start, self._window_from, self._failures = now, successes, 0
        self._failures += 1
        ended = self._failures + max(0, successes - self._window_from)
        share = self._failures / ended
        if self._in_row < limits.consecutive_most and not (
            ended >= limits.requests_least and share >= limits.failure_ratio
        ):
            return False
        self._open(now)
        return True

    def _open(self, now: float) -> None:
        self.wary = True
        self._open_until = now + self.limits.open_s
        self._probe_until = 0.0

    # Setting aside: a preference among several upstreams, not a state

    def rest(self, now: float, seconds: float) -> None:
        """The upstream asks for no requests for so long."""
        until = now + min(seconds, self.limits.rest_most_s)
        self._rest_until = max(self._rest_until, until)

    def rests(self, now: float) -> bool:
        """Whether another upstream should be preferred now."""
        return now < self._rest_until
