"""Asks whether the ledger would take a configuration. Changes nothing.

Everything that can refuse a configuration is asked here, before the first write (`sync.py`): a
refused configuration leaves accounts, grants and prices as they were. `creditgate check --live`
prints the same answers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.app.roles import CannotServe
from gateway.domain.money import MAX_AMOUNT_NANO
from gateway.ledger.accounts import AccountStore
from gateway.ledger.book_changes import Taken
from gateway.ledger.codec.operations import allowance_id
from gateway.ledger.codec.wallet_records import Wallet
from gateway.ledger.creation import OtherLedger
from gateway.ledger.wallets import MAX_ALLOWANCES, MAX_GRANTS
from gateway.settings import Settings
from gateway.settings.customers import GrantSection
from gateway.settings.wallet_terms import new_grant

_TOO_MANY: Final = (
    "Void grants that are no longer needed (`creditgate wallet void`), or remove some here."
)


@dataclass(frozen=True, slots=True)
class KeptGrant:
    """A starting grant that a customer has received on other terms than the configuration's."""

    customer_id: str
    name: str

    def __str__(self) -> str:
        return (
            f"customers.{self.customer_id}: the starting grant {self.name!r} was given on other"
            " terms and stays as it is; the changed terms apply to customers who have not received it"
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What the ledger has of a configuration's customers, and what it would refuse.

    wallets:   of the customers that have one
    given:     (customer_id, operation id) of the starting grants that were given
    kept:      those that were given on other terms
    prices:    the state of the configuration's prices; None while the ledger has no price book
    problems:  every reason for which the configuration cannot be taken over
    away:      customers of whom nothing is known, because their node of a cluster is away
    """

    wallets: Mapping[str, Wallet]
    given: frozenset[tuple[str, str]]
    kept: tuple[KeptGrant, ...]
    prices: Taken | None
    problems: tuple[str, ...]
    away: frozenset[str] = frozenset()

    def new_customers(self, settings: Settings) -> frozenset[str]:
        """Configured customers that the ledger does not have yet."""
        return frozenset(settings.customers.keys() - self.wallets.keys()) - self.away

    def accept(self) -> None:
        """Raise CannotServe if there is a problem; its message has one problem a line."""
        if self.problems:
            raise CannotServe("\n".join(self.problems))


async def ask_ledger(settings: Settings, store: AccountStore) -> Asked:
    """See `Asked`. Raises LedgerUnavailable."""
    try:
        await store.creation.check()
    except OtherLedger as other:  # nothing else can be read from it
        return Asked({}, frozenset(), (), None, (str(other),))
    draft = settings.price_draft()
    problems = [
        f"the ledger keeps other rates under the price version {version}; its prices were tampered with"
        for version in await store.prices.changed(draft.tables().values())
    ]
    problems += _lost_plans(settings, await store.customers.plan_counts(reached=True))
    wallets, away = await store.wallets.read_reached(settings.customers)
    customers = [customer_id for customer_id in settings.customers if customer_id not in away]
    starting = {
        (customer_id, op_id): grant
        for customer_id in customers
        for op_id, grant in settings.starting_grants(customer_id)
    }
    terms = await store.wallets.given_terms(list(starting))
    now_ms = await store.now_ms()
    for customer_id in customers:
        coming = [
            grant
            for op_id, grant in settings.starting_grants(customer_id)
            if (customer_id, op_id) not in terms and not _is_over(grant, now_ms)
        ]
        wallet = wallets.get(customer_id)
        problems += _refusals(settings, customer_id, wallet, coming, now_ms)
    kept = tuple(
        KeptGrant(customer_id, starting[customer_id, op_id].name)
        for (customer_id, op_id), given in terms.items()
        if given != pack_grant(settings, starting[customer_id, op_id])
    )
    new = frozenset(customers) - wallets.keys()
    prices = await store.books.look(draft, new)
    return Asked(wallets, frozenset(terms), kept, prices, tuple(problems), away)


def pack_grant(settings: Settings, grant: GrantSection) -> bytes:
    """The terms of a starting grant, as the ledger compares them."""
    return new_grant(settings, grant).packed()


def _is_over(grant: GrantSection, now_ms: int) -> bool:
    return grant.expires_at_ms is not None and grant.expires_at_ms <= now_ms


def _lost_plans(settings: Settings, counts: Mapping[str, int]) -> Iterator[str]:
    """Plans that customers in the ledger are on: without them, no gate could serve these."""
    for plan in sorted(counts.keys() - settings.plans.keys()):
        number = "1 customer" if counts[plan] == 1 else f"{counts[plan]} customers"
        yield (
            f"plans.{plan}: is missing, and {number} in the ledger would be refused without it. Add it"
            f" again, or move them first: `creditgate customer list --plan {plan}` lists them,"
            " `creditgate customer update CUSTOMER --plan` moves one"
        )


def _refusals(
    settings: Settings,
    customer_id: str,
    wallet: Wallet | None,
    coming: list[GrantSection],
    now_ms: int,
) -> Iterator[str]:
    """What the ledger would refuse of one customer: it bounds grants, allowances and their sum."""
    open_grants = [
        grant
        for grant in (wallet.grants if wallet else ())
        if grant.held_nano or (grant.remaining_nano and not 0 < grant.expires_at_ms <= now_ms)
    ]
    known = {each.allowance_id for each in (wallet.allowances if wallet else ())}
    recurring = {allowance_id(each.name): each for each in settings.recurring_grants(customer_id)}
    ended = {number for number, each in recurring.items() if not each.amount_nano}
    opening = [
        each.amount_nano
        for number, each in recurring.items()
        if each.amount_nano and number not in known
    ]
    where = f"customers.{customer_id}"
    grants = len(open_grants) + len(opening) + len(coming)
    if coming and grants > MAX_GRANTS:
        yield f"{where}: would have {grants} open grants; a wallet takes {MAX_GRANTS}. {_TOO_MANY}"
    allowances = len(known - ended) + len(opening)
    if opening and allowances > MAX_ALLOWANCES:
        yield f"{where}: would have {allowances} recurring grants; a wallet takes {MAX_ALLOWANCES}."
    total = (wallet.granted_nano if wallet else 0) + sum(opening)
    total += sum(grant.amount_nano for grant in coming)
    if total > MAX_AMOUNT_NANO:
        yield f"{where}: the grants add up to more than a wallet can hold."
