"""Stripe's events, as reports of payments.

A payment is known by its payment intent, which every event about it names; so the events of one
payment (checkout, intent, invoice) are one payment here. Of charges without an intent the charge's id
is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.admin.webhooks.reading import (
    id_of,
    items,
    minor,
    optional_id,
    section,
    text,
)
from gateway.domain.payments import Dispute, DisputeState, Money, Named, Refund, Seen

SOURCE: Final = "stripe"
_PAID_SESSIONS: Final = frozenset({"paid", "no_payment_required"})
_FAILED_REFUNDS: Final = frozenset({"failed", "canceled"})
_ENDED: Final[Mapping[str, DisputeState]] = {
    "won": "won",
    "lost": "lost",
    "warning_closed": "won",
    "prevented": "won",
}
METADATA: Final = "metadata."


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that reports nothing about a payment that is known by an id. why: for the log"""

    why: str


Report = Seen | Ignored
_Object = Mapping[str, Any]
_Reader = Callable[[_Object, tuple[Named, ...]], Report]


def report_of(event: _Object, customer_from: Sequence[str]) -> Report:
    """What an event says about a payment. customer_from: see the setting. Raises Malformed."""
    kind = text(event, "type")
    reader = _READERS.get(kind)
    if reader is None:
        return Ignored(f"events of the type {kind} report no payment")
    subject = section(section(event.get("data"), "data").get("object"), "data.object")
    report = reader(subject, _named(subject, customer_from))
    if isinstance(report, Ignored) or event.get("livemode") is not False:
        return report
    return Seen(
        report.source,
        report.payment_id,
        False,
        report.named,
        report.paid,
        report.refunds,
        report.refunded_minor,
        report.disputes,
    )


def _named(subject: _Object, customer_from: Sequence[str]) -> tuple[Named, ...]:
    """The customer in the first of these places that has one."""
    metadata = section(subject.get("metadata") or {}, "metadata")
    for place in customer_from:
        if place == "external_id":
            external = optional_id(subject, "customer")
            if external is not None:
                return (Named(external, SOURCE),)
            continue
        within, name = (
            (metadata, place.removeprefix(METADATA))
            if place.startswith(METADATA)
            else (subject, place)
        )
        found = optional_id(within, name)
        if found is not None:
            return (Named(found),)
    return ()


def _session(session: _Object, named: tuple[Named, ...]) -> Report:
    if session.get("payment_status") not in _PAID_SESSIONS:
        return Ignored("the checkout session is not paid yet")
    intent = optional_id(session, "payment_intent")
    if intent is None:
        return Ignored(
            "the checkout session has no payment intent: its invoice reports the payment"
        )
    return Seen(SOURCE, intent, named=named, paid=_money(session, "amount_total"))


def _intent(intent: _Object, named: tuple[Named, ...]) -> Report:
    name = "amount_received" if "amount_received" in intent else "amount"  # the former may be less
    return Seen(SOURCE, id_of(intent, "id"), named=named, paid=_money(intent, name))


def _invoice(invoice: _Object, named: tuple[Named, ...]) -> Report:
    intents = [optional_id(invoice, "payment_intent"), *map(_paid_with, _payments(invoice))]
    known = [each for each in dict.fromkeys(intents) if each is not None]
    if len(known) != 1:
        # Granted under another id it would be granted twice, since its payment intent is reported too.
        return Ignored(
            "the invoice does not name one payment intent; `payment_intent.succeeded` or"
            " `invoice_payment.paid` reports the payment"
        )
    return Seen(SOURCE, known[0], named=named, paid=_money(invoice, "amount_paid"))


def _invoice_payment(payment: _Object, named: tuple[Named, ...]) -> Report:
    intent = _paid_with(payment)
    if intent is None:
        return Ignored("the invoice was not paid with a payment intent")
    return Seen(SOURCE, intent, named=named, paid=_money(payment, "amount_paid"))


def _charge(charge: _Object, named: tuple[Named, ...]) -> Report:
    refunds = {id_of(each, "id"): _refunded(each) for each in items(charge.get("refunds"))}
    return Seen(
        SOURCE,
        _of_charge(charge, id_of(charge, "id")),
        named=named,
        refunds=refunds,
        refunded_minor=minor(charge, "amount_refunded"),
    )


def _refund(refund: _Object, _: tuple[Named, ...]) -> Report:
    # The metadata of a refund or dispute is its own: it names no customer.
    payment_id = _of_charge(refund, optional_id(refund, "charge"))
    return Seen(SOURCE, payment_id, refunds={id_of(refund, "id"): _refunded(refund)})


def _dispute(dispute: _Object, _: tuple[Named, ...]) -> Report:
    payment_id = _of_charge(dispute, optional_id(dispute, "charge"))
    state = _ENDED.get(text(dispute, "status"), "open")
    disputes = {id_of(dispute, "id"): Dispute(minor(dispute, "amount"), state)}
    return Seen(SOURCE, payment_id, disputes=disputes)


def _refunded(refund: _Object) -> Refund:
    return Refund(minor(refund, "amount"), refund.get("status") in _FAILED_REFUNDS)


def _of_charge(subject: _Object, charge: str | None) -> str:
    """The payment of something that names its intent, or at least its charge."""
    return optional_id(subject, "payment_intent") or charge or id_of(subject, "payment_intent")


def _payments(invoice: _Object) -> list[_Object]:
    return [each for each in items(invoice.get("payments")) if isinstance(each, dict)]


def _paid_with(payment: _Object) -> str | None:
    """The payment intent of an invoice payment that is paid."""
    if payment.get("status") not in (None, "paid"):
        return None
    return optional_id(section(payment.get("payment") or {}, "payment"), "payment_intent")


def _money(subject: _Object, name: str) -> Money:
    return Money(minor(subject, name), text(subject, "currency").lower())


_READERS: Final[Mapping[str, _Reader]] = {
    "checkout.session.completed": _session,
    "checkout.session.async_payment_succeeded": _session,
    "payment_intent.succeeded": _intent,
    "invoice.paid": _invoice,
    "invoice.payment_succeeded": _invoice,
    "invoice_payment.paid": _invoice_payment,
    "charge.refunded": _charge,
    "charge.refund.updated": _refund,
    "refund.created": _refund,
    "refund.updated": _refund,
    "refund.failed": _refund,
    "charge.dispute.created": _dispute,
    "charge.dispute.updated": _dispute,
    "charge.dispute.closed": _dispute,
}
