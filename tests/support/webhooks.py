"""Senders of payment webhooks: they sign as the real ones do, with code of their own."""

import base64
import hashlib
import hmac
import itertools
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.console import Console

STRIPE_SECRET = "whsec_of_the_stripe_endpoint"
SOURCE_SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, ok").decode()
PAYMENTS: dict[str, Any] = {
    "stripe": {
        "webhook_secret": STRIPE_SECRET,
        "credits_per_unit": {"usd": "1", "jpy": "0.01"},
    },
    "sources": {"billing": {"secret": SOURCE_SECRET}},
}

_numbers = itertools.count(1)


def stripe_event(kind: str, subject: dict[str, Any], *, livemode: bool = True) -> dict[str, Any]:
    return {
        "id": f"evt_{next(_numbers)}",
        "object": "event",
        "type": kind,
        "created": int(time.time()),
        "livemode": livemode,
        "data": {"object": subject},
    }


def stripe_header(body: bytes, secret: str = STRIPE_SECRET, unix_s: int | None = None) -> str:
    stamp = int(time.time()) if unix_s is None else unix_s
    signed = str(stamp).encode() + b"." + body
    return f"t={stamp},v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Stripe:
    """Sends Stripe's events to a console."""

    console: Console

    async def send(
        self, kind: str, subject: dict[str, Any], *, livemode: bool = True
    ) -> httpx.Response:
        body = json.dumps(stripe_event(kind, subject, livemode=livemode), indent=2).encode()
        headers = {"stripe-signature": stripe_header(body), "content-type": "application/json"}
        return await self.console.bare.post("/webhooks/stripe", content=body, headers=headers)

    async def status(self, kind: str, subject: dict[str, Any], *, livemode: bool = True) -> str:
        answer = await self.send(kind, subject, livemode=livemode)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        return str(said.get("status", "ignored"))


def intent(
    payment_id: str, minor: int, customer: str | None = "acme", **more: Any
) -> dict[str, Any]:
    metadata = {} if customer is None else {"customer_id": customer}
    return {
        "id": payment_id,
        "object": "payment_intent",
        "amount": minor,
        "amount_received": minor,
        "currency": "usd",
        "customer": None,
        "metadata": metadata,
        "status": "succeeded",
        **more,
    }


def session(payment_id: str, minor: int, customer: str | None = "acme") -> dict[str, Any]:
    return {
        "id": "cs_1",
        "object": "checkout.session",
        "amount_total": minor,
        "currency": "usd",
        "customer": None,
        "metadata": {} if customer is None else {"customer_id": customer},
        "mode": "payment",
        "payment_intent": payment_id,
        "payment_status": "paid",
    }


def charge(payment_id: str, minor: int, refunded_minor: int) -> dict[str, Any]:
    return {
        "id": f"ch_{payment_id}",
        "object": "charge",
        "amount": minor,
        "amount_refunded": refunded_minor,
        "currency": "usd",
        "customer": None,
        "metadata": {},
        "payment_intent": payment_id,
    }


def refund(
    payment_id: str, refund_id: str, minor: int, status: str = "succeeded"
) -> dict[str, Any]:
    return {
        "id": refund_id,
        "object": "refund",
        "amount": minor,
        "charge": f"ch_{payment_id}",
        "currency": "usd",
        "metadata": {},
        "payment_intent": payment_id,
        "status": status,
    }


def dispute(payment_id: str, dispute_id: str, minor: int, status: str) -> dict[str, Any]:
    return {
        "id": dispute_id,
        "object": "dispute",
        "amount": minor,
        "charge": f"ch_{payment_id}",
        "currency": "usd",
        "metadata": {},
        "payment_intent": payment_id,
        "status": status,
    }


def standard_headers(
    body: bytes,
    secret: str = SOURCE_SECRET,
    *,
    webhook_id: str = "msg_1",
    unix_s: int | None = None,
) -> dict[str, str]:
    stamp = int(time.time()) if unix_s is None else unix_s
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{webhook_id}.{stamp}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        "content-type": "application/json",
    }


async def send_report(
    console: Console, report: dict[str, Any], source: str = "billing"
) -> httpx.Response:
    body = json.dumps(report).encode()
    return await console.bare.post(
        f"/webhooks/payments/{source}", content=body, headers=standard_headers(body)
    )


async def wallet(console: Console, customer_id: str = "acme") -> tuple[str, str]:
    """Balance and status."""
    shown = (await console.client.get(f"/api/v1/wallets/{customer_id}")).json()
    return shown["balance"], shown["status"]
