"""Latencies in HDR histograms: every value kept to three digits, from a microsecond to an hour.

Counting happens in a dictionary by the histogram's own bucket (`record_value` of the library is
too slow for every frame of every stream); files hold the library's encoding, which every
HdrHistogram tool reads.

Invariants: a bucket here is a bucket there: what is encoded and decoded gives the same percentiles.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from hdrh.histogram import HdrHistogram

DIGITS: Final = 3
MOST_US: Final = 3_600_000_000
_SUB_BUCKET_BITS: Final = 11  # 2,048 sub-buckets keep three digits


class Histogram:
    """Counts of microseconds; adds up over processes."""

    __slots__ = ("_counts",)

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self._counts = Counter(dict(counts))

    def add_s(self, seconds: float, times: int = 1) -> None:
        """Count a duration; below a microsecond counts as one, above an hour as an hour."""
        value = min(max(int(seconds * 1e6), 1), MOST_US)
        shift = max(0, value.bit_length() - _SUB_BUCKET_BITS)
        self._counts[value >> shift << shift] += times

    def add(self, other: "Histogram") -> None:
        """Count all that the other has counted."""
        self._counts.update(other._counts)

    @property
    def count(self) -> int:
        """How many values."""
        return self._counts.total()

    def percentile_ms(self, percent: float) -> float | None:
        """The least value, to three digits, that this share of the values does not exceed."""
        [found] = self.percentiles_ms([percent])
        return found

    def percentiles_ms(self, percents: Iterable[float]) -> list[float | None]:
        """Several at once, in the order given; None when nothing was counted."""
        wanted = list(percents)
        total = self.count
        if not total:
            return [None] * len(wanted)
        found: dict[float, float] = {}
        rest = sorted(set(wanted))
        seen = 0
        for value in sorted(self._counts):
            seen += self._counts[value]
            while rest and seen >= max(1, int(rest[0] / 100 * total + 0.5)):
                found[rest.pop(0)] = _highest_of(value) / 1e3
        return [found[percent] for percent in wanted]

    def mean_ms(self) -> float | None:
        """The mean of the buckets' middles."""
        total = self.count
        if not total:
            return None
        summed = sum((v + _highest_of(v)) / 2 * n for v, n in self._counts.items())
        return summed / total / 1e3

    def most_ms(self) -> float | None:
        """The largest value."""
        return _highest_of(max(self._counts)) / 1e3 if self._counts else None

    def encoded(self) -> str:
        """As an HdrHistogram's compressed V2 encoding (base64), in microseconds."""
        written = HdrHistogram(1, MOST_US, DIGITS)
        for value, times in self._counts.items():
            written.record_value(value, times)
        return bytes(written.encode()).decode()

    @classmethod
    def decoded(cls, text: str) -> "Histogram":
        """What `encoded` wrote. Raises ValueError for anything else."""
        try:
            read = HdrHistogram.decode(text)
        except Exception as error:  # the library raises many kinds for a text that is not its own
            raise ValueError("not an encoded HdrHistogram") from error
        items = (item for item in read.get_recorded_iterator() if item.count_at_value_iterated_to)
        found = cls()
        for item in items:
            value = read.get_lowest_equivalent_value(item.value_iterated_to)
            found._counts[value] += item.count_at_value_iterated_to
        return found


def _highest_of(value: int) -> int:
    """The last microsecond of the bucket that begins here."""
    return value + (1 << max(0, value.bit_length() - _SUB_BUCKET_BITS)) - 1
