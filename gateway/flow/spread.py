"""Several upstreams of one model: which one the next request goes to.

Smooth weighted round robin, as nginx does it: each choice adds every upstream's weight to its credit,
takes the one with the most, and subtracts the sum of the weights from it. Over any run of choices the
shares are right, and an upstream's turns are not bunched. Each worker counts for itself.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gateway.dialects.base import ForwardOptions
from gateway.flow.headers import Forwarding
from gateway.http.interface import Upstream


@dataclass(frozen=True, slots=True)
class Target:
    """One upstream of a model, with what is particular to requests that it gets.

    weight:            its share; 0: only when no upstream with a weight admits the request
    failover_statuses: statuses by which it says that it has not processed the request
    """

    upstream: Upstream
    forwarding: Forwarding
    forward: ForwardOptions
    weight: int = 1
    failover_statuses: frozenset[int] = frozenset()


class Spread:
    """The upstreams of a model, at least two, and whose turn it is."""

    __slots__ = ("_credits", "targets")

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        self._credits = [0] * len(self.targets)

    def choose(self, now: float, tried: Collection[int] = ()) -> int | None:
        """The place of the upstream for the next request; None when none admits it.

        An upstream that rests after a 429 is chosen only if all others do, or admit nothing.
        now: of the monotonic clock, in seconds. tried: places that this request has been at
        """
        admitted = [
            place
            for place, target in enumerate(self.targets)
            if place not in tried and target.upstream.breaker.admits(now)
        ]
        awake = [place for place in admitted if not self.targets[place].upstream.breaker.rests(now)]
        return self._by_weight(awake or admitted)

    def wait_s(self, now: float) -> int:
        """How long none of them admits anything, in seconds."""
        return min(target.upstream.breaker.wait_s(now) for target in self.targets)

    def _by_weight(self, places: Sequence[int]) -> int | None:
        weighted = [place for place in places if self.targets[place].weight]
        if not weighted:
            return places[0] if places else None
        total = 0
        for place in weighted:
            weight = self.targets[place].weight
            self._credits[place] += weight
            total += weight
        chosen = max(weighted, key=self._credits.__getitem__)
        self._credits[chosen] -= total
        return chosen
