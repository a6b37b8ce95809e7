"""Wallets as documents for people and programs, and the names of operations on them.

Amounts are decimal strings of credits, times RFC 3339 in UTC. What a wallet has depends on the
moment (grants begin and expire), so it is always asked at one of the ledger's clock.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from gateway.domain.money import format_amount
from gateway.domain.standing import Standing, standing_document
from gateway.ledger.codec.operations import allowance_id
from gateway.ledger.codec.records import Grant, Wallet
from gateway.operations.documents import timestamp


def grant_operation_id(customer_id: str, key: str) -> str:
    """The operation id of a grant with this idempotency key.

    It is the id of the grant's event too, and those are unique over all customers.
    """
    return f"grant:{customer_id}:{key}"


def void_operation_id(customer_id: str, grant_no: int) -> str:
    """The operation id of voiding a grant: a grant is voided once."""
    return f"void:{customer_id}:{grant_no}"


def wallet_document(
    customer_id: str,
    wallet: Wallet,
    now_ms: int,
    *,
    names: Mapping[int, str],
    groups: Mapping[str, int],
    limits: Iterable[Standing] = (),
    voided: Collection[int] = (),
    recurring: Collection[str] = (),
) -> dict[str, Any]:
    """One wallet with its grants, in the order they are spent, and what recurs.

    names:  of grants by number. groups: model groups by name, as configured
    limits: as they stand
    voided: numbers of grants that were taken back
    recurring: names of the recurring grants that the configuration gives the customer
    `available` is for models that are in no group; where grants pay for some groups alone,
    `available_by_group` says what there is for each of those.
    """
    bits = {name: 1 << (number - 1) for name, number in groups.items()}
    scoped = {
        name: format_amount(wallet.available_nano(now_ms, bit))
        for name, bit in bits.items()
        if any(grant.scope_bits & bit for grant in wallet.grants)
    }
    return {
        **wallet_summary(customer_id, wallet, now_ms),
        **({"available_by_group": scoped} if scoped else {}),
        "overdraft": format_amount(wallet.overdraft_nano),
        "expired": format_amount(wallet.expired_nano),
        "voided": format_amount(wallet.voided_nano),
        "adjusted": format_amount(wallet.adjusted_nano),
        "open_reservations": wallet.open_reservations,
        "account_rev": wallet.account_rev,
        "grants": [
            _grant(
                grant,
                now_ms,
                names,
                [n for n, bit in bits.items() if grant.scope_bits & bit],
                voided=grant.no in voided,
            )
            for grant in wallet.grants
        ],
        "limits": [standing_document(standing) for standing in limits],
        "recurring_grants": _recurring(wallet, names, recurring),
    }


def wallet_status(wallet: Wallet) -> str:
    """active, frozen (nothing new runs), or killed (what ran was cut, too)."""
    return "killed" if wallet.killed else "frozen" if wallet.frozen else "active"


def _recurring(
    wallet: Wallet, names: Mapping[int, str], recurring: Collection[str]
) -> list[dict[str, Any]]:
    by_id = {allowance_id(name): name for name in recurring}
    return [
        {
            "name": by_id.get(each.allowance_id) or names.get(each.grant_no),
            "every": each.period,
            "amount": format_amount(each.amount_nano),
            "rollover_max": format_amount(each.rollover_max_nano),
            "configured": each.allowance_id in by_id,
        }
        for each in wallet.allowances
        if each.amount_nano
    ]


def wallet_summary(customer_id: str, wallet: Wallet, now_ms: int) -> dict[str, Any]:
    """One wallet in a list."""
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


def _grant(
    grant: Grant, now_ms: int, names: Mapping[int, str], groups: list[str], *, voided: bool
) -> dict[str, Any]:
    status = "active"
    if not grant.active(now_ms):
        status = "not yet" if grant.effective_at_ms > now_ms else "expired"
    if voided:
        status = "voided"
    return {
        "grant": grant.no,
        "name": names.get(grant.no),
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
