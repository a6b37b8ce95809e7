"""What the admin API keeps in the ledger: tokens, sign-ins, answers of writes."""

from dataclasses import dataclass
from typing import Any

from msgpack import packb, unpackb

from gateway.domain.access import Role
from gateway.domain.actors import Actor


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token of the admin API; only the hash of its secret is kept. Times in Unix ms.

    digest:     SHA-256 of the secret, in hex
    token_id:   shown in the audit log, such as tok_5f0c…
    scopes:     operations that it is restricted to; empty for everything that its role may do
    created_by: as the audit log shows actors
    """

    digest: str
    token_id: str
    name: str
    role: Role
    scopes: frozenset[str]
    created_at_ms: int
    created_by: str
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None

    def valid(self, now_ms: int) -> bool:
        """Whether it opens anything at this moment."""
        expired = self.expires_at_ms is not None and self.expires_at_ms <= now_ms
        return self.revoked_at_ms is None and not expired


@dataclass(frozen=True, slots=True)
class SignIn:
    """A person who may sign in, or has.

    token_digest: of the token that was used to sign in; the session ends with it
    """

    actor: Actor
    role: Role
    token_digest: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedWrite:
    """A write with an idempotency key.

    request_digest: of its method, path and body
    status:         of the answer; None while the request runs
    """

    request_digest: bytes
    status: int | None = None
    content_type: str = ""
    body: bytes = b""


def pack_token(token: ApiToken) -> bytes:
    """All but the digest, which is the field's name."""
    return _packed(
        token.token_id,
        token.name,
        token.role,
        sorted(token.scopes),
        token.created_at_ms,
        token.created_by,
        token.expires_at_ms,
        token.revoked_at_ms,
    )


def read_token(digest: bytes, packed: bytes) -> ApiToken:
    """A field and its value."""
    token_id, name, role, scopes, *rest = unpackb(packed)
    return ApiToken(digest.decode(), token_id, name, role, frozenset(scopes), *rest)


def pack_sign_in(sign_in: SignIn) -> bytes:
    """The record of a sign-in."""
    actor = sign_in.actor
    return _packed(actor.kind, actor.name, sign_in.role, sign_in.token_digest)


def read_sign_in(packed: bytes) -> SignIn:
    """Read the record of a sign-in."""
    kind, name, role, token_digest = unpackb(packed)
    return SignIn(Actor(kind, name), role, token_digest)


def pack_write(write: RecordedWrite) -> bytes:
    """The record of a write."""
    return _packed(write.request_digest, write.status, write.content_type, write.body)


def read_write(packed: bytes) -> RecordedWrite:
    """Read the record of a write."""
    return RecordedWrite(*unpackb(packed))


def _packed(*fields: Any) -> bytes:
    packed: bytes = packb(fields)
    return packed
