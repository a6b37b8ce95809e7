"""Tokens of the admin API, and one-time codes that sign a person in to the console."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.domain.access import Role
from gateway.domain.actors import Actor
from gateway.ledger.accounts import AccountStore
from gateway.ledger.codec.admin_records import ApiToken, SignIn
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend
from gateway.operations.documents import timestamp
from gateway.operations.errors import NotFound

TOKEN_PREFIX: Final = "cga_"  # noqa: S105 - what every token begins with
CODE_PREFIX: Final = "cgl_"
CODE_LASTS_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to make. scopes: see `ApiToken`. expires_at_ms: Unix ms; None for never."""

    name: str
    role: Role
    scopes: frozenset[str] = frozenset()
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """A token in the list. last_used_ms: Unix ms, to the minute; None for never."""

    token: ApiToken
    last_used_ms: int | None
    now_ms: int


@dataclass(frozen=True, slots=True)
class TokenMade:
    """A token that exists now. secret: shown once, kept nowhere."""

    entry: TokenEntry
    secret: str = field(repr=False)


async def create_token(backend: Backend, wanted: NewToken) -> TokenMade:
    """Make a token. Raises LedgerUnavailable."""
    now_ms = await backend.accounts.now_ms()
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        secret_digest(secret),
        f"tok_{secrets.token_hex(8)}",
        wanted.name,
        wanted.role,
        wanted.scopes,
        now_ms,
        str(backend.actor),
        wanted.expires_at_ms,
    )
    after = {"name": token.name, "role": token.role, "scopes": sorted(token.scopes)}
    async with audited(backend, Noted("token.create", token.token_id, after=after)):
        await backend.accounts.admin_access.add_token(token)
    return TokenMade(TokenEntry(token, None, now_ms), secret)


async def list_tokens(backend: Backend) -> Sequence[TokenEntry]:
    """Every token, oldest first. Raises LedgerUnavailable."""
    access = backend.accounts.admin_access
    used_ms, now_ms = await access.last_used_ms(), await backend.accounts.now_ms()
    return [
        TokenEntry(token, used_ms.get(token.token_id), now_ms) for token in await access.tokens()
    ]


async def revoke_token(backend: Backend, token_id: str) -> TokenEntry:
    """Revoke a token permanently, with the sessions that it has signed in. Idempotent.

    Raises NotFound, LedgerUnavailable.
    """
    access = backend.accounts.admin_access
    if not any(token.token_id == token_id for token in await access.tokens()):
        raise NotFound(f"there is no token {token_id}")
    async with audited(backend, Noted("token.revoke", token_id)):
        token = await access.revoke_token(token_id)
    assert token is not None, "tokens are never removed"
    used_ms = await access.last_used_ms()
    return TokenEntry(token, used_ms.get(token_id), await backend.accounts.now_ms())


async def offer_sign_in(accounts: AccountStore, actor: Actor, role: Role = "admin") -> str:
    """A code that signs this person in once, within the hour. Raises LedgerUnavailable."""
    code = CODE_PREFIX + secrets.token_urlsafe(24)
    waiting = SignIn(Actor("user", actor.name), role)
    await accounts.admin_access.keep("code", secret_digest(code), waiting, CODE_LASTS_MS)
    return code


def secret_digest(secret: str) -> str:
    """The hash under which the ledger knows a token, a code or a session."""
    return hashlib.sha256(secret.encode()).hexdigest()


def token_document(entry: TokenEntry) -> dict[str, Any]:
    """A token as a JSON document, without its secret."""
    token = entry.token
    status = "active" if token.valid(entry.now_ms) else "expired"
    if token.revoked_at_ms is not None:
        status = "revoked"
    return {
        "id": token.token_id,
        "name": token.name,
        "role": token.role,
        "scopes": sorted(token.scopes),
        "status": status,
        "created_at": timestamp(token.created_at_ms),
        "created_by": token.created_by,
        "expires_at": timestamp(token.expires_at_ms) if token.expires_at_ms else None,
        "revoked_at": timestamp(token.revoked_at_ms) if token.revoked_at_ms else None,
        "last_used_at": timestamp(entry.last_used_ms) if entry.last_used_ms else None,
    }
