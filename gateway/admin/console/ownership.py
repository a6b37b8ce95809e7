"""Whose wallet a page shows: the customer with its mode, its wallets and its keys."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.domain.customers import CustomerRecord, Mode, Purpose, customer_of, owner_of, wallet_id
from gateway.domain.modes import SetMode
from gateway.ledger.codec.wallet_records import Wallet
from gateway.operations.backend import Backend
from gateway.operations.customers import get_customer
from gateway.operations.errors import NotFound
from gateway.operations.keys import KeyEntry, list_keys
from gateway.operations.modes import show_modes

_PURPOSES: Final[tuple[Purpose, ...]] = ("live", "test", "shadow")


@dataclass(frozen=True, slots=True)
class OwnWallet:
    """One of a customer's wallets."""

    account_id: str
    purpose: Purpose
    wallet: Wallet


@dataclass(frozen=True, slots=True)
class Owner:
    """A customer, as the pages of all its wallets show it.

    purpose:   of the wallet that the page shows
    record:    None where nothing but the wallet is left, such as of a customer that was taken out of the
               configuration
    set_mode:  what an operator has set for this customer or for everything; None for nothing
    mode_is_own: whether that was set for this customer
    keys:      of a test wallet those that use it, otherwise all
    """

    customer_id: str
    purpose: Purpose
    record: CustomerRecord | None
    configured: bool
    mode: Mode
    set_mode: SetMode | None
    mode_is_own: bool
    wallets: Sequence[OwnWallet]
    keys: Sequence[KeyEntry]

    @property
    def changeable(self) -> bool:
        """Whether the record can be changed here."""
        return not (self.configured or self.record is None or self.record.status == "deleted")


async def owner_view(backend: Backend, account_id: str) -> Owner:
    """The customer of a wallet. Raises LedgerUnavailable."""
    customer_id, (_, purpose) = owner_of(account_id), customer_of(account_id)
    ids = {wallet_id(customer_id, each): each for each in _PURPOSES}
    record, keys, wallets, modes = await asyncio.gather(
        _record(backend, customer_id),
        _keys(backend, customer_id),
        backend.accounts.wallets.read(list(ids)),
        show_modes(backend),
    )
    if purpose == "test":
        keys = [key for key in keys if key.terms.test]
    own = modes.set_customers.get(customer_id)
    return Owner(
        customer_id,
        purpose,
        record,
        customer_id in backend.configured.customer_ids,
        modes.of(customer_id)[0],
        own or modes.set_everything,
        own is not None,
        [OwnWallet(name, each, wallets[name]) for name, each in ids.items() if name in wallets],
        keys,
    )


async def _record(backend: Backend, customer_id: str) -> CustomerRecord | None:
    try:
        return (await get_customer(backend, customer_id)).record
    except NotFound:
        return None


async def _keys(backend: Backend, customer_id: str) -> list[KeyEntry]:
    try:
        return await list_keys(backend, customer_id)
    except NotFound:  # a deleted customer that never had one
        return []
