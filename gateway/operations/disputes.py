"""Disputes of payments: an open one freezes the wallet; when none is left that was not lost, it thaws.

A freeze that somebody else made is left alone, as is that of a suspended or deleted customer. A lost
dispute leaves the wallet frozen: whether the customer may go on is for people to decide.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from gateway.domain.payments import DisputeState, Done, Payment
from gateway.operations.backend import Backend
from gateway.operations.customers import owner_of, wallet_of
from gateway.operations.errors import Conflict
from gateway.operations.freeze import freeze, thaw, wallet_status

_TRIES: Final = 3


async def follow_disputes(backend: Backend, payment: Payment) -> Payment:
    """Bring the wallet's status into line with the payment's disputes.

    Raises NotFound, Conflict, LedgerUnavailable.
    """
    account_id = payment.done.account_id
    if account_id is None:
        return payment
    for dispute_id, dispute in payment.seen.disputes.items():
        shown = payment.done.disputes.get(dispute_id)
        if shown == dispute.state:
            continue
        reason = f"{payment.seen.source} dispute {dispute_id} of payment {payment.seen.payment_id}"
        name = f"{payment.seen.source}:{dispute_id}"
        if dispute.state == "won":
            await _close(backend, account_id, name, f"{reason} won")
        elif shown is None:
            await _open(backend, account_id, name, reason)
        payment = await _shown(backend, payment, dispute_id, dispute.state)
    return payment


async def _open(backend: Backend, account_id: str, name: str, reason: str) -> None:
    async def do() -> None:
        frozen = wallet_status(await wallet_of(backend, account_id)) != "active"
        await backend.accounts.payments.open_dispute(account_id, name, frozen=frozen)
        if not frozen:
            await freeze(backend, account_id, reason)

    await _again(do)


async def _close(backend: Backend, account_id: str, name: str, reason: str) -> None:
    payments = backend.accounts.payments

    async def do() -> None:
        over = await payments.closing_dispute(account_id, name)
        if not over or wallet_status(await wallet_of(backend, account_id)) != "frozen":
            return
        owner = await owner_of(backend, account_id)
        if isinstance(owner, str) or owner.status == "active":
            await thaw(backend, account_id, reason)

    await _again(do)
    await payments.close_dispute(account_id, name)


async def _again(do: Callable[[], Awaitable[None]]) -> None:
    """Do it; again if somebody else changes the wallet at the same moment. Raises Conflict."""
    for attempt in range(_TRIES):
        try:
            await do()
        except Conflict:
            if attempt == _TRIES - 1:
                raise
        else:
            return


async def _shown(
    backend: Backend, payment: Payment, dispute_id: str, state: DisputeState
) -> Payment:
    def changed(before: Payment | None) -> Payment:
        now = before or payment
        done: Done = replace(now.done, disputes={**now.done.disputes, dispute_id: state})
        return replace(now, done=done)

    return await backend.accounts.payments.update(payment.id, changed)
