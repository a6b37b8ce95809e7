"""What Stripe's events do to wallets: each once, in whatever order and however often they come."""

import asyncio
import itertools
from typing import Any

import pytest

from gateway.domain.events import Event
from gateway.operations.adjust import AdjustRequest, adjust
from gateway.operations.customer_changes import NewCustomer, create_customer
from tests.support.console import Console, Serve
from tests.support.outbox_entries import read_entries
from tests.support.webhooks import (
    PAYMENTS,
    Stripe,
    charge,
    dispute,
    intent,
    refund,
    session,
    wallet,
)

PAID, SESSION = "payment_intent.succeeded", "checkout.session.completed"
REFUNDED, REFUND = "charge.refunded", "refund.created"
OPENED, CLOSED = "charge.dispute.created", "charge.dispute.closed"


async def test_a_payment_becomes_a_paid_grant_of_its_customer(
    paying: Console, stripe: Stripe
) -> None:
    assert await stripe.status(PAID, intent("pi_1", 2050)) == "credited"
    assert await wallet(paying) == ("30.5", "active")
    grants = (await paying.client.get("/api/v1/grants", params={"customer_id": "acme"})).json()
    made = grants["data"][-1]
    assert (made["category"], made["name"], made["remaining"]) == ("paid", "stripe pi_1", "20.5")
    shown = (await paying.client.get("/api/v1/payments/stripe:pi_1")).json()
    assert (shown["credited"], shown["customer_id"], shown["problem"]) == ("20.5", "acme", None)


async def test_several_events_of_one_payment_are_one_grant(paying: Console, stripe: Stripe) -> None:
    invoice = {**intent("in_1", 0), "payment_intent": "pi_1", "amount_paid": 2000}
    new_invoice = {
        **intent("in_1", 0),
        "amount_paid": 2000,
        "payments": {"data": [{"status": "paid", "payment": {"payment_intent": "pi_1"}}]},
    }
    paid = {
        "id": "inpay_1",
        "amount_paid": 2000,
        "currency": "usd",
        "status": "paid",
        "payment": {"type": "payment_intent", "payment_intent": "pi_1"},
    }
    for kind, subject in [
        (SESSION, session("pi_1", 2000)),
        (PAID, intent("pi_1", 2000)),
        ("invoice.paid", invoice),
        ("invoice.payment_succeeded", new_invoice),
        ("invoice_payment.paid", paid),
        (SESSION, session("pi_1", 2000)),
    ]:
        assert await stripe.status(kind, subject) == "credited"
    assert await wallet(paying) == ("30", "active")


async def test_many_deliveries_at_once_are_one_grant(paying: Console, stripe: Stripe) -> None:
    sent = [stripe.send(PAID, intent("pi_1", 2000)) for _ in range(10)]
    sent += [stripe.send(REFUNDED, charge("pi_1", 2000, 500)) for _ in range(10)]
    sent += [stripe.send(OPENED, dispute("pi_1", "dp_1", 2000, "needs_response")) for _ in range(5)]
    for answer in await asyncio.gather(*sent):
        assert answer.status_code == 200
    assert await wallet(paying) == ("25", "frozen")
    shown = (await paying.client.get("/api/v1/payments/stripe:pi_1")).json()
    assert (shown["problem"], shown["taken_back"]) == (None, "5")


async def test_the_order_of_events_does_not_matter(paying: Console, stripe: Stripe) -> None:
    orders = list(itertools.permutations(range(4)))
    for number, order in enumerate(orders):
        name = f"pi_{number}"
        events = [
            (PAID, intent(name, 2000)),
            (REFUND, refund(name, "re_1", 500)),
            (REFUNDED, charge(name, 2000, 500)),
            (CLOSED, dispute(name, f"dp_{number}", 700, "lost")),
        ]
        for each in order:
            await stripe.status(*events[each])
        shown = (await paying.client.get(f"/api/v1/payments/stripe:{name}")).json()
        assert (shown["credited"], shown["taken_back"], shown["problem"]) == ("20", "12", None)
        assert await wallet(paying) == (str(10 + 8 * (number + 1)), "frozen"), order


