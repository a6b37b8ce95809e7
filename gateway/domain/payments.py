"""Payments that other systems report: what was seen of one, and what was done about it.

Reports arrive repeatedly, out of order, and through several kinds of events. So each is merged into what
is known of its payment (`merged`), in a way that neither order nor repetition matters; what has to be
done follows from the sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

CREDITS: Final = "credits"
"""The currency of a source that reports credits; its minor unit is the nano-credit."""

_NO_DECIMALS: Final = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv"}
    | {"xaf", "xof", "xpf"}
)
_THREE_DECIMALS: Final = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})

DisputeState = Literal["open", "won", "lost"]
"""won: by the merchant, who keeps the money; an inquiry that ends without a dispute is won, too."""


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in the currency's minor unit, such as cents. currency: ISO 4217 in lower case."""

    minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Named:
    """A customer as a source names it. system: whose id it is; None for the gate's."""

    id: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Refund:
    """Money that went back. failed: it did not arrive, so the merchant has it again."""

    minor: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Dispute:
    """The payer's bank disputes a payment, or this part of it."""

    minor: int
    state: DisputeState


@dataclass(frozen=True, slots=True)
class Seen:
    """What reports say of one payment; a single report leaves most of it empty.

    livemode:       False for a payment without real money
    named:          customers that it may be for, the best name first
    paid:           None until a report says that it is paid
    refunds:        by id
    refunded_minor: all refunds together, from a source that reports the sum
    disputes:       by id
    """

    source: str
    payment_id: str
    livemode: bool = True
    named: tuple[Named, ...] = ()
    paid: Money | None = None
    refunds: Mapping[str, Refund] = field(default_factory=dict)
    refunded_minor: int = 0
    disputes: Mapping[str, Dispute] = field(default_factory=dict)

    def returned_minor(self) -> int:
        """What the merchant no longer has of it: refunds, and disputes that were lost."""
        listed = sum(refund.minor for refund in self.refunds.values() if not refund.failed)
        failed = sum(refund.minor for refund in self.refunds.values() if refund.failed)
        lost = sum(each.minor for each in self.disputes.values() if each.state == "lost")
        return max(listed, self.refunded_minor - failed) + lost


@dataclass(frozen=True, slots=True)
class Done:
    """What the ledger shows of a payment.

    account_id, credited_nano: fixed before the grant is made, so that every repeat makes the same one
    grant_no:     None until it is made
    taken_nano:   taken back, less what was given again
    step_no:      take-backs so far; step_nano: of the one under way, 0 for none
    void_tried:   taking back what is left of the grant is over
    disputes:     by id, the state that the wallet shows
    problem:      why it cannot go on; None for nothing
    """

    account_id: str | None = None
    credited_nano: int | None = None
    grant_no: int | None = None
    taken_nano: int = 0
    step_no: int = 0
    step_nano: int = 0
    void_tried: bool = False
    disputes: Mapping[str, DisputeState] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment. seen_at_ms: when its first report came, Unix ms."""

    seen: Seen
    seen_at_ms: int
    done: Done = Done()

    @property
    def id(self) -> str:
        """Unique over all sources."""
        return f"{self.seen.source}:{self.seen.payment_id}"

    def owed_nano(self) -> int:
        """What has to be taken back altogether: the returned share of what was credited."""
        paid, credited_nano = self.seen.paid, self.done.credited_nano
        if paid is None or credited_nano is None or paid.minor == 0:
            return 0
        return credited_nano * min(self.seen.returned_minor(), paid.minor) // paid.minor


@dataclass(frozen=True, slots=True)
class PaymentTerms:
    """How reports of one source become credit.

    rates:        nano-credits for one unit of each currency; a source that reports credits needs none
    test_to_live: whether payments without real money go into the live wallet, not that of test keys
    """

    rates: Mapping[str, int]
    test_to_live: bool = False


def merged(known: Seen, report: Seen) -> Seen:
    """What is known of a payment after one more report. What it was paid with never changes again."""
    refunds = dict(known.refunds)
    for refund_id, refund in report.refunds.items():
        before = refunds.get(refund_id)
        refunds[refund_id] = before if before is not None and before.failed else refund
    disputes = dict(known.disputes)
    for dispute_id, dispute in report.disputes.items():
        earlier = disputes.get(dispute_id)
        ended = earlier is not None and earlier.state != "open"
        disputes[dispute_id] = earlier if earlier is not None and ended else dispute
    named = (*known.named, *report.named)
    return replace(
        known,
        named=tuple(sorted(dict.fromkeys(named), key=lambda each: each.system is not None)),
        paid=known.paid or report.paid,
        refunds=refunds,
        refunded_minor=max(known.refunded_minor, report.refunded_minor),
        disputes=disputes,
    )


def decimals(currency: str) -> int:
    """How many decimals a currency's amounts have in reports in minor units, as Stripe has them."""
    if currency == CREDITS:
        return 9
    return 0 if currency in _NO_DECIMALS else 3 if currency in _THREE_DECIMALS else 2


def credits_nano(paid: Money, rates: Mapping[str, int]) -> int | None:
    """What a payment buys, in nano-credits; None for a currency without a rate.

    rates: nano-credits for one unit of each currency
    """
    if paid.currency == CREDITS:
        return paid.minor
    rate = rates.get(paid.currency)
    return None if rate is None else paid.minor * rate // 10 ** decimals(paid.currency)
