"""Payments that other systems report: paid gives a grant, a refund takes it back, a dispute freezes.

Invariants:
- a report is kept before anything is done about it, and what is known of its payment is added up
  (`domain/payments.py`): neither repeats nor the order of reports matter;
- each change of a wallet is decided in the payment's record before it is made, under an operation id of
  its own; so whoever carries on, after a crash or at the same time, makes the same change, which takes
  effect once;
- a payment that cannot go on says why (`problem`) and waits; a later report or `retry_payment` goes on.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from gateway.domain.customers import wallet_id
from gateway.domain.money import MAX_AMOUNT_NANO, format_amount
from gateway.domain.payments import Done, Payment, PaymentTerms, Seen, credits_nano, merged
from gateway.operations.adjust import AdjustRequest, adjust
from gateway.operations.backend import Backend
from gateway.operations.customer_changes import open_test_wallet
from gateway.operations.customers import find_customer, wallet_of
from gateway.operations.disputes import follow_disputes
from gateway.operations.documents import timestamp
from gateway.operations.errors import Conflict, NotFound, OutcomeUnknown
from gateway.operations.grant import GrantRequest, grant, grant_operation_id
from gateway.operations.void import void

PaymentStatus = Literal["waiting", "credited", "partly_returned", "returned", "disputed"]
_KEY_CHARS_MOST: Final = 48
"""Leaves room in an operation id for the longest customer id."""


@dataclass(frozen=True, slots=True)
class WaitingPayments:
    """Payments that wait, oldest first. cursor: for the next page; None where this is the last."""

    payments: tuple[Payment, ...]
    cursor: int | None


async def receive_payment(backend: Backend, terms: PaymentTerms, report: Seen) -> Payment:
    """Keep a report and do what follows from it.

    The same report may come again at any time. Raises OutcomeUnknown, LedgerUnavailable: then the
    sender should repeat it.
    """
    now_ms = await backend.accounts.now_ms()

    def add(before: Payment | None) -> Payment:
        if before is None:
            return Payment(report, now_ms)
        return replace(before, seen=merged(before.seen, report))

    payment_id = f"{report.source}:{report.payment_id}"
    return await _carry_out(backend, terms, await backend.accounts.payments.update(payment_id, add))


async def retry_payment(backend: Backend, terms: PaymentTerms, payment_id: str) -> Payment:
    """Carry on with a payment that waits. Raises NotFound, OutcomeUnknown, LedgerUnavailable."""
    return await _carry_out(backend, terms, await get_payment(backend, payment_id))


async def get_payment(backend: Backend, payment_id: str) -> Payment:
    """A payment by SOURCE:ID. Raises NotFound, LedgerUnavailable."""
    payment = await backend.accounts.payments.read(payment_id)
    if payment is None:
        raise NotFound(f"no report of a payment {payment_id} has come; ids are SOURCE:ID")
    return payment


async def waiting_payments(backend: Backend, cursor: int = 0, limit: int = 100) -> WaitingPayments:
    """Payments with a problem. Raises LedgerUnavailable."""
    page = await backend.accounts.payments.waiting(offset=cursor, limit=limit)
    return WaitingPayments(page.payments, cursor + limit if page.more else None)


def payment_status(payment: Payment) -> PaymentStatus:
    """The one word for where a payment is."""
    done = payment.done
    if done.problem is not None or done.grant_no is None:
        return "waiting"
    if any(each.state == "open" for each in payment.seen.disputes.values()):
        return "disputed"
    if done.taken_nano == 0:
        return "credited"
    return "returned" if done.taken_nano == done.credited_nano else "partly_returned"


def payment_document(payment: Payment) -> dict[str, Any]:
    """A payment as a JSON document."""
    seen, done = payment.seen, payment.done
    credited_nano = None if done.grant_no is None else done.credited_nano
    return {
        "id": payment.id,
        "source": seen.source,
        "payment_id": seen.payment_id,
        "status": payment_status(payment),
        "problem": done.problem,
        "livemode": seen.livemode,
        "customer_id": done.account_id,
        "grant": done.grant_no,
        "credited": None if credited_nano is None else format_amount(credited_nano),
        "taken_back": format_amount(done.taken_nano),
        "currency": seen.paid.currency if seen.paid else None,
        "disputes": {name: each.state for name, each in seen.disputes.items()},
        "seen_at": timestamp(payment.seen_at_ms),
    }


async def _carry_out(backend: Backend, terms: PaymentTerms, payment: Payment) -> Payment:
    problem = None
    try:
        payment = await _take_back(backend, await _credit(backend, terms, payment))
    except OutcomeUnknown:
        raise
    except (NotFound, Conflict) as error:
        problem = str(error)
    payment = await get_payment(backend, payment.id)
    try:
        # A dispute freezes also where the grant cannot be made.
        payment = await follow_disputes(backend, payment)
    except (NotFound, Conflict) as error:
        problem = problem or str(error)
    return await _note(backend, payment, lambda done: replace(done, problem=problem))


async def _credit(backend: Backend, terms: PaymentTerms, payment: Payment) -> Payment:
    """Make the grant, unless it is made. Raises NotFound, Conflict where that is not possible yet."""
    if payment.done.grant_no is not None:
        return payment
    if payment.done.account_id is None:
        account_id = await _account_of(backend, terms, payment.seen)
        credited_nano = _bought_nano(terms, payment.seen)

        def fix(done: Done) -> Done:
            if done.account_id is not None:
                return done
            return replace(done, account_id=account_id, credited_nano=credited_nano)

        payment = await _note(backend, payment, fix)
    account_id, credited_nano = _fixed(payment)
    if credited_nano == 0:
        return await _note(backend, payment, lambda done: replace(done, grant_no=0))
    made = await grant(
        backend,
        GrantRequest(
            account_id,
            _key(payment),
            credited_nano,
            name=f"{payment.seen.source} {payment.seen.payment_id}",
            reason=f"{payment.seen.source} payment {payment.seen.payment_id}",
        ),
    )
    return await _note(backend, payment, lambda done: replace(done, grant_no=made.grant_no))


async def _take_back(backend: Backend, payment: Payment) -> Payment:
    """Bring what was taken back into line with what the merchant has returned, step by step."""
    while True:
        done = payment.done
        account_id, credited_nano = _fixed(payment)
        owed_nano = payment.owed_nano()
        if done.step_nano:
            payment = await _step(backend, payment)
        elif owed_nano == done.taken_nano:
            return payment
        elif owed_nano == credited_nano and done.taken_nano == 0 and not done.void_tried:
            # Taken from its own grant, a returned payment leaves other grants, such as promotional
            # ones with an expiry, as they are. What was spent of it is taken by the next step.
            voided_nano = await _void(backend, payment, account_id)

            def voided(done: Done, nano: int = voided_nano) -> Done:
                return (
                    done
                    if done.void_tried
                    else replace(done, taken_nano=done.taken_nano + nano, void_tried=True)
                )

            payment = await _note(backend, payment, voided)
        else:
            payment = await _note(backend, payment, _next_step(payment))


async def _void(backend: Backend, payment: Payment, account_id: str) -> int:
    """Void the grant if no running request holds a part of it; returns what that took, in nano-credits.

    What is held would be forfeited when it comes back, and be taken a second time by the next step.
    """
    grant_no = payment.done.grant_no
    assert grant_no is not None, "taken back after it was credited"
    wallet = await wallet_of(backend, account_id)
    found = [each for each in wallet.grants if each.no == grant_no]
    if found and found[0].held_nano:
        return 0
    reason = f"{payment.seen.source} payment {payment.seen.payment_id} returned"
    try:
        done = await void(backend, account_id, grant_no, reason)
    except Conflict:
        return 0  # nothing is left of it
    return done.voided_nano + done.held_nano


def _next_step(payment: Payment) -> Callable[[Done], Done]:
    """Decide on the next take-back, or on giving back after a refund that failed."""
    seen_owed_nano, seen_no = payment.owed_nano(), payment.done.step_no

    def decide(done: Done) -> Done:
        if done.step_nano or done.step_no != seen_no:
            return done  # somebody else has decided meanwhile
        return replace(done, step_no=seen_no + 1, step_nano=seen_owed_nano - done.taken_nano)

    return decide


async def _step(backend: Backend, payment: Payment) -> Payment:
    """Make the take-back that is decided."""
    account_id, _ = _fixed(payment)
    seen, done = payment.seen, payment.done
    what = "returned" if done.step_nano > 0 else "kept after all"
    await adjust(
        backend,
        AdjustRequest(
            account_id,
            f"{_key(payment)}:{done.step_no}",
            -done.step_nano,
            f"{seen.source} payment {seen.payment_id} {what}",
            corrects=grant_operation_id(account_id, _key(payment)),
        ),
    )

    def made(now: Done) -> Done:
        if now.step_no != done.step_no or not now.step_nano:
            return now
        return replace(now, taken_nano=now.taken_nano + now.step_nano, step_nano=0)

    return await _note(backend, payment, made)


async def _account_of(backend: Backend, terms: PaymentTerms, seen: Seen) -> str:
    """The wallet that a payment is for. Raises NotFound, Conflict."""
    if not seen.named:
        raise NotFound("no report of this payment names a customer")
    best = seen.named[0]
    customer_id: str | None = best.id
    if best.system is not None:
        customer_id = await _by_external_id(backend, best.system, best.id)
    if customer_id is None:
        raise NotFound(f"no customer has the external id {best.system}:{best.id}")
    await find_customer(backend, customer_id)
    if seen.livemode or terms.test_to_live:
        account_id = wallet_id(customer_id, "live")
    else:
        account_id = wallet_id(customer_id, "test")
        await open_test_wallet(backend, customer_id)
    await wallet_of(backend, account_id)
    return account_id


def _bought_nano(terms: PaymentTerms, seen: Seen) -> int:
    """What a payment buys. Raises Conflict."""
    if seen.paid is None:
        raise Conflict("no report says yet that this payment is paid")
    bought_nano = credits_nano(seen.paid, terms.rates)
    if bought_nano is None:
        raise Conflict(
            f"there is no rate for {seen.paid.currency}: add it to the source's `credits_per_unit`"
        )
    if bought_nano > MAX_AMOUNT_NANO:
        raise Conflict(f"{format_amount(bought_nano)} credits are more than a wallet takes")
    return bought_nano


async def _by_external_id(backend: Backend, system: str, external_id: str) -> str | None:
    found = await backend.accounts.customers.find_external(system, external_id)
    return None if found is None else found.customer_id


async def _note(backend: Backend, payment: Payment, change: Callable[[Done], Done]) -> Payment:
    def changed(before: Payment | None) -> Payment:
        now = before or payment
        return replace(now, done=change(now.done))

    return await backend.accounts.payments.update(payment.id, changed)


def _fixed(payment: Payment) -> tuple[str, int]:
    account_id, credited_nano = payment.done.account_id, payment.done.credited_nano
    assert account_id is not None, "found before"
    assert credited_nano is not None, "fixed together with the wallet"
    return account_id, credited_nano


def _key(payment: Payment) -> str:
    """The idempotency key of its grant."""
    if len(payment.id) <= _KEY_CHARS_MOST:
        return payment.id
    return hashlib.sha256(payment.id.encode()).hexdigest()[:_KEY_CHARS_MOST]
