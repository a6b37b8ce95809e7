"""Past uses, read from stored usage events: the final charge of each reservation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.domain.usage import DEFAULT_TIER, Usage

_MOMENT_DIGITS: Final = 12
_ID_CHARS: Final = 32


@dataclass(frozen=True, slots=True)
class PastUse:
    """One reservation that was charged, by its last word: an expiry and its late settle are one.

    reserved_at_ms: when the request came
    price_version:  of the price that it was charged at
    usage:          without the tier in its units' names
    charged_nano:   in all, less what a volume step credited; refunds are not taken off
    service_tier:   at whose price it was charged
    """

    customer_id: str
    model: str
    reserved_at_ms: int
    price_version: str | None
    usage: Usage
    charged_nano: int
    service_tier: str = DEFAULT_TIER


class UsageHistory(Protocol):
    """Read access to past uses in a store."""

    def past_uses(
        self, since_ms: int, until_ms: int, customer_id: str | None = None
    ) -> Iterator[PastUse]:
        """Those that came from `since_ms` on and before `until_ms`: by customer, model and
        service tier, those of each in the order in which they came."""
        ...

    def count_past_uses(self, since_ms: int, until_ms: int, customer_id: str | None = None) -> int:
        """Count them."""
        ...


def reserved_at_ms(reservation_id: str, ended_at_ms: int) -> int:
    """When a reservation was made: what its id says, which begins with that moment (48 bits of
    Unix ms in hex); of an id that does not, when it ended."""
    if len(reservation_id) == _ID_CHARS:
        try:
            moment_ms = int(reservation_id[:_MOMENT_DIGITS], 16)
        except ValueError:
            return ended_at_ms
        if 0 < moment_ms < ended_at_ms:
            return moment_ms
    return ended_at_ms
