"""Reports of other systems than Stripe, in our own form."""

from typing import Any

import pytest

from tests.support.console import Console
from tests.support.webhooks import send_report, wallet

PAID = {
    "type": "payment.paid",
    "payment_id": "p1",
    "customer_id": "acme",
    "credits": "20.000000001",
}


async def send(console: Console, **report: Any) -> str:
    answer = await send_report(console, report)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


async def test_a_payment_is_credited_refunded_and_disputed(paying: Console) -> None:
    refund = {"payment_id": "p1", "refund_id": "r1", "credits": "5"}
    dispute = {"payment_id": "p1", "dispute_id": "d1", "credits": "15"}
    for _ in range(2):
        assert await send(paying, **PAID) == "credited"
    assert await wallet(paying) == ("30.000000001", "active")
    assert await send(paying, type="payment.refunded", **refund) == "partly_returned"
    assert await wallet(paying) == ("25.000000001", "active")
    assert await send(paying, type="payment.refund_failed", **refund) == "credited"
    assert await send(paying, type="payment.dispute_opened", **dispute) == "disputed"
    assert await wallet(paying) == ("30.000000001", "frozen")
    assert await send(paying, type="payment.dispute_closed", outcome="won", **dispute) == "credited"
    assert await wallet(paying) == ("30.000000001", "active")


async def test_sources_do_not_share_payments(paying: Console) -> None:
    await send(paying, **PAID)
    shown = (await paying.client.get("/api/v1/payments/billing:p1")).json()
    assert (shown["status"], shown["source"], shown["currency"]) == (
        "credited",
        "billing",
        "credits",
    )
    assert (await paying.client.get("/api/v1/payments/stripe:p1")).status_code == 404


async def test_long_ids_of_payments_do_not_collide(paying: Console) -> None:
    for end in "ab":
        await send(paying, **PAID | {"payment_id": "x" * 127 + end, "credits": "1"})
    assert (await wallet(paying))[0] == "12"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"type": "payment.lost"}, "the body"),
        ({"credits": 20}, "credits"),
        ({"credits": "-1"}, "credits"),
        ({"credits": "1.0000000001"}, "credits"),
        ({"payment_id": "a b"}, "payment_id"),
        ({"payment_id": "a/b"}, "payment_id"),
        ({"payment_id": ""}, "payment_id"),
        ({"livemode": 1}, "livemode"),
        ({"amount": "20"}, "amount"),
        ({"external_id": {"system": "crm"}}, "external_id.id"),
    ],
)
async def test_a_wrong_field_is_named(paying: Console, change: dict[str, Any], place: str) -> None:
    answer = await send_report(paying, PAID | change)
    assert answer.status_code == 400
    assert f"{place}:" in answer.json()["error"]["message"]
    assert await wallet(paying) == ("10", "active")
