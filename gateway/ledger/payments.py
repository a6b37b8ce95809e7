"""Payments that other systems have reported, and which disputes keep a wallet frozen.

| key | type | holds |
|---|---|---|
| `{cg}:payment:SOURCE:ID` | string | msgpack: `Payment`; never deleted |
| `{cg}:payments_waiting` | sorted set | SOURCE:ID of payments with a problem, by when they were first seen |
| `{cg}:disputed:ACCOUNT` | hash | dispute → `1` if a dispute froze the wallet, else `0`; being closed: `c1`, `c0` |

Invariants: a record changes only from the content that its writer has read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import WatchError

from gateway.domain.payments import Payment
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.payment_records import pack_payment, read_payment

_OURS: Final = b"1"
_FOUND_FROZEN: Final = b"0"
_CLOSING: Final = b"c"


@dataclass(frozen=True, slots=True)
class WaitingPage:
    """Payments with a problem, oldest first. more: whether others follow."""

    payments: tuple[Payment, ...]
    more: bool


class Payments:
    """The payments of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, client: Redis, names: Keys) -> None:
        self._client: Any = client  # its stubs promise text where this client answers bytes
        self._names = names
        self._waiting = names.common("payments_waiting")

    async def read(self, payment_id: str) -> Payment | None:
        """A payment by SOURCE:ID."""
        with unavailable():
            raw = await self._client.get(self._key(payment_id))
        return None if raw is None else read_payment(raw)

    async def update(self, payment_id: str, change: Callable[[Payment | None], Payment]) -> Payment:
        """Change a record from what it is at this moment; returns it as it is now.

        change: without effects of its own, since it may be called several times
        """
        key = self._key(payment_id)
        while True:
            async with self._client.pipeline(transaction=True) as pipe:
                with unavailable():
                    await pipe.watch(key)
                    raw = await pipe.get(key)
                before = None if raw is None else read_payment(raw)
                after = change(before)
                if after == before:
                    return after
                pipe.multi()
                pipe.set(key, pack_payment(after))
                if after.done.problem is None:
                    pipe.zrem(self._waiting, payment_id)
                else:
                    pipe.zadd(self._waiting, {payment_id: after.seen_at_ms})
                with unavailable():
                    try:
                        await pipe.execute()
                    except WatchError:
                        continue
                return after

    async def waiting(self, *, offset: int = 0, limit: int = 100) -> WaitingPage:
        """Payments with a problem."""
        with unavailable():
            found = await self._client.zrange(self._waiting, offset, offset + limit)
        shown = [await self.read(name.decode()) for name in found[:limit]]
        return WaitingPage(tuple(each for each in shown if each is not None), len(found) > limit)

    async def open_dispute(self, account_id: str, dispute_id: str, *, frozen: bool) -> None:
        """Note that a dispute wants the wallet frozen. frozen: whether it is at this moment.

        What earlier disputes noted on a wallet that is not frozen is over: somebody thawed it.
        """
        key = self._disputed(account_id)
        with unavailable():
            noted = await self._client.hvals(key)
            ours = not frozen or _OURS in (each[-1:] for each in noted)
            async with self._client.pipeline(transaction=True) as pipe:
                if not frozen:
                    pipe.delete(key)
                pipe.hsetnx(key, dispute_id, _OURS if ours else _FOUND_FROZEN)
                await pipe.execute()

    async def closing_dispute(self, account_id: str, dispute_id: str) -> bool:
        """Note that a dispute is over. True if no other keeps the wallet frozen, and one froze it."""
        key = self._disputed(account_id)
        with unavailable():
            mine = await self._client.hget(key, dispute_id)
            if mine is None:
                return False
            await self._client.hset(key, dispute_id, _CLOSING + mine[-1:])
            noted: Mapping[bytes, bytes] = await self._client.hgetall(key)
        values: Sequence[bytes] = list(noted.values())
        return all(each[:1] == _CLOSING for each in values) and any(
            each[-1:] == _OURS for each in values
        )

    async def close_dispute(self, account_id: str, dispute_id: str) -> None:
        """Forget a dispute that is over."""
        with unavailable():
            await self._client.hdel(self._disputed(account_id), dispute_id)

    def _key(self, payment_id: str) -> bytes:
        return self._names.common(f"payment:{payment_id}")

    def _disputed(self, account_id: str) -> bytes:
        return self._names.common(f"disputed:{account_id}")
