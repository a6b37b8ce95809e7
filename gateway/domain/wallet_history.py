"""A wallet replayed from its stored events: what each grant has left, who paid, and why it moved.

The ledger's records are not read: an event names its amount and the grants that it moved, and the events
that make grants have their terms. So any moment of the past can be rebuilt, and `balance_nano` of every
event says what the rebuilt wallet must have.

Two amounts are kept apart. The *credit* is the sum of all remainders less the overdraft; only events move
it. The *balance* leaves out grants that are not effective yet, and what running requests hold of a grant
that has expired: time alone moves it.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import orjson

from gateway.domain.delivery import Place
from gateway.domain.event_rows import EventRow
from gateway.domain.events import EventKind

CreditCategory = Literal["paid", "promotional", "allowance", "adjustment", "overdraft"]
CREDIT_CATEGORIES: Final[tuple[CreditCategory, ...]] = (
    "paid",
    "promotional",
    "allowance",
    "adjustment",
    "overdraft",
)
"""Categories of grants, and what is owed beyond them, which is negative."""
Movement = Literal["granted", "repaid", "used", "expired", "refunded", "voided", "adjusted"]
MOVEMENTS: Final[tuple[Movement, ...]] = (
    "granted",
    "repaid",
    "used",
    "expired",
    "refunded",
    "voided",
    "adjusted",
)
"""Why credit moved. `repaid`: a new grant paid off overdraft, so it is negative in the grant's category
and positive in the overdraft; it sums to 0."""

_TAKES: Final[Mapping[str, Movement]] = {
    "settle": "used",
    "expire": "used",
    "settle_late": "used",
    "expire_grant": "expired",
    "void": "voided",
}
"""Kinds whose allocations say what was taken."""
_MOVES: Final = frozenset({*_TAKES, "grant", "adjust"})
USES: Final[frozenset[EventKind]] = frozenset({"settle", "expire", "settle_late"})
RERATE_PREFIX: Final = "rerate:"


class Moved(NamedTuple):
    """One part of an event's movement: signed, as it moved the credit.

    no: of the grant; 0 for the overdraft, and for a grant of which nothing was left for its number
    """

    category: CreditCategory
    movement: Movement
    nano: int
    no: int


@dataclass(slots=True)
class PastGrant:
    """A grant at a moment. Times are Unix ms; effective_at_ms 0: at once; expires_at_ms 0: never."""

    no: int
    name: str
    category: CreditCategory
    effective_at_ms: int = 0
    expires_at_ms: int = 0
    remaining_nano: int = 0

    def active(self, at_ms: int) -> bool:
        """Whether it counts in the balance."""
        ends = self.expires_at_ms
        return self.effective_at_ms <= at_ms and (ends == 0 or at_ms < ends)


class LastEvent(NamedTuple):
    """What is remembered of the last event of a wallet. balance_nano: the ledger's, after it"""

    event_id: str
    occurred_at_ms: int
    balance_nano: int
    shard: int


class AllowanceTerms(NamedTuple):
    """What the grants of a recurring grant are called and belong to."""

    name: str
    category: CreditCategory


