"""`verify`: check that the identities of the ledger hold, over every wallet, every shard and the store.

1. granted − settled − expired − voided + adjusted = remainders − overdraft, per wallet;
2. held = the pending reservations' allocations, per grant and per wallet;
3. each ended reservation has exactly one event, each balance change one entry: so the sums of
   the events are the sums in the wallets;
4. no gap and no repeat in the numbering of events, in the outbox and in the store.

It runs while gates work. Each shard is read as of one moment, whose last event is L; then
the outbox up to L; then the store up to L. In this order: an event that is trimmed before the
outbox is read has been stored before it, so it is seen in the store. What ends after L is left out.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping

from gateway.domain.stores import EventStore
from gateway.ledger.audit import Audit
from gateway.ledger.codec.reservation_records import Ended, Reservation
from gateway.ledger.outbox import Outbox
from gateway.operations.drifts import Findings, Verified
from gateway.operations.shard_check import ShardCheck

Progress = Callable[[str, int, int], None]
"""Called with what is being checked, how much of it is done, of how much (0: not known)."""


async def verify(
    audit: Audit, outbox: Outbox, store: EventStore, progress: Progress | None = None
) -> Verified:
    """Check every identity. Raises LedgerUnavailable."""
    report = progress or (lambda _what, _done, _total: None)
    findings = Findings()
    ended, pending = await _walk(audit, report)
    shards, epochs = audit.keys.shard_count, {}
    for number in range(shards):
        report("shards", number, shards)
        snapshot = await audit.snapshot(number)
        epochs[number] = snapshot.shard.last.epoch
        entries = await outbox.scan(number, snapshot.shard.last)
        contents = await asyncio.to_thread(store.shard_contents, number, snapshot.shard.last)
        check = ShardCheck(findings, snapshot, entries, contents)
        check.run()
        await check.ends(ended.get(number, {}), store)
        await _orphans(findings, audit, number, pending.get(number, set()) - snapshot.holds.keys())
        check.not_ahead((await audit.snapshot(number)).shard.last if check.ahead else None)
    report("shards", shards, shards)
    await asyncio.to_thread(_the_store_itself, findings, store, epochs)
    return findings.verified()


async def _walk(
    audit: Audit, report: Progress
) -> tuple[Mapping[int, dict[str, Ended]], Mapping[int, set[str]]]:
    """Every reservation before the shards are read: so each tombstone's event is at or before L."""
    ended: dict[int, dict[str, Ended]] = defaultdict(dict)
    pending: dict[int, set[str]] = defaultdict(set)
    seen = 0
    async for page in audit.reservations():
        for number, reservation_id, record in page:
            if isinstance(record, Ended):
                ended[number][reservation_id] = record
            else:
                pending[number].add(reservation_id)
        seen += len(page)
        report("reservations", seen, 0)
    return ended, pending


async def _orphans(findings: Findings, audit: Audit, number: int, missing: set[str]) -> None:
    """Holds that were seen on the walk and had no deadline: ended meanwhile, or never to end."""
    for reservation_id in missing:
        if isinstance(await audit.reservation(number, reservation_id), Reservation):
            findings.drift(
                "holds", reservation_id, "is pending and has no deadline: it would never end"
            )


def _the_store_itself(findings: Findings, store: EventStore, epochs: Mapping[int, int]) -> None:
    """epochs: in which each shard is now"""
    for sentence in store.contradictions():
        findings.drift("events", "store", sentence)
    for letter in store.dead_letters(1000):
        place = f"shard {letter.shard} {letter.epoch}-{letter.seq}"
        what = f"dead letter at {place}: {letter.reason}"
        findings.drift("delivery", letter.event_id or place, what)
    for anomaly in store.anomalies(1000):
        if anomaly.kind == "ledger_behind" and epochs.get(anomaly.shard, 0) > anomaly.after.epoch:
            continue  # a new epoch begins with a repair
        after, found = "-".join(map(str, anomaly.after)), "-".join(map(str, anomaly.found))
        what = f"the exporter noticed {anomaly.kind}: {after} → {found}"
        findings.drift("numbering", f"shard {anomaly.shard}", what)
