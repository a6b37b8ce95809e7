"""Wallets that a repair has frozen, because what it restored them from is not complete.

They stay frozen until an operator thaws them. A repair writes the list while the shard is frozen; the
entry of the audit log follows when the shard takes entries again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gateway.ledger.client.errors import LedgerRefusal, ShardClosed
from gateway.ledger.codec.operations import AccountTerms
from gateway.ledger.codec.wallet_records import Wallet
from gateway.operations.audit import signed
from gateway.operations.backend import Backend


@dataclass(frozen=True, slots=True)
class WalletShut:
    """A wallet that a repair has frozen and nobody has thawed.

    event_id: of the event that cannot be replayed; None where the wallet differs from its events
    """

    customer_id: str
    shard: int
    event_id: str | None
    reason: str


async def list_shut_wallets(
    backend: Backend, shards: Collection[int] | None = None
) -> Sequence[WalletShut]:
    """Those that are still frozen, by customer. shards: of these alone. Raises LedgerUnavailable."""
    return [shut for shut, _, _ in await _still_shut(backend, shards)]


async def note_shut_wallets(backend: Backend, shards: Collection[int]) -> Sequence[WalletShut]:
    """The same; those of which the audit log has nothing yet are written into it.

    Raises LedgerUnavailable.
    """
    still_shut = await _still_shut(backend, shards)
    for shut, wallet, noted in still_shut:
        if not noted:
            await _note(backend, shut, wallet)
    return [shut for shut, _, _ in still_shut]


async def _still_shut(
    backend: Backend, shards: Collection[int] | None
) -> list[tuple[WalletShut, Wallet, bool]]:
    listed = await backend.losses.shut_wallets(shards)
    waiting = {name: each for name, each in listed.items() if not each[1].thawed}
    wallets = await backend.accounts.wallets.read(waiting)
    return [
        (WalletShut(name, shard, why.event_id, why.reason), wallets[name], why.noted)
        for name, (shard, why) in sorted(waiting.items())
        if name in wallets and wallets[name].frozen
    ]


async def _note(backend: Backend, shut: WalletShut, wallet: Wallet) -> None:
    """Write the freeze as an operator's is written: then it survives the next loss, too."""
    terms = AccountTerms(
        wallet.account_rev + 1, wallet.credit_limit_nano, wallet.status, wallet.billing_day
    )
    facts = signed(backend, "wallet.freeze", shut.reason, after={"status": wallet.status})
    try:
        await backend.wallets.account(shut.customer_id, terms, facts)
    except (LedgerRefusal, ShardClosed):
        return  # someone has changed it just now, or its shard is frozen again: the next look does it
    await backend.losses.mark_noted(shut.customer_id)
