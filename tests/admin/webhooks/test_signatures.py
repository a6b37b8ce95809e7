"""Signatures: the documented forms, with vectors made by others."""

import base64

import pytest

from gateway.admin.webhooks.signatures import BadSignature, check_standard, check_stripe
from tests.support.console import Console
from tests.support.webhooks import (
    PAYMENTS,
    Stripe,
    intent,
    standard_headers,
    stripe_header,
    wallet,
)

BODY = b'{"id": "evt_1"}'
NOW_S = 1_700_000_000.5
SECRET = "whsec_test_secret"

# `printf %s '1700000000.{"id": "evt_1"}' | openssl dgst -sha256 -hmac whsec_test_secret`
V1 = "33aa1568c6627d0d2d42556693c208077ca8f8b437ac8d9d6ebb6c2c650033eb"

# The example of the specification of Standard Webhooks and of its libraries.
SPEC_SECRET = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
SPEC_BODY = b'{"test": 2432232314}'
SPEC_NOW_S = 1614265330.0
SPEC = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


@pytest.mark.parametrize(
    "header",
    [
        f"t=1700000000,v1={V1}",
        f"t=1700000000,v1={'0' * 64},v1={V1}",  # while the secret is replaced
        f"t=1700000000,v1={V1},v1={'0' * 64}",
        f"t=1700000000,v1={V1},v0={'0' * 64}",
        f"v1={V1},t=1700000000",
    ],
)
def test_stripe_s_form_is_accepted(header: str) -> None:
    check_stripe(SECRET.encode(), header, BODY, NOW_S)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (None, "no Stripe-Signature"),
        ("", "form"),
        (f"v1={V1}", "form"),
        ("t=1700000000", "form"),
        (f"t=1700000000,v0={V1}", "form"),
        (f"t=1700000000,t=1700000000,v1={V1}", "form"),
        (f"t=-1,v1={V1}", "form"),
        (f"t=١٧٠٠٠٠٠٠٠٠,v1={V1}", "form"),
        (f"t=1700000001,v1={V1}", "no signature matches"),
        (f"t=1700000000,v1={V1[:-1]}", "no signature matches"),
        ("t=1700000000,v1=é", "no signature matches"),
        (f"t=1700000000,{','.join(['v1=0'] * 16)},v1={V1}", "no signature matches"),
    ],
)
def test_any_other_form_is_refused(header: str | None, why: str) -> None:
    with pytest.raises(BadSignature, match=why):
        check_stripe(SECRET.encode(), header, BODY, NOW_S)


@pytest.mark.parametrize(
    ("age_s", "valid"), [(300, True), (301, False), (-300, True), (-301, False)]
)
def test_a_signature_is_valid_for_five_minutes(age_s: int, valid: bool) -> None:
    header = f"t=1700000000,v1={V1}"
    if valid:
        check_stripe(SECRET.encode(), header, BODY, 1_700_000_000 + age_s)
        return
    with pytest.raises(BadSignature, match="300 seconds"):
        check_stripe(SECRET.encode(), header, BODY, 1_700_000_000 + age_s)


def test_another_body_or_secret_is_refused() -> None:
    for secret, body in ((SECRET, BODY + b" "), ("whsec_other", BODY)):
        with pytest.raises(BadSignature, match="no signature matches"):
            check_stripe(secret.encode(), f"t=1700000000,v1={V1}", body, NOW_S)


def test_the_specification_s_example_of_standard_webhooks_is_accepted() -> None:
    check_standard([SPEC_SECRET], SPEC, SPEC_BODY, SPEC_NOW_S)
    check_standard([b"a new secret", SPEC_SECRET], SPEC, SPEC_BODY, SPEC_NOW_S)
    several = SPEC | {"webhook-signature": f"v1a,xyz v1,AAAA {SPEC['webhook-signature']}"}
    check_standard([SPEC_SECRET], several, SPEC_BODY, SPEC_NOW_S)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"webhook-id": ""}, "no webhook-id"),
        ({"webhook-timestamp": ""}, "no webhook-timestamp"),
        ({"webhook-signature": ""}, "no webhook-signature"),
        ({"webhook-timestamp": "1614265330.0"}, "Unix seconds"),
        ({"webhook-signature": "v2,abc"}, "form"),
        ({"webhook-id": "msg_other"}, "no signature matches"),
        ({"webhook-timestamp": "1614265331"}, "no signature matches"),
    ],
)
def test_any_other_form_of_standard_webhooks_is_refused(change: dict[str, str], why: str) -> None:
    with pytest.raises(BadSignature, match=why):
        check_standard([SPEC_SECRET], SPEC | change, SPEC_BODY, SPEC_NOW_S)
    with pytest.raises(BadSignature, match="300 seconds"):
        check_standard([SPEC_SECRET], SPEC, SPEC_BODY, SPEC_NOW_S + 301)


async def test_without_a_valid_signature_nothing_happens(paying: Console, stripe: Stripe) -> None:
    body = b'{"type": "payment_intent.succeeded"}'
    for headers in ({}, {"stripe-signature": stripe_header(body, "whsec_wrong")}):
        answer = await paying.client.post("/webhooks/stripe", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "signature_invalid")
    report = b'{"type": "payment.paid", "payment_id": "p1", "customer_id": "acme", "credits": "5"}'
    wrong = standard_headers(report, "whsec_" + base64.b64encode(b"x" * 32).decode())
    answer = await paying.client.post("/webhooks/payments/billing", content=report, headers=wrong)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "signature_invalid")
    assert await wallet(paying) == ("10", "active")


async def test_what_is_not_configured_is_not_there(console: Console) -> None:
    body = b"{}"
    for path in ("/webhooks/stripe", "/webhooks/payments/billing", "/webhooks/payments/stripe"):
        headers = standard_headers(body) | {"stripe-signature": stripe_header(body)}
        answer = await console.bare.post(path, content=body, headers=headers)
        assert answer.status_code == 404, path


async def test_a_signed_body_that_is_not_json_is_refused(paying: Console) -> None:
    for body in (b"", b"{", b"[]", b"5"):
        headers = {"stripe-signature": stripe_header(body)}
        answer = await paying.bare.post("/webhooks/stripe", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body_malformed")


async def test_the_secret_is_in_no_answer(paying: Console, stripe: Stripe) -> None:
    wrong = {**intent("pi_1", 2000), "currency": None}
    answer = await stripe.send("payment_intent.succeeded", wrong)
    assert PAYMENTS["stripe"]["webhook_secret"] not in answer.text
