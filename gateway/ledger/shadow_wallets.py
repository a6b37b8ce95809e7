"""Opens shadow wallets: what a customer has is copied once per switch into shadow mode.

| key | type | holds |
|---|---|---|
| `{cg}:shadow:SWITCH` | hash | account → by how much its shadow wallet was adjusted, nano-credits |

Invariants: the first amount that is recorded for an account and a switch is the one that is adjusted,
whoever does it and however often, because the adjustment's operation id names both. The live wallet is
read and never written.
"""

from typing import Any, Final

from redis.asyncio import Redis

from gateway.domain.actors import Actor
from gateway.domain.customers import wallet_id
from gateway.ledger.client import clock
from gateway.ledger.client.errors import LedgerRefusal, LedgerUnavailable
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.codec.operations import AccountTerms, Adjustment
from gateway.ledger.codec.wallet_records import Wallet
from gateway.ledger.wallet_reader import WalletReader
from gateway.ledger.wallets import Wallets

_RACED: Final = frozenset({"old_revision", "exists_with_different_parameters"})
_FACTS: Final = {
    "mode": "shadow",
    "actor": str(Actor("gate", "shadow")),
    "action": "shadow.open",
    "reason": "opening balance of the shadow wallet",
}


class ShadowWallets:
    """The shadow wallets of one ledger. Every method raises LedgerUnavailable."""

    def __init__(self, wallets: Wallets, reader: WalletReader, client: Redis, names: Keys) -> None:
        self._wallets = wallets
        self._reader = reader
        self._client: Any = client
        self._names = names

    async def open(self, account_id: str, switch: str) -> int:
        """Give the account a shadow wallet that has what the live one could spend when it was switched.

        Idempotent for each switch. Returns the shadow account's revision.
        """
        shadow_id = wallet_id(account_id, "shadow")
        now_ms = await clock.now_ms(self._client)
        found = await self._reader.read([account_id, shadow_id])
        live, shadow = found.get(account_id), found.get(shadow_id)
        if live is None:
            raise LedgerUnavailable(f"the ledger has no wallet of {account_id}")
        revision = await self._set_terms(shadow_id, live, shadow)
        amount = live.balance_nano(now_ms) - live.held_nano
        if shadow is not None:
            amount -= shadow.balance_nano(now_ms)
        amount = await self._recorded(switch, shadow_id, amount)
        if amount:
            try:
                await self._wallets.adjust(
                    shadow_id,
                    f"shadow:{shadow_id}:{switch}",
                    Adjustment(amount, _FACTS["reason"]),
                    _FACTS,
                )
            except LedgerRefusal as refused:
                if refused.word not in _RACED:
                    raise LedgerUnavailable(f"{shadow_id} was not opened: {refused}") from refused
        return revision

    async def forget(self, switch: str) -> None:
        """Drop what was recorded for a switch that is over."""
        with unavailable():
            await self._client.delete(self._openings(switch))

    async def _set_terms(self, shadow_id: str, live: Wallet, shadow: Wallet | None) -> int:
        """Create the account, or give it the live one's terms. Returns its revision."""
        revision = 1
        if shadow is not None:
            terms = live.credit_limit_nano, live.billing_day, "active"
            if (shadow.credit_limit_nano, shadow.billing_day, shadow.status) == terms:
                return shadow.account_rev
            revision = shadow.account_rev + 1
        wanted = AccountTerms(revision, live.credit_limit_nano, billing_day=live.billing_day)
        try:
            return (await self._wallets.account(shadow_id, wanted, _FACTS)).account_rev
        except LedgerRefusal as refused:
            if refused.word not in _RACED:
                raise LedgerUnavailable(f"{shadow_id} was not opened: {refused}") from refused
        return await self._reader.account_rev(shadow_id) or 1

    async def _recorded(self, switch: str, shadow_id: str, amount_nano: int) -> int:
        """The amount that opens this wallet: what was recorded first."""
        key = self._openings(switch)
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hsetnx(key, shadow_id, amount_nano)
            pipe.hget(key, shadow_id)
            with unavailable():
                _, recorded = await pipe.execute()
        return int(recorded)

    def _openings(self, switch: str) -> bytes:
        return self._names.common(f"shadow:{switch}")
