"""Wallets: one in full, or all in a list.

Documents: amounts are decimal strings of credits, times RFC 3339 in UTC. What a wallet has depends on
the moment (grants begin and expire), so that it always comes with one of the ledger's clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.domain.money import format_amount
from gateway.domain.standing import Standing, standing_document
from gateway.ledger.codec.operations import allowance_id
from gateway.ledger.codec.wallet_records import Grant, Wallet
from gateway.operations.backend import Backend
from gateway.operations.customers import owner_of, wallet_of
from gateway.operations.documents import timestamp
from gateway.operations.freeze import wallet_status


@dataclass(frozen=True, slots=True)
class WalletView:
    """One wallet with what belongs to it.

    now_ms:    the ledger's clock, Unix ms
    names:     of grants, by number
    groups:    model groups by name, as configured, with their numbers from 1
    limits:    with what is used and held of each
    voided:    numbers of grants that were taken back
    recurring: names of the grants that the configuration renews
    """

    customer_id: str
    wallet: Wallet
    now_ms: int
    names: Mapping[int, str] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    limits: Sequence[Standing] = ()
    voided: frozenset[int] = frozenset()
    recurring: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class WalletEntry:
    """A customer in the list; `wallet` is None for one that has none yet."""

    customer_id: str
    wallet: Wallet | None
    now_ms: int


async def show_wallet(backend: Backend, customer_id: str) -> WalletView:
    """One wallet. Raises NotFound, Conflict, LedgerUnavailable."""
    wallet, configured = await wallet_of(backend, customer_id), backend.configured
    names = await backend.audit.grant_names(customer_id)
    for each in wallet.allowances:
        set_by = backend.store.latest_named(f"allowance:{customer_id}:{each.allowance_id}:set:")
        if set_by is not None:
            names.setdefault(each.grant_no, set_by.event.facts["name"])
    return WalletView(
        customer_id,
        wallet,
        await backend.accounts.now_ms(),
        names,
        configured.model_groups,
        await _standings(backend, customer_id),
        await backend.audit.voided_grants(customer_id),
        configured.recurring_grants(await owner_of(backend, customer_id)),
    )


async def list_wallets(backend: Backend) -> list[WalletEntry]:
    """All wallets, and the configured customers that have none yet. Raises LedgerUnavailable."""
    names = sorted({*await backend.accounts.wallets.customers(), *backend.configured.customer_ids})
    wallets = await backend.accounts.wallets.read(names)
    now_ms = await backend.accounts.now_ms()
    return [WalletEntry(name, wallets.get(name), now_ms) for name in names]


def wallet_document(view: WalletView) -> dict[str, Any]:
    """One wallet with its grants, in burn order, and what recurs.

    `available` is for models that are in no group; where grants pay for some groups alone,
    `available_by_group` has what is available for each of those.
    """
    wallet, now_ms = view.wallet, view.now_ms
    bits = {name: 1 << (number - 1) for name, number in view.groups.items()}
    scoped = {
        name: format_amount(wallet.available_nano(now_ms, bit))
        for name, bit in bits.items()
        if any(grant.scope_bits & bit for grant in wallet.grants)
    }
    return {
        **_summary(view.customer_id, wallet, now_ms),
        **({"available_by_group": scoped} if scoped else {}),
        "overdraft": format_amount(wallet.overdraft_nano),
        "expired": format_amount(wallet.expired_nano),
        "voided": format_amount(wallet.voided_nano),
        "adjusted": format_amount(wallet.adjusted_nano),
        "open_reservations": wallet.open_reservations,
        "account_rev": wallet.account_rev,
        "grants": [
            _grant(view, grant, [n for n, bit in bits.items() if grant.scope_bits & bit])
            for grant in wallet.grants
        ],
        "limits": [standing_document(standing) for standing in view.limits],
        "recurring_grants": _recurring(view),
    }


def wallet_entry_document(entry: WalletEntry) -> dict[str, Any]:
    """One wallet in a list."""
    if entry.wallet is None:
        return {"customer_id": entry.customer_id, "status": "no wallet yet"}
    return _summary(entry.customer_id, entry.wallet, entry.now_ms)


async def _standings(backend: Backend, customer_id: str) -> list[Standing]:
    """The limits of a customer, its models, its projects and its keys, with what is used of each."""
    stored = [
        key.as_key()
        for key in await backend.accounts.keys.entries(customer_id)
        if key.revoked_at_ms is None
    ]
    accounts = backend.configured.limited_accounts(await owner_of(backend, customer_id), stored)
    return await backend.accounts.wallets.standings(accounts) if accounts else []


def _summary(customer_id: str, wallet: Wallet, now_ms: int) -> dict[str, Any]:
    return {
        "customer_id": customer_id,
        "status": wallet_status(wallet),
        "balance": format_amount(wallet.balance_nano(now_ms)),
        "held": format_amount(wallet.held_nano),
        "available": format_amount(wallet.available_nano(now_ms)),
        "credit_limit": format_amount(wallet.credit_limit_nano),
        "granted": format_amount(wallet.granted_nano),
        "settled": format_amount(wallet.settled_nano),
    }


def _recurring(view: WalletView) -> list[dict[str, Any]]:
    by_id = {allowance_id(name): name for name in view.recurring}
    return [
        {
            "name": by_id.get(each.allowance_id) or view.names.get(each.grant_no),
            "every": each.period,
            "amount": format_amount(each.amount_nano),
            "rollover_max": format_amount(each.rollover_max_nano),
            "configured": each.allowance_id in by_id,
        }
        for each in view.wallet.allowances
        if each.amount_nano
    ]


def _grant(view: WalletView, grant: Grant, groups: list[str]) -> dict[str, Any]:
    status = "active"
    if not grant.active(view.now_ms):
        status = "not yet" if grant.effective_at_ms > view.now_ms else "expired"
    if grant.no in view.voided:
        status = "voided"
    return {
        "grant": grant.no,
        "name": view.names.get(grant.no),
        "status": status,
        "category": grant.category,
        "priority": grant.priority,
        "remaining": format_amount(grant.remaining_nano),
        "held": format_amount(grant.held_nano),
        "effective_at": timestamp(grant.effective_at_ms or grant.created_at_ms),
        "expires_at": timestamp(grant.expires_at_ms) if grant.expires_at_ms else None,
        "created_at": timestamp(grant.created_at_ms),
        "groups": groups,
    }