@dataclass(slots=True)
class WalletHistory:
    """A wallet as of the last event that was applied.

    place, last: of that event; None before the first
    """

    grants: dict[int, PastGrant] = field(default_factory=dict)
    allowances: dict[int, AllowanceTerms] = field(default_factory=dict)
    overdraft_nano: int = 0
    place: Place | None = None
    last: LastEvent | None = None

    def apply(self, row: EventRow) -> list[Moved]:
        """Move the wallet by one event, and say by what. Events come in the order of their places."""
        self.place = row.place
        self.last = LastEvent(row.event_id, row.occurred_at_ms, row.balance_nano, row.shard)
        if row.kind == "allowance":
            self._set_allowance(orjson.loads(row.facts))
        if row.allocations == "[]":
            return []
        allocations: list[tuple[int, int]] = orjson.loads(row.allocations)
        taken = _TAKES.get(row.kind)
        if taken is not None:
            moved = [self._move(no, -nano, taken) for no, nano in allocations]
            if row.kind == "void":
                self.grants[allocations[0][0]].expires_at_ms = row.occurred_at_ms
            return moved
        if row.kind == "grant":
            return list(self._granted(row, allocations))
        if row.kind == "adjust":
            movement: Movement = "refunded" if is_refund(row) else "adjusted"
            return [self._move(no, nano, movement) for no, nano in allocations]
        return []

    def difference(self, row: EventRow, moved: Iterable[Moved]) -> str | None:
        """What an event that was applied last says otherwise than this wallet; None for nothing."""
        sign = sign_of(row.kind)
        total = sum(each.nano for each in moved)
        if row.kind in _MOVES and total != sign * row.amount_nano:
            return f"{row.event_id} moved {sign * row.amount_nano} and its grants {total}"
        rebuilt = self.balance_nano(row.occurred_at_ms)
        if rebuilt != row.balance_nano:
            return f"{row.event_id} says the balance {row.balance_nano}, its events add up to {rebuilt}"
        return None

    @property
    def credit_nano(self) -> int:
        """All remainders less the overdraft: what the sum of all events' amounts must be."""
        return sum(grant.remaining_nano for grant in self.grants.values()) - self.overdraft_nano

    def balance_nano(self, at_ms: int) -> int:
        """What an event at this moment must call the balance."""
        active = (g.remaining_nano for g in self.grants.values() if g.active(at_ms))
        return sum(active) - self.overdraft_nano

    def by_category(self) -> dict[CreditCategory, int]:
        """The credit by category; it sums to `credit_nano`."""
        sums: dict[CreditCategory, int] = dict.fromkeys(CREDIT_CATEGORIES, 0)
        for grant in self.grants.values():
            sums[grant.category] += grant.remaining_nano
        sums["overdraft"] = -self.overdraft_nano
        return sums

    def _set_allowance(self, facts: Mapping[str, Any]) -> None:
        category: CreditCategory = facts.get("category", "allowance")
        self.allowances[_allowance_id(facts["name"])] = AllowanceTerms(facts["name"], category)

    def _granted(self, row: EventRow, allocations: list[tuple[int, int]]) -> Iterator[Moved]:
        facts: Mapping[str, Any] = orjson.loads(row.facts)
        if "allowance_id" in facts:
            terms = self.allowances.get(facts["allowance_id"])
            name, category = terms or AllowanceTerms("allowance", "allowance")
            starts, ends = 0, facts["period_end_ms"]
        else:
            name, category = facts.get("name") or row.event_id, facts.get("category", "paid")
            starts, ends = facts.get("effective_at_ms", 0), facts.get("expires_at_ms", 0)
        own = max((no for no, _ in allocations), default=0)
        yield Moved(category, "granted", row.amount_nano, own)
        for no, nano in allocations:
            if no:
                self.grants[no] = PastGrant(no, name, category, starts, ends, nano)
            else:
                self.overdraft_nano -= nano
                yield Moved(category, "repaid", -nano, own)
                yield Moved("overdraft", "repaid", nano, 0)

    def _move(self, no: int, nano: int, movement: Movement) -> Moved:
        if no == 0:
            self.overdraft_nano -= nano
            return Moved("overdraft", movement, nano, 0)
        grant = self.grants.get(no)
        if grant is None:  # the ledger made it to take what no other grant is named for
            grant = self.grants[no] = PastGrant(no, "correction", "adjustment")
        grant.remaining_nano += nano
        return Moved(grant.category, movement, nano, no)


def sign_of(kind: EventKind) -> int:
    """What an event's amount is multiplied by to say how it moved the credit."""
    return -1 if kind in _TAKES else 1


def is_refund(row: EventRow) -> bool:
    """Whether an event is a refund; a re-rate gives back by the same verb, and is none."""
    if row.kind != "adjust" or row.event_id.startswith(RERATE_PREFIX):
        return False
    return bool(orjson.loads(row.facts).get("operation") == "refund")


def _allowance_id(name: str) -> int:
    """As the ledger numbers recurring grants (`gateway/ledger/codec/operations.py`)."""
    return zlib.crc32(name.encode())
