"""Writes the terms of a plan that has changed in the configuration into its customers' wallets.

Customers of the configuration are written at the start and at a reload (`sync.py`). Those in the ledger
may be a million: their wallets are walked in the background, and only when the terms of a plan are not
those that the ledger says its customers have.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from gateway.app.sync import ACTOR
from gateway.domain.customers import CustomerRecord, wallet_id
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.customers import CustomerChanged
from gateway.ledger.wallets import Wallets
from gateway.operations.wallet_terms import TermsRefused, TermsWriter
from gateway.settings import Settings
from gateway.settings.wallet_terms import plan_digests, record_terms

log = structlog.get_logger("accounts")

LOOK_EVERY_S: Final = 5.0
AT_ONCE: Final = 8
"""Customers that are written at the same time, so that requests keep their share of the ledger."""


class PlanTermsWalk:
    """One walk for each configuration; one process of a gate does it."""

    def __init__(
        self, accounts: AccountStore, wallets: Wallets, settings: Callable[[], Settings]
    ) -> None:
        """settings: those in force"""
        self._accounts = accounts
        self._writer = TermsWriter(wallets, accounts.wallets, ACTOR, "plan changed")
        self._settings = settings
        self._done: Settings | None = None

    async def run(self) -> None:
        """Look without end."""
        while True:
            with suppress(LedgerUnavailable):
                await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> int:
        """Write what has changed; returns how many customers were written. Raises LedgerUnavailable."""
        settings, customers = self._settings(), self._accounts.customers
        if settings is self._done:
            return 0
        wanted, applied = plan_digests(settings), await customers.applied_plans()
        changed = {plan: digest for plan, digest in wanted.items() if applied.get(plan) != digest}
        written = failed = 0
        if changed:
            written, failed = await self._walk(settings, changed.keys())
            if not failed:
                await customers.note_applied(changed)
        self._done = settings
        if written or failed:
            log.info("plans_applied", plans=sorted(changed), customers=written, failed=failed)
        return written

    async def _walk(self, settings: Settings, plans: Collection[str]) -> tuple[int, int]:
        written = failed = 0
        async for records in self._accounts.customers.walk():
            due = [each for each in records if (each.plan or "") in plans]
            for start in range(0, len(due), AT_ONCE):
                run = due[start : start + AT_ONCE]
                done = await asyncio.gather(*(self._write(settings, each) for each in run))
                written += done.count(True)
                failed += done.count(None)
        return written, failed

    async def _write(self, settings: Settings, record: CustomerRecord) -> bool | None:
        """Whether anything had to be written; None where the ledger refused it."""
        terms = record_terms(settings, record)
        digest = terms.digest()
        if digest == record.terms_digest:
            return False
        customer_id = record.customer_id
        ids = [customer_id, wallet_id(customer_id, "test")]
        present = await self._accounts.wallets.read(ids)
        try:
            for account_id in ids:
                if account_id in present:
                    await self._writer.apply(account_id, terms)
            await self._accounts.customers.replace(record, replace(record, terms_digest=digest))
        except CustomerChanged:
            return False  # whoever changed it has written the terms
        except TermsRefused as refused:
            log.error("plan_not_applied", customer_id=customer_id, reason=str(refused))
            return None
        return True
