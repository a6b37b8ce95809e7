"""Creating, changing, suspending and deleting customers while gates run.

Each ends with a higher revision of the customer's wallets, so that every gate reads the customer again
before it admits the next request. Customers of the configuration are changed there.

A creation that was interrupted is completed by repeating it. A change that was interrupted may be repeated
as well.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, Final, Literal

from gateway.domain.customers import CustomerRecord, wallet_id
from gateway.domain.limits import Limit
from gateway.ledger.codec.stored_keys import StoredKey
from gateway.ledger.customers import CustomerChanged, CustomerExists, ExternalIdTaken
from gateway.operations.audit import Noted, audited
from gateway.operations.backend import Backend
from gateway.operations.customer_check import check_record
from gateway.operations.customer_notes import difference, shown_of, status_noted
from gateway.operations.customers import CustomerView, find_customer, get_customer
from gateway.operations.errors import Conflict
from gateway.operations.freeze import freeze, thaw
from gateway.operations.wallet_terms import TermsRefused, TermsWriter, WalletTerms

PURPOSES: Final[tuple[Literal["live", "test", "shadow"], ...]] = ("live", "test", "shadow")


class Unchanged(Enum):
    """The type of `UNCHANGED`, for a field that a change leaves alone."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """A customer to create; the fields are those of `CustomerRecord`. customer_id: None makes one up."""

    customer_id: str | None = None
    plan: str | None = None
    name: str | None = None
    email: str | None = None
    external_ids: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    credit_limit_nano: int | None = None
    billing_day: int | None = None
    models: frozenset[str] | None = None
    limits: tuple[Limit, ...] = ()
    projects: Mapping[str, tuple[Limit, ...]] = field(default_factory=dict)
    prices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CustomerChange:
    """What to change; each field replaces that of the record."""

    plan: str | Unchanged | None = UNCHANGED
    name: str | Unchanged | None = UNCHANGED
    email: str | Unchanged | None = UNCHANGED
    external_ids: Mapping[str, str] | Unchanged = UNCHANGED
    tags: Mapping[str, str] | Unchanged = UNCHANGED
    credit_limit_nano: int | Unchanged | None = UNCHANGED
    billing_day: int | Unchanged | None = UNCHANGED
    models: frozenset[str] | Unchanged | None = UNCHANGED
    limits: tuple[Limit, ...] | Unchanged = UNCHANGED
    projects: Mapping[str, tuple[Limit, ...]] | Unchanged = UNCHANGED
    prices: Mapping[str, str] | Unchanged = UNCHANGED

    def of(self, record: CustomerRecord) -> CustomerRecord:
        """The record with the change made."""
        changed = {each.name: getattr(self, each.name) for each in fields(self)}
        given = {name: value for name, value in changed.items() if value is not UNCHANGED}
        return replace(record, **given)


async def create_customer(
    backend: Backend, new: NewCustomer, reason: str | None = None
) -> CustomerView:
    """Create a customer and its wallet, with the starting grants of its plan.

    Raises Conflict, LedgerUnavailable.
    """
    customer_id = new.customer_id or f"cus_{secrets.token_hex(10)}"
    given: dict[str, Any] = {
        each.name: getattr(new, each.name) for each in fields(new) if each.name != "customer_id"
    }
    if customer_id in backend.configured.customer_ids:
        raise Conflict(f"there is a customer {customer_id} in the configuration already")
    record = CustomerRecord(customer_id, await backend.accounts.now_ms(), **given)
    terms = await check_record(backend, record)
    present = await backend.accounts.customers.read(customer_id)
    if present is not None:
        if replace(record, created_at_ms=present.created_at_ms) != present:
            raise Conflict(f"there is, or was, a customer {customer_id} already")
        record = present  # its creation was interrupted
    noted = Noted("customer.create", customer_id, customer_id, reason, after=shown_of(record))
    async with audited(backend, noted):
        if present is None:
            await _create(backend, record)
        await _write_terms(backend, customer_id, terms, reason)
        await _replace(backend, record, replace(record, terms_digest=terms.digest()))
    return await get_customer(backend, customer_id)


async def update_customer(
    backend: Backend, customer_id: str, change: CustomerChange, reason: str | None = None
) -> CustomerView:
    """Change a customer. A new plan gives its starting grants, and ends what recurred in the old one.

    Raises NotFound, Conflict, LedgerUnavailable.
    """
    before = await _record(backend, customer_id)
    after = change.of(before)
    terms = await check_record(backend, after)
    was, becomes = difference(before, after)
    noted = Noted("customer.update", customer_id, customer_id, reason, was, becomes)
    async with audited(backend, noted):
        if terms.digest() == before.terms_digest:
            await _replace(backend, before, after)
        else:
            await _end_old_grants(backend, before, terms, reason)
            unfinished = replace(after, terms_digest="")
            await _replace(backend, before, unfinished)
            for account_id in await _accounts(backend, customer_id):
                await _write_terms(backend, account_id, terms, reason)
            await _replace(backend, unfinished, replace(after, terms_digest=terms.digest()))
        await _reread(backend, customer_id)
    return await get_customer(backend, customer_id)


async def suspend_customer(
    backend: Backend, customer_id: str, reason: str | None = None
) -> CustomerView:
    """Admit nothing of a customer until `resume_customer`; running requests end and are charged.

    Raises NotFound, Conflict, LedgerUnavailable; so do the other two.
    """
    record = await _record(backend, customer_id)
    async with audited(backend, status_noted("customer.suspend", record, "suspended", reason)):
        if record.status != "suspended":
            await _replace(backend, record, replace(record, status="suspended"))
        await _freeze(backend, customer_id, reason or "customer suspended")
    return await get_customer(backend, customer_id)


async def resume_customer(
    backend: Backend, customer_id: str, reason: str | None = None
) -> CustomerView:
    """End a suspension, and any other freeze of the customer's wallets."""
    record = await _record(backend, customer_id)
    async with audited(backend, status_noted("customer.resume", record, "active", reason)):
        if record.status != "active":
            await _replace(backend, record, replace(record, status="active"))
        for account_id in await _accounts(backend, customer_id):
            await thaw(backend, account_id, reason or "customer resumed")
            await backend.changes.announce(account_id)
    return await get_customer(backend, customer_id)


