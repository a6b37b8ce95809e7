"""Writes a configuration's customers into the ledger: accounts, starting grants, price book.

Idempotent: an account is written only where its terms differ, a starting grant has a permanent
operation id, a price version is put once. Everything that can refuse the configuration is asked
before the first write (`asking.py`); the price book is written last.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.app.asking import Asked, ask_ledger
from gateway.app.roles import CannotServe
from gateway.domain.actors import Actor
from gateway.domain.money import format_amount
from gateway.domain.pricebook import Activation
from gateway.ledger.accounts import AccountStore
from gateway.ledger.book_changes import Taken
from gateway.ledger.client.errors import LedgerUnavailable, ShardClosed
from gateway.ledger.codec.operations import allowance_id
from gateway.ledger.codec.wallet_records import Wallet
from gateway.ledger.creation import OtherLedger
from gateway.ledger.notes import Notes
from gateway.ledger.wallets import Wallets
from gateway.operations.wallet_terms import Present, TermsRefused, TermsWriter
from gateway.settings import Settings
from gateway.settings.wallet_terms import configured_terms

log = structlog.get_logger("accounts")

AT_ONCE: Final = 8
"""Customers that are written at the same time: as many as the client has connections."""

ACTOR: Final = str(Actor("gate", "configuration"))
"""Who the audit log says made these changes."""

NOT_BROUGHT: Final = (
    "the shard is shut, so the configuration's customers in it are not written until it is repaired"
)
WAITS: Final = (
    "the ledger's node of these shards is away, so the configuration's customers in them are not written;"
    " the gate writes them when it is back"
)
GOES_ON: Final = (
    "the wallet keeps getting this although the configuration no longer has it; to end it, add it"
    ' again with `amount: "0"`; `creditgate wallet show` shows its name'
)


@dataclass(frozen=True, slots=True)
class Synced:
    """What was written. prices: their state. away: shards whose customers were left out, because their
    node of a cluster is away: write again later"""

    prices: Taken
    away: frozenset[int] = frozenset()


async def sync_accounts(settings: Settings, ledger: Wallets, store: AccountStore) -> Synced:
    """Ask, then write what differs.

    Raises CannotServe when the ledger would refuse any of it, LedgerUnavailable.
    """
    asked = await ask_ledger(settings, store)
    asked.accept()
    return await write_accounts(settings, ledger, store, asked)


async def write_accounts(
    settings: Settings, ledger: Wallets, store: AccountStore, asked: Asked
) -> Synced:
    """Write what differs, the price book last. Raises CannotServe, LedgerUnavailable.

    Customers of a shard that has lost entries are left out until it is repaired.
    """
    try:
        await store.creation.record()
    except OtherLedger as other:
        raise CannotServe(str(other)) from other
    draft = settings.price_draft()
    await store.prices.put(draft.tables().values())
    for kept in asked.kept:
        log.info("grant_kept", customer_id=kept.customer_id, grant=kept.name, reason=str(kept))
    customers = [each for each in settings.customers if each not in asked.away]
    writer = TermsWriter(ledger, store.wallets, ACTOR)
    closed: set[int] = set()
    away = {store.names.shard_of(customer_id) for customer_id in asked.away}

    async def sync(customer_id: str) -> None:
        try:
            await _sync_customer(settings, writer, customer_id, asked)
        except ShardClosed as shut:
            closed.add(shut.shard)
        except LedgerUnavailable:
            if not store.on_cluster:
                raise
            away.add(store.names.shard_of(customer_id))

    for start in range(0, len(customers), AT_ONCE):
        await asyncio.gather(*map(sync, customers[start : start + AT_ONCE]))
    for shard in sorted(closed):
        log.error("customers_not_brought", shard=shard, hint=NOT_BROUGHT)
    if away:
        log.error("customers_wait", shards=sorted(away), hint=WAITS)
    before, _ = await store.books.schedule()
    taken = await store.books.take(
        draft,
        new_customers=asked.new_customers(settings),
        auto_apply=settings.prices.auto_apply,
    )
    after, _ = await store.books.schedule()
    if before.activations and after != before:
        await _note_prices(ledger, after.activations[-1])
    return Synced(taken, frozenset(away))


async def _note_prices(ledger: Wallets, activation: Activation) -> None:
    """Write prices that this configuration has put in force into the audit log.

    By the activation, which is one for all gates that start with the same file. A gate that dies in
    between leaves no entry; the book's schedule has its reason.
    """
    number = activation.number
    facts = _signed("prices.apply", reason=activation.reason, subject=f"book {number}")
    with suppress(LedgerUnavailable):
        await Notes(ledger.shards).note(f"audit:book:{number}:{activation.decided_ms}", facts)


async def _sync_customer(
    settings: Settings, writer: TermsWriter, customer_id: str, asked: Asked
) -> None:
    wallet = asked.wallets.get(customer_id)
    _warn_of_dropped(settings, customer_id, wallet)
    given = frozenset(
        op_id
        for op_id, _ in settings.starting_grants(customer_id)
        if (customer_id, op_id) in asked.given
    )
    try:
        terms = configured_terms(settings, customer_id)
        await writer.apply(customer_id, terms, Present(wallet, given))
    except TermsRefused as refused:
        raise CannotServe(f"customers.{customer_id}: {refused}") from refused


def _signed(action: str, **more: str) -> dict[str, str]:
    """Facts of an entry, as `operations/audit.py` has them."""
    return {"actor": ACTOR, "action": action, **more}


def _warn_of_dropped(settings: Settings, customer_id: str, wallet: Wallet | None) -> None:
    """Say that a recurring grant goes on which the configuration does not name any more: another
    gate's may, so it is not ended here."""
    named = {allowance_id(grant.name) for grant in settings.recurring_grants(customer_id)}
    for allowance in wallet.allowances if wallet is not None else ():
        if allowance.amount_nano and allowance.allowance_id not in named:
            log.warning(
                "recurring_grant_goes_on",
                customer_id=customer_id,
                amount=format_amount(allowance.amount_nano),
                every=allowance.period,
                hint=GOES_ON,
            )