async def test_a_refund_takes_back_its_part_and_the_rest_takes_the_rest(
    paying: Console, stripe: Stripe
) -> None:
    await stripe.status(PAID, intent("pi_1", 999))
    assert await stripe.status(REFUND, refund("pi_1", "re_1", 333)) == "partly_returned"
    assert await wallet(paying) == ("16.66", "active")
    for _ in range(2):
        assert await stripe.status(REFUNDED, charge("pi_1", 999, 999)) == "returned"
    assert await wallet(paying) == ("10", "active")


async def test_a_complete_refund_leaves_other_grants_alone(paying: Console, stripe: Stripe) -> None:
    await stripe.status(PAID, intent("pi_1", 2000, "broke"))
    sorry = {"customer_id": "broke", "amount": "3.00", "category": "promotional", "priority": 1}
    await paying.client.post("/api/v1/grants", json=sorry)
    assert await stripe.status(REFUNDED, charge("pi_1", 2000, 2000)) == "returned"
    grants = (await paying.client.get("/api/v1/grants", params={"customer_id": "broke"})).json()
    left = [(each["category"], each["remaining"]) for each in grants["data"]]
    assert left == [("promotional", "3"), ("paid", "0")]


async def test_what_was_spent_of_a_refunded_payment_is_owed(
    paying: Console, stripe: Stripe
) -> None:
    await stripe.status(PAID, intent("pi_1", 2000, "broke"))
    await adjust(paying.backend, AdjustRequest("broke", "k", -15_000_000_000, "as if spent"))
    await stripe.status(REFUNDED, charge("pi_1", 2000, 2000))
    assert (await wallet(paying, "broke"))[0] == "-15"


async def test_a_refund_that_failed_is_given_again(paying: Console, stripe: Stripe) -> None:
    await stripe.status(PAID, intent("pi_1", 2000))
    await stripe.status(REFUNDED, charge("pi_1", 2000, 500))
    await stripe.status(REFUND, refund("pi_1", "re_1", 500, "pending"))
    assert (await wallet(paying))[0] == "25"
    for _ in range(2):
        assert (
            await stripe.status("refund.failed", refund("pi_1", "re_1", 500, "failed"))
            == "credited"
        )
    await stripe.status(REFUND, refund("pi_1", "re_1", 500, "pending"))
    assert (await wallet(paying))[0] == "30"


async def test_what_the_webhook_changes_is_signed_by_it(paying: Console, stripe: Stripe) -> None:
    await stripe.status(PAID, intent("pi_1", 2000))
    await stripe.status(OPENED, dispute("pi_1", "dp_1", 2000, "needs_response"))
    read = await read_entries(paying.backend.outbox, {})
    events = [each for _, entries in read for each in entries if isinstance(each, Event)]
    signed = [each for each in events if each.facts.get("actor") == "webhook:stripe"]
    assert [each.kind for each in signed] == ["grant", "account"]
    assert "dp_1" in signed[1].facts["reason"]


async def test_a_payment_of_an_unknown_customer_waits_and_is_credited_on_retry(
    paying: Console, stripe: Stripe
) -> None:
    assert await stripe.status(PAID, intent("pi_1", 2000, "nobody")) == "waiting"
    assert await stripe.status(REFUNDED, charge("pi_1", 2000, 500)) == "waiting"
    [listed] = (await paying.client.get("/api/v1/payments/waiting")).json()["data"]
    assert listed["id"] == "stripe:pi_1"
    assert "there is no customer nobody" in listed["problem"]
    retried = await paying.client.post("/api/v1/payments/stripe:pi_1/retry")
    assert retried.json()["status"] == "waiting"


async def test_a_later_event_that_names_the_customer_goes_on(
    paying: Console, stripe: Stripe
) -> None:
    assert await stripe.status(PAID, intent("pi_1", 2000, None)) == "waiting"
    assert await stripe.status(SESSION, session("pi_1", 2000)) == "credited"
    assert await wallet(paying) == ("30", "active")
    assert (await paying.client.get("/api/v1/payments/waiting")).json()["data"] == []


