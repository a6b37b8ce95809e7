"""The wallets of one frozen shard against their events: what `verify` says of them, before it is opened.

A frozen shard writes nothing, so its records, its outbox and the store can be read one after the other.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.delivery import Place, ShardContents
from gateway.domain.stores import EventStore
from gateway.ledger.audit import Audit
from gateway.ledger.codec.outbox_entries import Entry
from gateway.operations.drifts import Findings
from gateway.operations.shard_check import ShardCheck

SUMS_WITHIN_S: Final = 10.0
"""How long the store may take to add up a shard's events. A shard does not stay shut for it any longer."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a shard has beyond the store, after a repair. stored: the store's last event. entries: of its
    outbox, which the store has not"""

    number: int
    stored: Place
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class CheckedWallets:
    """differing: customer → how its wallet differs. complete: false where the store took too long to add up"""

    differing: Mapping[str, str]
    complete: bool


async def differing_wallets(audit: Audit, store: EventStore, kept: Kept) -> CheckedWallets:
    """Check the identities of each wallet of a frozen shard. Raises LedgerUnavailable."""
    number, stored = kept.number, kept.stored
    snapshot = await audit.frozen_snapshot(number)
    asked = asyncio.create_task(asyncio.to_thread(store.shard_contents, number, stored))
    await asyncio.wait({asked}, timeout=SUMS_WITHIN_S)
    complete = asked.done()
    contents = asked.result() if complete else ShardContents(stored, {}, ())
    # Behind the store's last event, where a repaired shard has them.
    epoch = stored.epoch + 1
    entries = [replace(entry, epoch=epoch, seq=seq) for seq, entry in enumerate(kept.entries)]
    findings = Findings()
    ShardCheck(findings, snapshot, entries, replace(contents, cursor=stored)).wallets(sums=complete)
    owners = {hold_id: hold.customer_id for hold_id, hold in snapshot.holds.items()}
    differing: dict[str, str] = {}
    for drift in findings.drifts:
        subject = owners.get(drift.subject, drift.subject)
        if not subject.startswith("shard "):  # an entry that nobody can read: it names no wallet
            differing.setdefault(subject, drift.message)
    return CheckedWallets(differing, complete)
