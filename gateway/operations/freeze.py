"""`freeze`, `thaw`, `kill`: whether a wallet admits requests, and whether running ones go on."""

from dataclasses import dataclass
from typing import Final, Literal

from gateway.domain.customers import CustomerRecord
from gateway.ledger.client.errors import LedgerRefusal
from gateway.ledger.codec.operations import AccountTerms
from gateway.ledger.codec.wallet_records import Wallet
from gateway.operations.audit import signed
from gateway.operations.backend import Backend
from gateway.operations.customers import owner_of, wallet_of
from gateway.operations.errors import Conflict

WalletStatus = Literal["active", "frozen", "killed"]
"""active; frozen: nothing new is admitted; killed: running requests are cancelled as well."""


_ACTIONS: Final[dict[WalletStatus, str]] = {
    "active": "wallet.thaw",
    "frozen": "wallet.freeze",
    "killed": "wallet.kill",
}


@dataclass(frozen=True, slots=True)
class StatusSet:
    """A wallet's status. changed: false where it was the same before."""

    customer_id: str
    status: WalletStatus
    changed: bool


async def freeze(backend: Backend, customer_id: str, reason: str | None = None) -> StatusSet:
    """Admit nothing new until `thaw`. Running requests may spend what they hold, not more.

    Raises NotFound, Conflict, LedgerUnavailable; so do the other two.
    """
    return await _set_status(backend, customer_id, "frozen", reason)


async def kill(backend: Backend, customer_id: str, reason: str | None = None) -> StatusSet:
    """Freeze, and cancel running requests on every gate."""
    done = await _set_status(backend, customer_id, "killed", reason)
    if done.changed:
        await backend.changes.announce(customer_id)
    return done


async def thaw(backend: Backend, customer_id: str, reason: str | None = None) -> StatusSet:
    """End a freeze, whether an operator, unusual spending or a repair has caused it.

    Raises Conflict for a suspended or deleted customer, too: only `resume_customer` ends a suspension.
    """
    owner = await owner_of(backend, customer_id)
    if isinstance(owner, CustomerRecord) and owner.status != "active":
        how = (
            f"resume it with `creditgate customer resume {owner.customer_id}`"
            if owner.status == "suspended"
            else "that is permanent"
        )
        raise Conflict(f"the customer {owner.customer_id} is {owner.status}: {how}")
    return await _set_status(backend, customer_id, "active", reason)


def wallet_status(wallet: Wallet) -> WalletStatus:
    """The status of a wallet."""
    return "killed" if wallet.killed else "frozen" if wallet.frozen else "active"


async def _set_status(
    backend: Backend, customer_id: str, status: WalletStatus, reason: str | None
) -> StatusSet:
    wallet = await wallet_of(backend, customer_id)
    before = wallet_status(wallet)
    if status == "active":
        # First: a wallet that stays frozen because this dies here is not listed, and thawing it again opens it.
        await backend.losses.mark_thawed(customer_id)
    if status == before:
        return StatusSet(customer_id, status, changed=False)
    try:
        await backend.wallets.account(
            customer_id,
            AccountTerms(
                wallet.account_rev + 1, wallet.credit_limit_nano, status, wallet.billing_day
            ),
            signed(
                backend,
                _ACTIONS[status],
                reason,
                before={"status": before},
                after={"status": status},
            ),
        )
    except LedgerRefusal as refused:
        raise Conflict(
            f"{customer_id} was changed by someone else at the same time; retry"
        ) from refused
    return StatusSet(customer_id, status, changed=True)
