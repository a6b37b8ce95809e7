"""Finding the customer that an operator names, with a hint where there is none."""

from typing import Final

from gateway.domain.suggestions import suggest
from gateway.ledger.codec.wallet_records import Wallet
from gateway.operations.backend import Backend, Configured
from gateway.operations.errors import Conflict, NotFound

NAMES_COMPARED_MOST: Final = 10_000
"""Comparing names costs some microseconds each: a misspelt one must not take minutes."""


async def wallet_of(backend: Backend, customer_id: str) -> Wallet:
    """The customer's wallet. Raises NotFound, Conflict, LedgerUnavailable."""
    wallet = (await backend.accounts.wallets.read([customer_id])).get(customer_id)
    if wallet is not None:
        return wallet
    configured = backend.configured.customer_ids
    if customer_id in configured:
        raise Conflict(
            f"{customer_id} is in the configuration but has no wallet yet: a gate creates it when it"
            " starts or reloads its configuration"
        )
    names = {*configured, *await backend.accounts.wallets.customers()}
    if len(names) > NAMES_COMPARED_MOST:
        names = {name for name in names if name[:1] == customer_id[:1]}
    hint = suggest(customer_id, sorted(names)[:NAMES_COMPARED_MOST])
    raise NotFound(f"there is no customer {customer_id}. {hint}")


def check_configured(configured: Configured, customer_id: str) -> None:
    """Raise NotFound unless gates serve this customer: they serve those of the configuration."""
    if customer_id not in configured.customer_ids:
        hint = suggest(customer_id, configured.customer_ids)
        raise NotFound(f"there is no customer {customer_id} in the configuration. {hint}")
