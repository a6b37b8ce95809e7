"""Pack what operators ask of the ledger: the terms of accounts, grants, allowances and corrections.

The order and types of the arguments are those of the `ARGV` lines of the scripts' headers. Amounts
are nano-credits, times Unix ms by the ledger's clock.
"""

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Final, Literal, cast, get_args

from msgpack import packb

from gateway.domain.limits import Window
from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.domain.pricing import PERIOD_NUMBERS
from gateway.ledger.codec.calls import Times

Category = Literal["paid", "promotional", "allowance", "adjustment"]
CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
CATEGORY_NUMBERS: Final = {name: number for number, name in enumerate(CATEGORIES, 1)}
Status = Literal["active", "frozen", "killed"]
_STATUSES: Final[tuple[Status, ...]] = get_args(Status)

DEFAULT_PRIORITY: Final = 100

_ACCOUNT: Final = struct.Struct("<dddddBBB")
_TIMES: Final = struct.Struct("<ddd")
_GRANT: Final = struct.Struct("<BBIddd")
_ADJUST: Final = struct.Struct("<BBd")
_ALLOWANCE: Final = struct.Struct("<IBBBBIdd")
_PLACE: Final = struct.Struct("<dd")
_NUMBER: Final = struct.Struct("<d")
_REFUND: Final = struct.Struct("<ddH")
_PAID: Final = struct.Struct("<ddBBId")

pack_facts: Final = cast("Callable[[Any], bytes]", packb)
"""Facts of an entry, as msgpack."""


@dataclass(frozen=True, slots=True)
class AccountTerms:
    """Terms of an account. account_rev must be higher than the ledger's.

    status:      killed is frozen, and running responses are cut at their next extend
    billing_day: 1 … 31, when months of allowances and tiers begin; a month under way keeps its end
    """

    account_rev: int
    credit_limit_nano: int = 0
    status: Status = "active"
    billing_day: int = 1

    def facts(self) -> dict[str, Any]:
        """What the event says of them."""
        return {
            "credit_limit_nano": self.credit_limit_nano,
            "frozen": self.status != "active",
            "killed": self.status == "killed",
            "billing_day": self.billing_day,
        }


