"""What a webhook is: its body and the headers that let its receiver trust it.

Body: one CloudEvents 1.0 event in structured mode (cloudevents.io, JSON event format). Headers:
the scheme of the Standard Webhooks specification, for which receivers find libraries: HMAC-SHA256
over `id.timestamp.body`, so that neither body nor age can be changed, and two secrets may be
valid while one replaces the other. `Idempotency-Key` repeats the id for receivers that know that
header alone.

Invariants: the secret enters `sign` and nothing else; no error, log line or repr has it.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.domain.money import format_amount

CONTENT_TYPE: Final = "application/cloudevents+json"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what the specification puts before a secret


def secret_bytes(secret: str) -> bytes:
    """The key of the signature: `whsec_` and base64 as the specification has it, else the text itself.

    Raises ValueError when what follows `whsec_` is no base64.
    """
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"what follows {SECRET_PREFIX} is not base64") from None


def sign(keys: Sequence[bytes], signal_id: str, unix_s: int, body: bytes) -> str:
    """Build the signature header: one `v1,…` per valid key."""
    signed = b"%s.%d.%s" % (signal_id.encode(), unix_s, body)
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def headers(keys: Sequence[bytes], signal_id: str, unix_s: int, body: bytes) -> dict[str, str]:
    """Build all headers of one attempt at `unix_s`."""
    return {
        "content-type": CONTENT_TYPE,
        "idempotency-key": signal_id,
        "webhook-id": signal_id,
        "webhook-timestamp": str(unix_s),
        "webhook-signature": sign(keys, signal_id, unix_s, body),
    }


def body_of(
    *,
    source: str,
    signal_id: str,
    name: str,
    customer_id: str,
    event_id: str,
    occurred_at: str,
    balance_nano: int,
    numbers: Mapping[str, int],
) -> bytes:
    """The event; the same bytes at every attempt.

    occurred_at: RFC 3339. Amounts become decimal strings of credits and lose `_nano` in their name
    """
    data: dict[str, Any] = {
        "customer_id": customer_id,
        "event_id": event_id,
        "balance": format_amount(balance_nano),
    }
    for field, number in numbers.items():
        if field.endswith("_nano"):
            data[field.removesuffix("_nano")] = format_amount(number)
        elif field == "frozen":
            data[field] = bool(number)
        else:
            data[field] = number
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": signal_id,
            "source": source,
            "type": f"creditgate.{name}",
            "subject": customer_id,
            "time": occurred_at,
            "datacontenttype": "application/json",
            "data": data,
        }
    )
