"""Customers: finding the one that an operator names, showing one, listing them.

A customer is in the configuration, or has a record in the ledger. Where both are, gates serve the
configured one.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.domain import customers
from gateway.domain.customers import CustomerRecord
from gateway.domain.limits import Limit
from gateway.domain.money import format_amount
from gateway.domain.suggestions import suggest
from gateway.ledger.codec.wallet_records import Wallet
from gateway.ledger.customers import MAX_LISTED
from gateway.operations.backend import Backend, CustomerRef
from gateway.operations.documents import timestamp
from gateway.operations.errors import Conflict, NotFound

NAMES_COMPARED_MOST: Final = 10_000
"""Comparing names costs some microseconds each: a misspelt one must not take minutes."""

KeptIn = Literal["configuration", "ledger"]


@dataclass(frozen=True, slots=True)
class CustomerView:
    """A customer with its live wallet.

    record: of a configured customer as if it had one, with created_at_ms 0
    wallet: None for one that has none yet
    now_ms: the ledger's clock, Unix ms
    """

    record: CustomerRecord
    kept_in: KeptIn
    wallet: Wallet | None
    now_ms: int


@dataclass(frozen=True, slots=True)
class CustomerList:
    """Customers in the order of their ids. after: where the next page begins; None on the last."""

    customers: tuple[CustomerView, ...]
    after: str | None


async def wallet_of(backend: Backend, account_id: str) -> Wallet:
    """The wallet of this id. Raises NotFound, Conflict, LedgerUnavailable."""
    wallet = (await backend.accounts.wallets.read([account_id])).get(account_id)
    if wallet is not None:
        return wallet
    if account_id in backend.configured.customer_ids:
        raise Conflict(
            f"{account_id} is in the configuration but has no wallet yet: a gate creates it when it"
            " starts or reloads its configuration"
        )
    raise await _not_found(backend, account_id)


async def find_customer(backend: Backend, customer_id: str) -> CustomerRef:
    """A customer that gates serve. Raises NotFound, also for a deleted one; LedgerUnavailable."""
    if customer_id in backend.configured.customer_ids:
        return customer_id
    record = await backend.accounts.customers.read(customer_id)
    if record is None:
        raise await _not_found(backend, customer_id)
    if record.status == "deleted":
        raise NotFound(f"the customer {customer_id} was deleted")
    return record


async def owner_of(backend: Backend, account_id: str) -> CustomerRef:
    """Whose wallet this is, also after the customer was deleted; the id where nothing is known of it.

    Raises LedgerUnavailable.
    """
    customer_id = customers.owner_of(account_id)
    if customer_id in backend.configured.customer_ids:
        return customer_id
    return await backend.accounts.customers.read(customer_id) or customer_id


async def get_customer(backend: Backend, customer_id: str) -> CustomerView:
    """A customer, configured or in the ledger; a deleted one too. Raises NotFound, LedgerUnavailable."""
    configured = backend.configured.customer(customer_id)
    record = configured or await backend.accounts.customers.read(customer_id)
    if record is None:
        raise await _not_found(backend, customer_id)
    [view] = await _views(backend, [record])
    return view


async def list_customers(
    backend: Backend,
    *,
    after: str = "",
    limit: int = 100,
    prefix: str = "",
    plan: str | None = None,
) -> CustomerList:
    """Customers whose ids follow `after` and begin with `prefix`; deleted ones are not listed.

    limit: at most 1,000. plan: only those that are on it; all customers are read until enough are found
    Raises LedgerUnavailable.
    """
    found: list[CustomerRecord] = []
    size = limit if plan is None else MAX_LISTED
    following: str | None = after
    while following is not None and len(found) <= limit:
        records, following = await _page(backend, following, size, prefix)
        found += [each for each in records if plan in (None, each.plan)]
        if plan is None:
            break
    shown = found[:limit]
    more = following is not None or len(found) > limit
    return CustomerList(
        tuple(await _views(backend, shown)), shown[-1].customer_id if more and shown else None
    )


async def _page(
    backend: Backend, after: str, limit: int, prefix: str
) -> tuple[list[CustomerRecord], str | None]:
    """At most `limit` records, and where the next page begins."""
    page = await backend.accounts.customers.page(after=after, limit=limit, prefix=prefix)
    configured = sorted(backend.configured.customer_ids)
    mine = [
        name
        for name in configured[bisect_right(configured, after) :]
        if name.startswith(prefix) and (page.after is None or name <= page.after)
    ]
    own = [record for name in mine[: limit + 1] if (record := backend.configured.customer(name))]
    others = [record for record in page.records if record.customer_id not in set(mine)]
    records = sorted((*own, *others), key=lambda record: record.customer_id)
    if len(records) > limit:
        return records[:limit], records[limit - 1].customer_id
    return records, page.after


async def count_customers(backend: Backend) -> int:
    """How many customers there are, without deleted ones. Raises LedgerUnavailable."""
    return len(backend.configured.customer_ids) + await backend.accounts.customers.count()


def customer_document(view: CustomerView) -> dict[str, Any]:
    """A customer as a JSON document. Amounts are decimal strings; what is null is the plan's."""
    wallet = view.wallet
    return {
        **record_document(view.record),
        "kept_in": view.kept_in,
        "balance": format_amount(wallet.balance_nano(view.now_ms)) if wallet else None,
        "available": format_amount(wallet.available_nano(view.now_ms)) if wallet else None,
        "held": format_amount(wallet.held_nano) if wallet else None,
        "frozen": wallet.frozen if wallet else False,
    }


