"""Who may use the admin API and the console: tokens, sign-in codes, sessions.

Of every secret the ledger has only the SHA-256.

| key | type | holds |
|---|---|---|
| `{cg}:tokens` | hash | SHA-256 of the token → msgpack: `ApiToken` |
| `{cg}:tokens_used` | hash | token id → when it was used last, Unix ms, to the minute |
| `{cg}:code:SHA-256` | string, expires | a sign-in that waits for its one-time code: `SignIn` |
| `{cg}:session:SHA-256` | string, expires | a browser session: `SignIn` |
"""

from dataclasses import replace
from typing import Any, Final, Literal

from redis.asyncio import Redis

from gateway.ledger.client import clock
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.admin_records import (
    ApiToken,
    SignIn,
    pack_sign_in,
    pack_token,
    read_sign_in,
    read_token,
)
from gateway.ledger.codec.key_names import Keys

_USED_EVERY_MS: Final = 60_000
Purpose = Literal["code", "session"]


class AdminAccess:
    """The directory of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._names = names
        self._tokens, self._used = names.common("tokens"), names.common("tokens_used")

    async def add_token(self, token: ApiToken) -> None:
        """Put a token into the directory."""
        with unavailable():
            await self._client.hset(self._tokens, token.digest, pack_token(token))

    async def tokens(self) -> list[ApiToken]:
        """Every token, revoked and expired ones too, oldest first."""
        with unavailable():
            raw = await self._client.hgetall(self._tokens)
        tokens = [read_token(digest, packed) for digest, packed in raw.items()]
        return sorted(tokens, key=lambda token: (token.created_at_ms, token.token_id))

    async def last_used_ms(self) -> dict[str, int]:
        """When tokens were used last, by id, in Unix ms, to the minute."""
        with unavailable():
            raw = await self._client.hgetall(self._used)
        return {token_id.decode(): int(used_ms) for token_id, used_ms in raw.items()}

    async def find_token(self, digest: str) -> ApiToken | None:
        """The valid token with this hash; None when unknown, revoked or expired. Notes its use."""
        with unavailable():
            raw = await self._client.hget(self._tokens, digest)
        if raw is None:
            return None
        token = read_token(digest.encode(), raw)
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hget(self._used, token.token_id)
            with unavailable():
                time, used_ms = await pipe.execute()
        now_ms = clock.clock_ms(time)
        if not token.valid(now_ms):
            return None
        if now_ms - int(used_ms or 0) >= _USED_EVERY_MS:
            with unavailable():
                await self._client.hset(self._used, token.token_id, now_ms)
        return token

    async def revoke_token(self, token_id: str) -> ApiToken | None:
        """Revoke a token permanently; None when there is none of this id. Idempotent."""
        for token in await self.tokens():
            if token.token_id == token_id:
                if token.revoked_at_ms is None:
                    token = replace(token, revoked_at_ms=await clock.now_ms(self._client))
                    await self.add_token(token)
                return token
        return None

    async def keep(self, purpose: Purpose, digest: str, sign_in: SignIn, ttl_ms: int) -> None:
        """Keep a sign-in under the hash of its code or session for this long."""
        with unavailable():
            await self._client.set(self._key(purpose, digest), pack_sign_in(sign_in), px=ttl_ms)

    async def find(self, purpose: Purpose, digest: str) -> SignIn | None:
        """What is kept under this hash; None when there is nothing, or it has expired."""
        with unavailable():
            raw = await self._client.get(self._key(purpose, digest))
        return None if raw is None else read_sign_in(raw)

    async def take(self, purpose: Purpose, digest: str) -> SignIn | None:
        """The same, and remove it: of several callers one gets it."""
        found = await self.find(purpose, digest)
        if found is None:
            return None
        with unavailable():
            removed = await self._client.delete(self._key(purpose, digest))
        return found if removed else None

    def _key(self, purpose: Purpose, digest: str) -> bytes:
        return self._names.common(f"{purpose}:{digest}")
