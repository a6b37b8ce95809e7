"""Signed links to the page of key holders, and the cookies that they are exchanged for.

A token is a JSON document and its HMAC-SHA-256, each as URL-safe base64. What it is for is part of the
document, so a link is no cookie. Nothing is kept: a token ends by its time, and all of them end when
the secret is replaced.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import orjson

from gateway.app.kept_secret import kept_secret
from gateway.settings import Settings

SECRET_FILE: Final = "links.secret"  # noqa: S105 - a file's name
MAX_TOKEN_CHARS: Final = 512

Use = Literal["link", "session"]


@dataclass(frozen=True, slots=True)
class Pass:
    """Who may open the page.

    key_digest:   of the key that was entered, which must still be valid; "" where a link was used
    expires_at_s: Unix seconds
    """

    use: Use
    customer_id: str
    expires_at_s: int
    key_digest: str = ""


class Signer:
    """Signs and reads tokens."""

    def __init__(self, secret: str) -> None:
        self._secret = hashlib.sha256(b"creditgate account page\n" + secret.encode()).digest()

    def __repr__(self) -> str:
        return "<Signer>"

    def sign(self, granted: Pass) -> str:
        """A token for this."""
        document = _text(
            orjson.dumps(
                [granted.use, granted.customer_id, granted.expires_at_s, granted.key_digest]
            )
        )
        return f"{document}.{self._mac(document)}"

    def read(self, token: str, use: Use, now_s: float) -> Pass | None:
        """What a token grants; None for one that was not signed here, is for another use, or has
        expired."""
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            return None
        document, _, mac = token.partition(".")
        if not hmac.compare_digest(mac, self._mac(document)):
            return None
        granted = Pass(*orjson.loads(_bytes(document)))
        return granted if granted.use == use and granted.expires_at_s > now_s else None

    def _mac(self, document: str) -> str:
        return _text(hmac.digest(self._secret, document.encode(), "sha256"))


def open_signer(settings: Settings, data_dir: Path) -> Signer:
    """The signer of a configuration; its secret is generated on first use unless configured.
    Raises OSError."""
    secret = settings.key_holders.link_secret
    return Signer(
        kept_secret(data_dir, SECRET_FILE) if secret is None else secret.get_secret_value()
    )


def account_link(settings: Settings, customer_id: str, expires_at_s: int) -> str:
    """A link to a customer's page that can be used until then, Unix seconds. Raises OSError."""
    listen = settings.listen
    host = "127.0.0.1" if listen.host in ("0.0.0.0", "::") else listen.host  # noqa: S104
    base = settings.key_holders.public_url or f"http://{host}:{listen.port}"
    token = open_signer(settings, settings.data_dir).sign(Pass("link", customer_id, expires_at_s))
    return f"{base}/account/enter?token={token}"


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