@dataclass(frozen=True, slots=True)
class NewGrant:
    """Terms of a grant to make.

    priority:        0 … 255, lower burns first
    effective_at_ms: 0 is no condition
    expires_at_ms:   0 is never
    """

    amount_nano: int
    category: Category = "paid"
    priority: int = DEFAULT_PRIORITY
    scope_bits: int = 0
    effective_at_ms: int = 0
    expires_at_ms: int = 0

    def packed(self) -> bytes:
        """As the ledger keeps them: a repeated operation must have the same ones. Raises ValueError."""
        check_amount(self.amount_nano)
        return _GRANT.pack(
            CATEGORY_NUMBERS[self.category],
            self.priority,
            self.scope_bits,
            self.amount_nano,
            self.effective_at_ms,
            self.expires_at_ms,
        )

    def facts(self) -> dict[str, Any]:
        """What the event says of them."""
        return {
            "category": self.category,
            "priority": self.priority,
            "scope_bits": self.scope_bits,
            "effective_at_ms": self.effective_at_ms,
            "expires_at_ms": self.expires_at_ms,
        }


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A signed correction of a wallet.

    corrects: id of the event that it corrects, if it corrects one
    priority: of the grant that a credit makes
    """

    amount_nano: int
    reason: str
    corrects: str | None = None
    priority: int = DEFAULT_PRIORITY

    def packed(self) -> bytes:
        """As the ledger keeps it. Raises ValueError."""
        amount = abs(self.amount_nano)
        check_amount(amount)
        return _ADJUST.pack(self.amount_nano < 0, self.priority, amount)

    def facts(self) -> dict[str, Any]:
        """What the event says of it."""
        return {"corrects": self.corrects, "reason": self.reason, "priority": self.priority}


@dataclass(frozen=True, slots=True)
class NewAllowance:
    """Terms of a grant that recurs each period; amount 0 ends it.

    name:              permanent: never reuse one for another allowance
    day:               of the month on which a monthly period begins; 0 is the billing day
    rollover_max_nano: the most that is carried over into the next period
    """

    name: str
    amount_nano: int
    period: Window = "month"
    rollover_max_nano: int = 0
    category: Category = "allowance"
    priority: int = DEFAULT_PRIORITY
    scope_bits: int = 0
    day: int = 0

    def packed(self) -> bytes:
        """As the script takes them. Raises ValueError."""
        check_amount(self.amount_nano)
        check_amount(self.rollover_max_nano)
        return _ALLOWANCE.pack(
            allowance_id(self.name),
            PERIOD_NUMBERS[self.period],
            CATEGORY_NUMBERS[self.category],
            self.priority,
            self.day,
            self.scope_bits,
            self.amount_nano,
            self.rollover_max_nano,
        )

    def facts(self) -> dict[str, Any]:
        """What the event says of them."""
        return {
            "name": self.name,
            "period": self.period,
            "category": self.category,
            "priority": self.priority,
            "scope_bits": self.scope_bits,
            "day": self.day,
            "amount_nano": self.amount_nano,
            "rollover_max_nano": self.rollover_max_nano,
        }


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """Terms that an existing grant was made with, as the ledger keeps them permanently.

    category: its number; 0 for a grant of which nothing is known
    """

    category: int
    priority: int
    scope_bits: int
    expires_at_ms: int


_UNKNOWN: Final = GrantTerms(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund of an event, or of a part of it.

    charged_nano: the event's charge, less what a late settle gave back of it
    allocations:  of the event, in its order: (grant_no, nano)
    terms:        of the grants that paid, so that one that was dropped can be opened again
    """

    event_id: str
    amount_nano: int
    charged_nano: int
    reason: str
    allocations: Sequence[tuple[int, int]]
    terms: Mapping[int, GrantTerms] = field(default_factory=dict)

    def packed(self) -> bytes:
        """As the script takes it."""
        event = self.event_id.encode()
        paid = [
            _PAID.pack(no, nano, *astuple(self.terms.get(no, _UNKNOWN)))
            for no, nano in self.allocations
        ]
        head = _REFUND.pack(self.charged_nano, self.amount_nano, len(event))
        return b"".join((head, event, *paid))

    def facts(self) -> dict[str, Any]:
        """What the event says of it."""
        return {"corrects": self.event_id, "reason": self.reason, "operation": "refund"}


def pack_times(times: Times) -> bytes:
    """The clock and a shard's watermark."""
    return _TIMES.pack(*times)


def pack_account(times: Times, terms: AccountTerms, *, bump: bool = False) -> bytes:
    """Terms of an account. bump: only raise its revision. Raises ValueError."""
    check_amount(terms.credit_limit_nano)
    status = _STATUSES.index(terms.status)
    return _ACCOUNT.pack(
        *times, terms.account_rev, terms.credit_limit_nano, status, terms.billing_day, bump
    )


def pack_number(number: int) -> bytes:
    """One number, such as that of a grant."""
    return _NUMBER.pack(number)


def pack_place(epoch: int, number: int) -> bytes:
    """An epoch, and a seq or a count in it."""
    return _PLACE.pack(epoch, number)


def allowance_id(name: str) -> int:
    """The permanent id of an allowance in the account record: CRC-32 of its name."""
    return zlib.crc32(name.encode())


def check_amount(nano: int) -> None:
    """Raises ValueError for an amount outside 0 … MAX_AMOUNT_NANO."""
    if not 0 <= nano <= MAX_AMOUNT_NANO:
        raise ValueError(f"an amount must be 0 … {MAX_AMOUNT_NANO} nano-credits, got {nano}")
