"""How much output an answer is expected to have: a quantile of those that have ended.

A policy, never a bound: it says what a stream holds at first, and the hold grows for those that
need more. Each worker learns for itself, for each customer and model; of a customer who is not
known well enough, from all customers of the model. Old answers fade: all counts are halved when
there are many.
"""

import math
from array import array
from collections import OrderedDict
from functools import lru_cache
from typing import Final

from gateway.flow.plan import Plan

STEPS_PER_DOUBLING: Final = 8
"""A quantile is rounded up to the end of its bucket: by at most 9 %."""
_BUCKETS: Final = STEPS_PER_DOUBLING * 24 + 1
MOST_SEEN: Final = 1024
"""Answers after which all counts are halved."""
ENOUGH: Final = 50
"""Answers from which on a quantile is believed. The first to end of many that begin together are the
short ones: a smaller number would take them for all."""
MOST_PAIRS: Final = 10_000
"""Pairs of customer and model; the one that was met first is forgotten."""

_EVERYBODY: Final = ""


class ExpectedOutput:
    """What one worker has learned."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], _Histogram] = OrderedDict()

    def note(self, customer_id: str, model: str, output: int) -> None:
        """A response has ended with so many output tokens."""
        self.outputs_of(customer_id, model).note(output)

    def outputs_of(self, customer_id: str, model: str) -> "Outputs":
        """Where such responses are counted; may be kept, for many of them."""
        return Outputs(self, customer_id, model)

    def histogram(self, customer_id: str, model: str) -> "_Histogram":
        """The counts of such a pair, as long as it is not forgotten."""
        pair = (customer_id, model)
        histogram = self._seen.get(pair)
        if histogram is None:
            if len(self._seen) >= MOST_PAIRS:
                _, forgotten = self._seen.popitem(last=False)
                forgotten.total = MOST_SEEN  # whoever keeps it looks for another at the next note
            histogram = self._seen[pair] = _Histogram()
        return histogram

    def at_first(self, plan: Plan) -> int | None:
        """What a stream is expected to need, where the policy holds that at first and enough
        responses were seen."""
        share = plan.policy.expected_share
        if share is None:
            return None
        return self.output(plan.account.customer_id, plan.model.name, share)

    def output(self, customer_id: str, model: str, share: float) -> int | None:
        """Tokens that so great a share of answers did not pass; None when too few were seen."""
        for pair in ((customer_id, model), (_EVERYBODY, model)):
            histogram = self._seen.get(pair)
            if histogram is not None and histogram.total >= ENOUGH:
                return histogram.quantile(share)
        return None


@lru_cache(4096)
def _bucket(output: int) -> int:
    steps = 0 if output <= 1 else math.ceil(math.log2(output) * STEPS_PER_DOUBLING - 1e-9)
    return min(steps, _BUCKETS - 1)


class _Histogram:
    """Counts by the logarithm of the output."""

    __slots__ = ("_known", "counts", "total")

    def __init__(self) -> None:
        self.counts = array("H", bytes(2 * _BUCKETS))
        self.total = 0
        self._known: tuple[int, float, int] | None = None
        """The quantile of a share when there were so many; believed until there are 3 % more."""

    def fade(self) -> None:
        """Halve the counts where there are many, so that what was seen long ago fades."""
        if self.total < MOST_SEEN:
            return
        self.counts = array("H", [count // 2 for count in self.counts])
        self.total = sum(self.counts)
        self._known = None

    def quantile(self, share: float) -> int:
        known = self._known
        if known is not None and known[1] == share and self.total - known[0] <= known[0] >> 5:
            return known[2]
        wanted, bucket = math.ceil(share * self.total), -1
        while wanted > 0:
            bucket += 1
            wanted -= self.counts[bucket]
        output = math.ceil(2 ** (bucket / STEPS_PER_DOUBLING))
        self._known = (self.total, share, output)
        return output


class Outputs:
    """Counts the responses of one model to one customer, and with those to all customers."""

    __slots__ = ("_all", "_learner", "_own", "_pair")

    def __init__(self, learner: ExpectedOutput, customer_id: str, model: str) -> None:
        self._learner = learner
        self._pair = (customer_id, model)
        self._find()

    def note(self, output: int) -> None:
        """A response has ended with so many output tokens."""
        bucket = _bucket(output)
        # Every request comes here: hence without a call for each of the two.
        own, of_all = self._own, self._all
        own.counts[bucket] += 1
        own.total += 1
        of_all.counts[bucket] += 1
        of_all.total += 1
        if of_all.total >= MOST_SEEN or own.total >= MOST_SEEN:
            self._find()
            self._own.fade()
            self._all.fade()

    def _find(self) -> None:
        customer_id, model = self._pair
        self._own = self._learner.histogram(customer_id, model)
        self._all = self._learner.histogram(_EVERYBODY, model)
