"""Whether a webhook comes from who knows the secret, and is not an old one that is sent again.

Stripe:            `Stripe-Signature: t=UNIX,v1=HEX[,v1=HEX…]`, HMAC-SHA256 over `t.body`. While a secret is
                   replaced, Stripe signs with both (docs.stripe.com/webhooks/signature).
Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,BASE64 v1,BASE64…`, HMAC-SHA256
                   over `id.timestamp.body` (standardwebhooks.com).

Signatures are compared in constant time, and before the age: an answer about the age says nothing to
somebody without the secret.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final

TOLERANCE_S: Final = 300
_SIGNATURES_MOST: Final = 16
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")


class BadSignature(Exception):
    """The message says which part of the signature is wrong; it is safe to show."""


def check_stripe(secret: bytes, header: str | None, body: bytes, now_s: float) -> None:
    """Check `Stripe-Signature`. Raises BadSignature."""
    if header is None:
        raise BadSignature("there is no Stripe-Signature header")
    parts = [part.partition("=")[::2] for part in header.split(",")]
    stamps = [value for name, value in parts if name.strip() == "t"]
    given = [value for name, value in parts if name.strip() == "v1"]
    if len(stamps) != 1 or not _TIMESTAMP.fullmatch(stamps[0]) or not given:
        raise BadSignature("Stripe-Signature is not of the form t=…,v1=…")
    signed = b"%s.%s" % (stamps[0].encode(), body)
    _compare([hmac.new(secret, signed, hashlib.sha256).hexdigest()], given)
    _check_age(int(stamps[0]), now_s)


def check_standard(
    keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now_s: float
) -> None:
    """Check the three headers of Standard Webhooks. Raises BadSignature."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    missing = [name for name in names if not headers.get(name)]
    if missing:
        raise BadSignature(f"there is no {missing[0]} header")
    webhook_id, stamp, signature = (headers[name] for name in names)
    if not _TIMESTAMP.fullmatch(stamp):
        raise BadSignature("webhook-timestamp is not a time in Unix seconds")
    given = [value for each in signature.split() if (value := _of_v1(each))]
    if not given:
        raise BadSignature("webhook-signature is not of the form v1,…")
    signed = b"%s.%s.%s" % (webhook_id.encode(), stamp.encode(), body)
    digests = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    _compare([base64.b64encode(digest).decode() for digest in digests], given)
    _check_age(int(stamp), now_s)


def _of_v1(signature: str) -> str:
    version, _, value = signature.partition(",")
    return value if version == "v1" else ""


def _compare(expected: Sequence[str], given: Sequence[str]) -> None:
    valid = False
    for want in expected:
        for each in given[:_SIGNATURES_MOST]:
            valid |= hmac.compare_digest(want.encode(), each.encode())
    if not valid:
        raise BadSignature("no signature matches: it was made with another secret or body")


def _check_age(unix_s: int, now_s: float) -> None:
    if abs(now_s - unix_s) > TOLERANCE_S:
        raise BadSignature(f"it was signed more than {TOLERANCE_S} seconds ago, or in the future")
