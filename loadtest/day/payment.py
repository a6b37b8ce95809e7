"""A payment as Stripe reports it."""

import hashlib
import hmac
import time
from typing import Final

import httpx
import orjson

from loadtest.day.business import equal
from loadtest.day.customers import Customer

STRIPE_SECRET: Final = "whsec_of_the_day"
TOP_UP_CENTS: Final = 2_500


def report_payment(console_url: str, customer: Customer) -> None:
    """What Stripe sends for a paid checkout, signed as Stripe signs."""
    body = orjson.dumps(
        {
            "id": f"evt_{customer.stripe_id}",
            "object": "event",
            "type": "checkout.session.completed",
            "livemode": True,
            "created": int(time.time()),
            "data": {
                "object": {
                    "id": f"cs_{customer.stripe_id}",
                    "object": "checkout.session",
                    "payment_status": "paid",
                    "payment_intent": f"pi_{customer.stripe_id}",
                    "customer": customer.stripe_id,
                    "amount_total": TOP_UP_CENTS,
                    "currency": "usd",
                    "metadata": {},
                    "livemode": True,
                }
            },
        }
    )
    at = int(time.time())
    signature = hmac.new(STRIPE_SECRET.encode(), b"%d.%b" % (at, body), hashlib.sha256)
    answer = httpx.post(
        f"{console_url}/webhooks/stripe",
        content=body,
        headers={
            "stripe-signature": f"t={at},v1={signature.hexdigest()}",
            "content-type": "application/json",
        },
        trust_env=False,
    )
    equal("the webhook's answer", answer.status_code, 200)