def record_document(record: CustomerRecord) -> dict[str, Any]:
    """A customer's record as a JSON document."""
    own_limit = record.credit_limit_nano
    return {
        "id": record.customer_id,
        "status": record.status,
        "plan": record.plan,
        "name": record.name,
        "email": record.email,
        "external_ids": dict(record.external_ids),
        "tags": dict(record.tags),
        "credit_limit": None if own_limit is None else format_amount(own_limit),
        "billing_day": record.billing_day,
        "models": None if record.models is None else sorted(record.models),
        "limits": [limit_document(limit) for limit in record.limits],
        "projects": {
            name: {"limits": [limit_document(limit) for limit in limits]}
            for name, limits in record.projects.items()
        },
        "prices": dict(record.prices),
        "created_at": timestamp(record.created_at_ms) if record.created_at_ms else None,
    }


def limit_document(limit: Limit) -> dict[str, Any]:
    """A limit as the configuration writes it."""
    ceiling = format_amount(limit.ceiling) if limit.measure == "spend" else limit.ceiling
    return {
        "scope": limit.scope,
        **({"model": limit.model} if limit.model is not None else {}),
        "measure": limit.measure,
        **({"window": limit.window} if limit.measure != "concurrent" else {}),
        "ceiling": ceiling,
        "rolling": limit.rolling,
    }


async def _views(backend: Backend, records: Sequence[CustomerRecord]) -> list[CustomerView]:
    wallets = await backend.accounts.wallets.read([each.customer_id for each in records])
    now_ms = await backend.accounts.now_ms()
    configured = backend.configured.customer_ids
    return [
        CustomerView(
            record,
            "configuration" if record.customer_id in configured else "ledger",
            wallets.get(record.customer_id),
            now_ms,
        )
        for record in records
    ]


async def _not_found(backend: Backend, customer_id: str) -> NotFound:
    """The error, with a hint: names of the configuration, and of the ledger those that begin alike."""
    page = await backend.accounts.customers.page(prefix=customer_id[:1], limit=1000)
    names: Iterable[str] = (
        *backend.configured.customer_ids,
        *(record.customer_id for record in page.records),
    )
    alike = sorted({name for name in names if name[:1] == customer_id[:1]})
    if not alike:
        alike = sorted(names)
    hint = suggest(customer_id, alike[:NAMES_COMPARED_MOST])
    return NotFound(f"there is no customer {customer_id}. {hint}")
