"""The customer that an operator names: found, or told what is near that name."""

from gateway.cli.context import Context
from gateway.cli.output import fail
from gateway.ledger.codec.records import Wallet
from gateway.settings import Settings
from gateway.settings.problems import suggest

MOST_NAMES_COMPARED = 10_000
"""Comparing names costs some microseconds each: a misspelt one must not take minutes."""


async def wallet_of(context: Context, customer_id: str) -> Wallet:
    """The customer's wallet; without one the command ends in words. Raises LedgerUnavailable."""
    wallet = (await context.accounts.wallets([customer_id])).get(customer_id)
    if wallet is not None:
        return wallet
    if customer_id in context.settings.customers:
        raise fail(
            f"{customer_id} is in the configuration but has no wallet yet: a gate makes it when it"
            " starts or takes over a changed configuration"
        )
    names = {*context.settings.customers, *await context.accounts.customers()}
    if len(names) > MOST_NAMES_COMPARED:
        names = {name for name in names if name[:1] == customer_id[:1]}
    hint = suggest(customer_id, sorted(names)[:MOST_NAMES_COMPARED])
    raise fail(f"there is no customer {customer_id}. {hint}")


def check_configured(settings: Settings, customer_id: str) -> None:
    """End the command unless gates serve this customer: they know those of the configuration."""
    if customer_id not in settings.customers:
        hint = suggest(customer_id, settings.customers)
        raise fail(f"there is no customer {customer_id} in the configuration. {hint}")
