"""What is known of a payment does not depend on the order or repetition of reports."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.payments import (
    CREDITS,
    Dispute,
    DisputeState,
    Done,
    Money,
    Named,
    Payment,
    Refund,
    Seen,
    credits_nano,
    decimals,
    merged,
)
from gateway.ledger.codec.payment_records import pack_payment, read_payment

EMPTY = Seen("stripe", "pi_1")
amounts = st.integers(1, 1000)


@st.composite
def histories(draw: st.DrawFn) -> list[Seen]:
    """Reports of one payment that do not contradict each other: each refund and dispute has one amount
    and ends in one way."""
    reports = [Seen("stripe", "pi_1", named=(Named("acme"),), paid=Money(1000, "usd"))]
    reports.append(Seen("stripe", "pi_1", named=(Named("cus_1", "stripe"),)))
    for number in range(draw(st.integers(0, 3))):
        minor = draw(amounts)
        reports.append(Seen("stripe", "pi_1", refunds={f"re_{number}": Refund(minor)}))
        if draw(st.booleans()):
            failed = {f"re_{number}": Refund(minor, failed=True)}
            reports.append(Seen("stripe", "pi_1", refunds=failed))
    for number in range(draw(st.integers(0, 2))):
        minor = draw(amounts)
        ends: tuple[DisputeState, ...] = ("open", "won", "lost")
        for state in (ends[0], draw(st.sampled_from(ends))):
            disputes = {f"dp_{number}": Dispute(minor, state)}
            reports.append(Seen("stripe", "pi_1", disputes=disputes))
    reports += [Seen("stripe", "pi_1", refunded_minor=minor) for minor in draw(st.lists(amounts))]
    return reports


def added_up(reports: list[Seen]) -> Seen:
    known = EMPTY
    for report in reports:
        known = merged(known, report)
    return known


@given(histories(), st.randoms())
def test_order_and_repetition_do_not_matter(reports: list[Seen], chance: random.Random) -> None:
    other = [*reports, *chance.choices(reports, k=3)]
    chance.shuffle(other)
    assert added_up(other) == added_up(reports)
    assert added_up(other).named == (Named("acme"), Named("cus_1", "stripe"))


@given(histories())
def test_the_record_reads_back_as_it_was_written(reports: list[Seen]) -> None:
    done = Done("acme", 5, 1, 2, 3, -4, True, {"dp_0": "won"}, "why")
    payment = Payment(added_up(reports), 1_700_000_000_000, done)
    assert read_payment(pack_payment(payment)) == payment


@given(histories(), st.integers(1, 9_000_000_000_000_000))
def test_never_more_is_owed_than_was_credited(reports: list[Seen], credited_nano: int) -> None:
    payment = Payment(added_up(reports), 0, Done("acme", credited_nano))
    assert 0 <= payment.owed_nano() <= credited_nano
    if payment.seen.returned_minor() >= 1000:
        assert payment.owed_nano() == credited_nano


def test_the_sum_of_refunds_and_their_list_are_the_same_money() -> None:
    listed = merged(EMPTY, Seen("stripe", "pi_1", refunds={"re_1": Refund(300)}))
    assert merged(listed, Seen("stripe", "pi_1", refunded_minor=300)).returned_minor() == 300
    assert merged(listed, Seen("stripe", "pi_1", refunded_minor=500)).returned_minor() == 500
    failed = merged(listed, Seen("stripe", "pi_1", refunds={"re_1": Refund(300, failed=True)}))
    assert merged(failed, Seen("stripe", "pi_1", refunded_minor=500)).returned_minor() == 200


def test_what_it_was_paid_with_never_changes() -> None:
    first = merged(EMPTY, Seen("stripe", "pi_1", paid=Money(1000, "usd")))
    assert merged(first, Seen("stripe", "pi_1", paid=Money(900, "usd"))).paid == Money(1000, "usd")


@pytest.mark.parametrize(
    ("minor", "currency", "nano"),
    [
        (1, "usd", 12_000_000),
        (1999, "usd", 23_988_000_000),
        (500, "jpy", 5_000_000_000),
        (1999, "kwd", 1_999_000_000),
        (7, CREDITS, 7),
        (100, "eur", None),
    ],
)
def test_amounts_are_exact(minor: int, currency: str, nano: int | None) -> None:
    rates = {"usd": 1_200_000_000, "jpy": 10_000_000, "kwd": 1_000_000_000}
    assert credits_nano(Money(minor, currency), rates) == nano


def test_currencies_have_the_decimals_that_stripe_documents() -> None:
    assert [decimals(each) for each in ("usd", "jpy", "kwd", "isk", "ugx")] == [2, 0, 3, 2, 2]
