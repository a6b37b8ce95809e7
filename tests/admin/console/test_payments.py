"""Payments that wait are listed with their reason, and go on from there."""

from html import unescape

from tests.support.console import Serve
from tests.support.webhooks import PAYMENTS, Stripe, intent

from .test_pages import text_of

PAID = "payment_intent.succeeded"


async def test_a_payment_of_an_unknown_customer_is_listed_and_retried(serve: Serve) -> None:
    async with serve(payments=PAYMENTS) as console:
        console.client.headers["origin"] = console.url
        assert "Payments that wait reported, and not credited" in text_of(
            (await console.client.get("/console/stores")).text
        )
        assert await Stripe(console).status(PAID, intent("pi_1", 2000, "nobody")) == "waiting"
        said = text_of((await console.client.get("/console/stores")).text)
        assert "stripe:pi_1" in said
        assert "there is no customer nobody" in said
        path = "/console/stores/payments/stripe:pi_1/retry"
        answer = await console.client.post(path, follow_redirects=True)
        assert "still waits: there is no customer nobody" in unescape(answer.text)
        created = {"customer_id": "nobody", "plan": "", "reason": "signed up"}
        answer = await console.client.post("/console/new-customer", data=created)
        assert answer.status_code in (200, 303)
        answer = await console.client.post(path, follow_redirects=True)
        assert "stripe:pi_1 is credited." in answer.text
        assert "nobody" not in text_of((await console.client.get("/console/stores")).text)
