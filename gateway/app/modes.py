"""Follows the modes that operators set, and the accounts of customers whose requests reserve nothing.

Invariants: a change reaches every worker within `ASK_EVERY_S` whether its announcement is heard or not;
while the ledger cannot be asked, the modes stay as they are. Where a request does not reserve on its own
account, no reserve shows that its key was revoked: so the revisions of these accounts are read as often.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from gateway.domain.modes import Modes
from gateway.flow.context import RequestContext
from gateway.ledger.accounts import AccountStore
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.modes import NOTHING_SET, ModesSet
from gateway.settings import Settings
from gateway.settings.compiling import compile_modes

log = structlog.get_logger("modes")

ASK_EVERY_S: Final = 0.5


class ModeFeed:
    """The modes of a gate."""

    def __init__(self, accounts: AccountStore) -> None:
        self._accounts = accounts
        self._set = NOTHING_SET
        self._asked = asyncio.Event()
        self._seen: set[str] = set()

    def modes(self, settings: Settings) -> Modes:
        """What is set now, over what the configuration says."""
        return replace(
            compile_modes(settings),
            set_everything=self._set.everything,
            set_customers=self._set.customers,
        )

    def ask_now(self) -> None:
        """Ask the ledger at once: something has changed."""
        self._asked.set()

    def note(self, context: RequestContext) -> None:
        """A request has run that reserved nothing on its own account."""
        assert context.account is not None
        self._seen.add(context.account.customer_id)

    async def ask(self) -> bool:
        """Read what is set; whether it has changed. Raises LedgerUnavailable."""
        before, self._set = self._set, await self._accounts.modes.read(self._set)
        if self._set is before:
            return False
        log.info("modes_in_force", **_shown(self._set))
        return True

    async def run(self, on_change: Callable[[], None]) -> None:
        """Follow the modes without end; `on_change` is called when others are in force."""
        while True:
            with suppress(LedgerUnavailable):
                if await self.ask():
                    on_change()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), ASK_EVERY_S)
            self._asked.clear()

    async def run_revisions(self, note: Callable[[str, int], None]) -> None:
        """Read the revisions of accounts whose requests reserved nothing, without end."""
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            seen, self._seen = self._seen, set()
            if seen:
                with suppress(LedgerUnavailable):
                    wallets, away = await self._accounts.wallets.read_reached(seen)
                    self._seen |= away
                    for customer_id, wallet in wallets.items():
                        note(customer_id, wallet.account_rev)


def _shown(modes: ModesSet) -> dict[str, object]:
    everything = modes.everything
    return {
        "everything": "configured" if everything is None else everything.mode,
        "customers": len(modes.customers),
    }
