"""What a receiver can check of a webhook, and how."""

import base64
import hashlib
import hmac

import orjson
import pytest

from gateway.exporter.signing import body_of, headers, secret_bytes, sign


def test_a_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks specification's reference libraries.
    key = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_plain_secret_signs_as_the_text_it_is() -> None:
    digest = hmac.digest(b"not base64!", b"sig_1.7.{}", hashlib.sha256)
    assert sign([secret_bytes("not base64!")], "sig_1", 7, b"{}") == (
        "v1," + base64.b64encode(digest).decode()
    )


def test_two_secrets_sign_while_one_replaces_the_other() -> None:
    both = sign([b"new", b"old"], "sig_1", 7, b"{}").split(" ")
    assert both == [sign([b"new"], "sig_1", 7, b"{}"), sign([b"old"], "sig_1", 7, b"{}")]


def test_a_secret_that_is_no_base64_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="not base64") as refused:
        secret_bytes("whsec_???")
    assert "???" not in str(refused.value)


def test_the_id_is_the_idempotency_key() -> None:
    sent = headers([b"k"], "sig_1", 7, b"{}")
    assert sent["idempotency-key"] == sent["webhook-id"] == "sig_1"
    assert (sent["webhook-timestamp"], sent["content-type"]) == (
        "7",
        "application/cloudevents+json",
    )


def test_the_body_is_a_cloud_event_with_decimal_amounts() -> None:
    body = body_of(
        source="shop",
        signal_id="sig_1",
        name="spending_fast",
        customer_id="acme",
        event_id="r1:settled",
        occurred_at="2026-11-22T08:30:00.125Z",
        balance_nano=-1_500_000_000,
        numbers={"spent_nano": 2_000_000_000, "usual_nano": 1, "frozen": 1},
    )
    assert orjson.loads(body) == {
        "specversion": "1.0",
        "id": "sig_1",
        "source": "shop",
        "type": "creditgate.spending_fast",
        "subject": "acme",
        "time": "2026-11-22T08:30:00.125Z",
        "datacontenttype": "application/json",
        "data": {
            "customer_id": "acme",
            "event_id": "r1:settled",
            "balance": "-1.5",
            "spent": "2",
            "usual": "0.000000001",
            "frozen": True,
        },
    }