async def delete_customer(
    backend: Backend, customer_id: str, reason: str | None = None
) -> CustomerView:
    """Erase a customer's personal data, revoke its keys and freeze its wallets, permanently.

    The books stay: wallet, events and statements, under the id, which is never used again.
    """
    record = await backend.accounts.customers.read(customer_id)
    if record is None or record.status != "deleted":
        record = await _record(backend, customer_id)
    async with audited(backend, status_noted("customer.delete", record, "deleted", reason)):
        if record.status != "deleted":
            erased = CustomerRecord(customer_id, record.created_at_ms, record.plan, "deleted")
            await _replace(backend, record, erased)
        now_ms, keys = await backend.accounts.now_ms(), backend.accounts.keys

        def ended(key: StoredKey) -> StoredKey:
            return replace(key.revoked(now_ms), terms=replace(key.terms, name=None))

        for key in await keys.entries(customer_id):
            if key.revoked_at_ms is None or key.terms.name is not None:
                await keys.change(backend.wallets, key, ended)
        await _freeze(backend, customer_id, reason or "customer deleted")
    return await get_customer(backend, customer_id)


async def open_test_wallet(backend: Backend, customer_id: str) -> None:
    """Make the wallet of a customer's test keys, with what its plan gives, if there is none.

    Raises NotFound, Conflict, LedgerUnavailable.
    """
    account_id = wallet_id(customer_id, "test")
    if (await backend.accounts.wallets.account_rev(account_id)) is None:
        owner = await find_customer(backend, customer_id)
        terms = backend.configured.terms(owner)
        await _write_terms(backend, account_id, terms, "test wallet")
        if isinstance(owner, CustomerRecord) and owner.status == "suspended":
            await freeze(backend, account_id, "customer suspended")


async def _record(backend: Backend, customer_id: str) -> CustomerRecord:
    """The record of a customer that may be changed here. Raises NotFound, Conflict."""
    found = await find_customer(backend, customer_id)
    if isinstance(found, str):
        raise Conflict(
            f"{customer_id} is kept in the configuration, under customers.{customer_id}: change it"
            " there; a running gate reloads the file by itself. Its credit, freezes and keys can be"
            " changed here (`creditgate wallet`, `creditgate key`)"
        )
    return found


async def _create(backend: Backend, record: CustomerRecord) -> None:
    try:
        await backend.accounts.customers.create(record)
    except (CustomerExists, ExternalIdTaken) as taken:
        raise Conflict(str(taken)) from taken


async def _replace(backend: Backend, before: CustomerRecord, after: CustomerRecord) -> None:
    try:
        await backend.accounts.customers.replace(before, after)
    except ExternalIdTaken as taken:
        raise Conflict(str(taken)) from taken
    except CustomerChanged as changed:
        raise Conflict(f"{changed}; retry") from changed


async def _end_old_grants(
    backend: Backend, before: CustomerRecord, terms: WalletTerms, reason: str | None
) -> None:
    """End what recurs by the old terms and not by the new ones; first, for afterwards nothing shows what
    the old terms were. Where the old plan is not configured any more, it goes on."""
    try:
        old = backend.configured.terms(before)
    except KeyError:
        return
    writer = TermsWriter(backend.wallets, backend.accounts.wallets, str(backend.actor), reason)
    ids = await _accounts(backend, before.customer_id)
    for account_id, wallet in (await backend.accounts.wallets.read(ids)).items():
        await writer.end_allowances(account_id, wallet, old.allowances, terms)


async def _write_terms(
    backend: Backend, account_id: str, terms: WalletTerms, reason: str | None
) -> None:
    """Write terms into a wallet, and make it if there is none. Raises Conflict."""
    try:
        writer = TermsWriter(backend.wallets, backend.accounts.wallets, str(backend.actor), reason)
        await writer.apply(account_id, terms)
    except TermsRefused as refused:
        raise Conflict(f"{account_id}: {refused}") from refused


async def _accounts(backend: Backend, customer_id: str) -> list[str]:
    """The customer's wallets that there are."""
    ids = [wallet_id(customer_id, purpose) for purpose in PURPOSES]
    present = await backend.accounts.wallets.read(ids)
    return [each for each in ids if each in present]


async def _freeze(backend: Backend, customer_id: str, reason: str) -> None:
    for account_id in await _accounts(backend, customer_id):
        await freeze(backend, account_id, reason)
        await backend.changes.announce(account_id)


async def _reread(backend: Backend, customer_id: str) -> None:
    """Have every gate read the customer again before its next request."""
    for account_id in await _accounts(backend, customer_id):
        await backend.wallets.bump(account_id, {"reason": "customer updated"})
        await backend.changes.announce(account_id)
