"""Verbs of a wallet that operators and configurations call: accounts, grants, allowances, corrections.

Invariants: verbs with an operation id are done once per id, permanently, so they may be called again
with the same arguments after `LedgerUnavailable` or a cancellation. Amounts are nano-credits,
times Unix ms by the ledger's clock.

facts: what else the entry's event says: name, reason, cost basis, who did it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.domain.signals import SignalRules
from gateway.ledger.codec.operations import (
    AccountTerms,
    Adjustment,
    NewAllowance,
    NewGrant,
    pack_account,
    pack_facts,
    pack_number,
)
from gateway.ledger.shards import Shards

MAX_GRANTS: Final = 64
"""Grants with something left that one wallet takes (`lua/_records.lua`)."""
MAX_ALLOWANCES: Final = 16
"""Recurring grants of one wallet."""

Facts = Mapping[str, Any] | None
_NO_CHANGE: Final = AccountTerms(0)


@dataclass(frozen=True, slots=True)
class Granted:
    """The answer to grant. `replayed`: an earlier call with this id had already done it."""

    grant_no: int
    balance_nano: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Adjusted:
    """The answer to adjust."""

    balance_nano: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Voided:
    """The answer to void. `held_nano`: what running requests may still spend of it."""

    voided_nano: int
    held_nano: int
    balance_nano: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class AccountState:
    """The answer to account: the revision that gates must give. `changed`: this call set it."""

    account_rev: int
    changed: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """The answer to sweep. sweep_at_ms: when time alone changes this wallet next."""

    entries: int
    balance_nano: int
    sweep_at_ms: int


class Wallets:
    """The wallets of all customers."""

    __slots__ = ("shards",)

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    async def account(
        self, customer_id: str, terms: AccountTerms, facts: Facts = None
    ) -> AccountState:
        """Create an account or change its terms.

        Raises LedgerUnavailable; LedgerRefusal (old_revision, exists_with_different_parameters)
        with the ledger's revision; ValueError for arguments out of bounds.
        """
        return await self._set_account(
            customer_id, terms, {**(facts or {}), **terms.facts()}, bump=False
        )

    async def bump(self, customer_id: str, facts: Facts = None) -> AccountState:
        """Raise an account's revision, so that every gate rereads the account. Not idempotent.

        Raises LedgerUnavailable; LedgerRefusal(unknown_account).
        """
        return await self._set_account(customer_id, _NO_CHANGE, facts or {}, bump=True)

    async def grant(
        self, customer_id: str, op_id: str, grant: NewGrant, facts: Facts = None
    ) -> Granted:
        """Add credit, once per `op_id`. The overdraft is repaid first.

        Raises LedgerUnavailable; LedgerRefusal; ValueError for arguments out of bounds.
        """
        said = {**(facts or {}), **grant.facts()}
        reply = await self.shards.operate("grant", customer_id, op_id, grant.packed(), said)
        return Granted(reply[1], reply[2], reply[5] == 1)

    async def adjust(
        self, customer_id: str, op_id: str, adjustment: Adjustment, facts: Facts = None
    ) -> Adjusted:
        """Correct a wallet by a signed amount, once per `op_id`.

        Raises LedgerUnavailable; LedgerRefusal; ValueError for arguments out of bounds.
        """
        said = {**(facts or {}), **adjustment.facts()}
        reply = await self.shards.operate("adjust", customer_id, op_id, adjustment.packed(), said)
        return Adjusted(reply[1], reply[4] == 1)

    async def void(
        self, customer_id: str, op_id: str, grant_no: int, reason: str, facts: Facts = None
    ) -> Voided:
        """Take back what is left of a grant and end it, once per `op_id`.

        Raises LedgerUnavailable; LedgerRefusal (unknown_grant, exists_with_different_parameters).
        """
        said = {**(facts or {}), "reason": reason, "grant_no": grant_no}
        reply = await self.shards.operate("void", customer_id, op_id, pack_number(grant_no), said)
        return Voided(reply[1], reply[2], reply[3], reply[6] == 1)

    async def allowance(
        self, customer_id: str, allowance: NewAllowance, facts: Facts = None
    ) -> bool:
        """Set a grant that recurs each period; amount 0 ends it. True when this call changed it.

        The first period opens at once and in full; changed terms take effect with the next period.
        Raises LedgerUnavailable; LedgerRefusal(too_many_allowances); ValueError.
        """
        said = {**(facts or {}), "customer_id": customer_id, **allowance.facts()}
        return await self._update("allowance", customer_id, allowance.packed(), pack_facts(said))

    async def signals(self, customer_id: str, rules: SignalRules, facts: Facts = None) -> bool:
        """Set what a wallet announces. True when this call changed it; may be called again.

        Raises LedgerUnavailable; ValueError.
        """
        packed = pack_facts({**(facts or {}), "customer_id": customer_id})
        return await self._update("signals", customer_id, rules.packed(), packed)

    async def sweep(self, customer_id: str) -> Swept:
        """Expire grants and open periods that are due, in a wallet that nobody uses.

        May be called at any time, by anyone, repeatedly. Raises LedgerUnavailable.
        """
        shards, shard = self.shards, self.shards.keys.shard_of(customer_id)
        reply = await shards.run_on_account("sweep", customer_id)
        word = reply[0].decode()
        if word != "swept":
            shards.refuse(shards.scripts["sweep"], shard, word)
        if reply[4]:
            shards.watermark.note(shard, reply[4], reply[5])
        return Swept(reply[1], reply[2], reply[3])

    async def _update(self, verb: str, customer_id: str, *args: bytes) -> bool:
        shards, shard = self.shards, self.shards.keys.shard_of(customer_id)
        reply = await shards.run_on_account(verb, customer_id, *args)
        word = reply[0].decode()
        if word == "updated":
            shards.watermark.note(shard, reply[2], reply[3])
        elif word != "unchanged":
            shards.refuse(shards.scripts[verb], shard, word)
        return bool(word == "updated")

    async def _set_account(
        self, customer_id: str, terms: AccountTerms, facts: Mapping[str, Any], *, bump: bool
    ) -> AccountState:
        shards, names = self.shards, self.shards.keys
        shard = names.shard_of(customer_id)
        keys = (
            names.meta(shard),
            names.account(shard, customer_id),
            names.customers(shard),
            names.out(shard),
        )
        head = pack_account(shards.times(shard), terms, bump=bump)
        packed = pack_facts({**facts, "customer_id": customer_id})
        script = shards.scripts["account"]
        reply = await shards.runner.run(script, keys, (head, customer_id.encode(), packed))
        word = reply[0].decode()
        if word == "updated":
            shards.watermark.note(shard, reply[3], reply[4])
        elif word != "unchanged":
            shards.refuse(script, shard, word, reply[1] if len(reply) > 1 else 0)
        return AccountState(reply[1], word == "updated")
