"""What a plan or a configuration gives a wallet, and how it is written there.

Idempotent: an account is written only where its terms differ, and a starting grant has a permanent
operation id. Who has received a starting grant keeps it as it was given.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.domain.signals import SignalRules
from gateway.ledger.client.errors import LedgerRefusal
from gateway.ledger.codec.operations import AccountTerms, NewAllowance, NewGrant, allowance_id
from gateway.ledger.codec.wallet_records import Wallet
from gateway.ledger.wallet_reader import WalletReader
from gateway.ledger.wallets import Wallets

_TRIES: Final = 3
_SKIPPED_GRANTS: Final = frozenset({"already_expired", "exists_with_different_parameters"})
"""Refusals of a starting grant that leave the customer as it should be: the grant's time is over, or
another gate has just given it on other terms."""

_RACED: Final = frozenset({"old_revision", "exists_with_different_parameters"})
"""Refusals of an account's terms that mean that somebody else changed it meanwhile."""


class TermsRefused(Exception):
    """The ledger does not take the terms; the message says which and why."""


@dataclass(frozen=True, slots=True)
class WalletTerms:
    """The terms of one wallet.

    grants:     starting grants by name, each given once per wallet and name
    allowances: grants that recur
    """

    credit_limit_nano: int = 0
    billing_day: int = 1
    grants: tuple[tuple[str, NewGrant], ...] = ()
    allowances: tuple[NewAllowance, ...] = ()
    signals: SignalRules = field(default_factory=SignalRules)

    def digest(self) -> str:
        """Changes when any of the terms does."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def start_operation_id(account_id: str, name: str) -> str:
    """The operation id that makes a starting grant happen once."""
    return f"start:{account_id}:{name}"


@dataclass(frozen=True, slots=True)
class Present:
    """What a wallet has already. wallet: None before there is one. given: operation ids"""

    wallet: Wallet | None
    given: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TermsWriter:
    """Writes terms into wallets. actor, reason: who does it and why, for the audit log"""

    wallets: Wallets
    reader: WalletReader
    actor: str
    reason: str | None = None

    async def present(self, account_id: str, terms: WalletTerms) -> Present:
        """What the wallet has of the terms. Raises LedgerUnavailable."""
        wallet = (await self.reader.read([account_id])).get(account_id)
        operations = [
            (account_id, start_operation_id(account_id, name)) for name, _ in terms.grants
        ]
        given = await self.reader.given_terms(operations) if operations else {}
        return Present(wallet, frozenset(op_id for _, op_id in given))

    async def apply(
        self, account_id: str, terms: WalletTerms, present: Present | None = None
    ) -> None:
        """Write what differs, and create the wallet if there is none.

        Raises TermsRefused, LedgerUnavailable.
        """
        if present is None:
            present = await self.present(account_id, terms)
        await self._set_account(account_id, terms, present.wallet)
        for allowance in terms.allowances:
            await self._set_allowance(account_id, allowance)
        for name, grant in terms.grants:
            op_id = start_operation_id(account_id, name)
            if op_id not in present.given:
                await self._give(account_id, op_id, name, grant)
        # Last, so that a starting grant is no crossing.
        await self.wallets.signals(account_id, terms.signals, self._signed("signals.configure"))

    async def end_allowances(
        self, account_id: str, wallet: Wallet, before: Sequence[NewAllowance], after: WalletTerms
    ) -> None:
        """End recurring grants of the terms before that the terms after do not have."""
        kept = {each.name for each in after.allowances}
        running = {each.allowance_id for each in wallet.allowances if each.amount_nano}
        for allowance in before:
            if allowance.name not in kept and allowance_id(allowance.name) in running:
                await self._set_allowance(account_id, replace(allowance, amount_nano=0))

    def _signed(self, action: str) -> dict[str, Any]:
        """Facts of an entry, as `audit.py` has them: these stand first."""
        facts = {"actor": self.actor, "action": action, "reason": self.reason}
        return {name: value for name, value in facts.items() if value is not None}

    async def _set_account(
        self, account_id: str, terms: WalletTerms, wallet: Wallet | None
    ) -> None:
        wanted = (terms.credit_limit_nano, terms.billing_day)
        for attempt in range(_TRIES):
            if wallet is not None and (wallet.credit_limit_nano, wallet.billing_day) == wanted:
                return
            account = AccountTerms(1, terms.credit_limit_nano, billing_day=terms.billing_day)
            if wallet is not None:
                account = replace(account, account_rev=wallet.account_rev + 1, status=wallet.status)
            try:
                await self.wallets.account(account_id, account, self._signed("account.configure"))
                return
            except LedgerRefusal as refused:
                if refused.word not in _RACED or attempt == _TRIES - 1:
                    raise TermsRefused(
                        f"the ledger does not take the account ({refused})"
                    ) from refused
                wallet = (await self.reader.read([account_id])).get(account_id)

    async def _set_allowance(self, account_id: str, allowance: NewAllowance) -> None:
        try:
            await self.wallets.allowance(account_id, allowance, self._signed("allowance.configure"))
        except LedgerRefusal as refused:
            raise TermsRefused(
                f"the ledger refused the recurring grant {allowance.name!r}: {refused}"
            ) from refused

    async def _give(self, account_id: str, op_id: str, name: str, grant: NewGrant) -> None:
        facts = {**self._signed("grant.create"), "name": name}
        facts.setdefault("reason", "starting grant")
        try:
            await self.wallets.grant(account_id, op_id, grant, facts)
        except LedgerRefusal as refused:
            if refused.word not in _SKIPPED_GRANTS:
                raise TermsRefused(
                    f"the ledger refused the starting grant {name!r}: {refused}"
                ) from refused