async def test_a_currency_without_a_rate_waits_for_one(serve: Serve) -> None:
    async with serve(payments=PAYMENTS) as console:
        stripe = Stripe(console)
        paid = intent("pi_1", 2000, currency="eur")
        assert await stripe.status(PAID, paid) == "waiting"
        [listed] = (await console.client.get("/api/v1/payments/waiting")).json()["data"]
        assert "no rate for eur" in listed["problem"]


async def test_amounts_follow_the_decimals_of_their_currency(
    paying: Console, stripe: Stripe
) -> None:
    assert await stripe.status(PAID, intent("pi_1", 500, currency="jpy")) == "credited"
    assert await wallet(paying) == ("15", "active")


async def test_test_payments_go_to_the_wallet_of_test_keys(paying: Console, stripe: Stripe) -> None:
    paid = intent("pi_1", 2000, "broke")
    assert await stripe.status(PAID, paid, livemode=False) == "credited"
    assert await wallet(paying, "broke~test") == ("20", "active")
    assert await wallet(paying, "broke") == ("0", "active")


async def test_test_payments_go_to_the_live_wallet_if_that_is_set(serve: Serve) -> None:
    section = {**PAYMENTS["stripe"], "test_payments": "live"}
    async with serve(payments={"stripe": section}) as console:
        await Stripe(console).status(PAID, intent("pi_1", 2000), livemode=False)
        assert await wallet(console) == ("30", "active")


async def test_a_customer_is_found_by_its_external_id(paying: Console, stripe: Stripe) -> None:
    paid = {**intent("pi_1", 2000, None), "customer": "cus_1"}
    assert await stripe.status(PAID, paid) == "waiting"
    new = NewCustomer("globex", external_ids={"stripe": "cus_1"})
    await create_customer(paying.backend, new)
    retried = await paying.client.post("/api/v1/payments/stripe:pi_1/retry")
    assert retried.json()["status"] == "credited"
    assert await wallet(paying, "globex") == ("20", "active")


async def test_a_customer_that_who_pays_can_choose_is_not_taken(
    paying: Console, stripe: Stripe
) -> None:
    chosen = {**session("pi_1", 2000, None), "client_reference_id": "acme"}
    assert await stripe.status(SESSION, chosen) == "waiting"


async def test_a_client_reference_is_taken_where_the_configuration_says_so(serve: Serve) -> None:
    section = {**PAYMENTS["stripe"], "customer_from": ["client_reference_id"]}
    async with serve(payments={"stripe": section}) as console:
        chosen = {**session("pi_1", 2000, "broke"), "client_reference_id": "acme"}
        await Stripe(console).status(SESSION, chosen)
        assert await wallet(console) == ("30", "active")


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("customer.created", {"id": "cus_1"}),
        (SESSION, {**session("pi_1", 2000), "payment_status": "unpaid"}),
        (SESSION, {**session("pi_1", 2000), "payment_intent": None}),
        ("invoice.paid", {**intent("in_1", 0), "amount_paid": 2000}),
    ],
)
async def test_an_event_that_reports_no_payment_is_taken_and_ignored(
    paying: Console, stripe: Stripe, kind: str, subject: dict[str, Any]
) -> None:
    assert await stripe.status(kind, subject) == "ignored"
    assert await wallet(paying) == ("10", "active")


@pytest.mark.parametrize(
    "change",
    [
        {"amount_received": "2000"},
        {"amount_received": -1},
        {"amount_received": True},
        {"amount_received": 2**60},
        {"currency": None},
        {"id": None},
        {"id": "a b"},
        {"metadata": []},
    ],
)
async def test_a_signed_event_that_is_malformed_is_refused(
    paying: Console, stripe: Stripe, change: dict[str, Any]
) -> None:
    answer = await stripe.send(PAID, {**intent("pi_1", 2000), **change})
    expected = (200, None) if change == {"metadata": []} else (400, "body_malformed")
    said = answer.json().get("error", {}).get("code")
    assert (answer.status_code, said) == expected
