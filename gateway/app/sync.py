"""Brings a configuration's customers into the ledger: accounts, starting grants, price book.

Idempotent: an account is written only where its terms differ, a starting grant has an operation
id of its own for ever, a price version is put once.
"""

import structlog

from gateway.app.roles import CannotServe
from gateway.ledger.accounts import AccountStore, OtherLedger
from gateway.ledger.errors import LedgerRefusal
from gateway.ledger.operations import Ledger
from gateway.settings import Settings

log = structlog.get_logger("prices")

SUPERSEDED = (
    "the ledger has another price book in force, which came after this configuration's;"
    " `creditgate prices apply` puts this one's in force again"
)


async def sync_accounts(settings: Settings, ledger: Ledger, store: AccountStore) -> None:
    """Write what differs. Raises CannotServe when the ledger holds something that contradicts it."""
    try:
        await store.create()
    except OtherLedger as other:
        raise CannotServe(str(other)) from other
    draft = settings.price_draft()
    await store.put_prices(draft.tables().values())
    taken = await store.price_books().take(draft)
    if taken.state == "superseded":
        log.warning("prices_superseded", book=taken.number, hint=SUPERSEDED)
    wallets = await store.wallets(list(settings.customers))
    for customer_id in settings.customers:
        wallet = wallets.get(customer_id)
        limit_nano = settings.credit_limit_nano(customer_id)
        billing_day = settings.billing_day(customer_id)
        terms = (limit_nano, billing_day)
        if wallet is None or (wallet.credit_limit_nano, wallet.billing_day) != terms:
            await ledger.account(
                customer_id,
                account_rev=1 if wallet is None else wallet.account_rev + 1,
                credit_limit_nano=limit_nano,
                frozen=wallet is not None and wallet.frozen,
                billing_day=billing_day,
            )
        await _allowances(settings, ledger, customer_id)
        for op_id, grant in settings.starting_grants(customer_id):
            try:
                await ledger.grant(
                    customer_id,
                    op_id,
                    grant.amount_nano,
                    category=grant.category,
                    priority=grant.priority,
                    scope_bits=settings.scope_bits(grant.groups),
                    effective_at_ms=grant.effective_at_ms or 0,
                    expires_at_ms=grant.expires_at_ms or 0,
                    facts={"name": grant.name, "reason": "starting grant"},
                )
            except LedgerRefusal as refused:
                if str(refused) == "already_expired":
                    continue  # its time was over before this customer came
                raise CannotServe(
                    f"customers.{customer_id}: the starting grant {grant.name!r} was made with"
                    f" other terms before ({refused}); give a changed grant a new name"
                ) from refused
        rules = settings.signals.rules(customer_id, settings.customers[customer_id].plan)
        await ledger.signals(customer_id, rules)  # last, so that a starting grant is no crossing


async def _allowances(settings: Settings, ledger: Ledger, customer_id: str) -> None:
    """Set the customer's recurring grants. Raises CannotServe."""
    for grant in settings.recurring_grants(customer_id):
        try:
            await ledger.allowance(
                customer_id,
                grant.name,
                grant.amount_nano,
                period=grant.every,
                rollover_max_nano=grant.rollover_max_nano,
                category=grant.category,
                priority=grant.priority,
                scope_bits=settings.scope_bits(grant.groups),
                day=grant.anchor_day or 0,
            )
        except LedgerRefusal as refused:
            raise CannotServe(
                f"customers.{customer_id}: the ledger refused the recurring grant"
                f" {grant.name!r}: {refused}"
            ) from refused
