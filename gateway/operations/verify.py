"""`verify`: do the identities of the ledger hold, over every wallet, every shard and the store?

1. granted − settled − expired − voided + adjusted = remainders − overdraft, per wallet;
2. held = the pending reservations' allocations, per grant and per wallet;
3. each ended reservation has exactly one event, each balance change one entry: so the sums of
   the events are the sums in the wallets;
4. no gap and no repeat in the numbering of events, in the outbox and in the store.

It runs beside a working gate. Each shard is read as of one moment, whose last event is L; then
the outbox up to L; then the store up to L. In this order: an event that is trimmed before the
outbox is read has been stored before it, so it is seen in the store. What ends after L is left out.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.domain.delivery import START, EventStore, Place, ShardContents
from gateway.domain.events import Event
from gateway.domain.money import format_amount
from gateway.ledger.audit import Audit, ShardSnapshot
from gateway.ledger.codec.records import Ended, Reservation, Wallet
from gateway.ledger.outbox import Entry, Outbox

Identity = Literal["money", "holds", "events", "numbering", "delivery", "records"]

_SUM_OF: Final[Mapping[str, str]] = {
    "settle": "settled",
    "expire": "settled",
    "settle_late": "settled",
    "grant": "granted",
    "expire_grant": "expired",
    "void": "voided",
    "adjust": "adjusted",
}
"""Which lifetime sum of a wallet each kind of event moves; the others move none."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. `subject` names the wallet, reservation, shard or event."""

    identity: Identity
    subject: str
    message: str


@dataclass(slots=True)
class Verified:
    """What was looked at, and what was found. No drift is the promise."""

    wallets: int = 0
    holds: int = 0
    ended: int = 0
    events_stored: int = 0
    events_in_outbox: int = 0
    drifts: list[Drift] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether everything held."""
        return not self.drifts


Progress = Callable[[str, int, int], None]
"""Told what is being looked at, how much of it is done, of how much (0: not known)."""


async def verify(
    audit: Audit, outbox: Outbox, store: EventStore, progress: Progress | None = None
) -> Verified:
    """Check every identity. Raises LedgerUnavailable."""
    tell = progress or (lambda _what, _done, _total: None)
    verified = Verified()
    ended, pending = await _walk(audit, tell)
    shards, epochs = audit.keys.shard_count, {}
    for number in range(shards):
        tell("shards", number, shards)
        snapshot = await audit.snapshot(number)
        epochs[number] = snapshot.shard.last.epoch
        entries = await outbox.scan(number, snapshot.shard.last)
        contents = await asyncio.to_thread(store.shard_contents, number, snapshot.shard.last)
        check = _ShardCheck(verified, snapshot, entries, contents)
        check.run()
        await check.ends(ended.get(number, {}), store)
        await _orphans(verified, audit, number, pending.get(number, set()) - snapshot.holds.keys())
        check.not_ahead((await audit.snapshot(number)).shard.last if check.ahead else None)
    tell("shards", shards, shards)
    await asyncio.to_thread(_the_store_itself, verified, store, epochs)
    return verified


async def _walk(
    audit: Audit, tell: Progress
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
        tell("reservations", seen, 0)
    return ended, pending


async def _orphans(verified: Verified, audit: Audit, number: int, missing: set[str]) -> None:
    """Holds that were seen on the walk and had no deadline: ended meanwhile, or never to end."""
    for reservation_id in missing:
        if isinstance(await audit.reservation(number, reservation_id), Reservation):
            verified.drifts.append(
                Drift("holds", reservation_id, "is pending and has no deadline: it would never end")
            )


def _the_store_itself(verified: Verified, store: EventStore, epochs: Mapping[int, int]) -> None:
    """epochs: in which each shard is now"""
    for sentence in store.contradictions():
        verified.drifts.append(Drift("events", "store", sentence))
    for letter in store.dead_letters(1000):
        place = f"shard {letter.shard} {letter.epoch}-{letter.seq}"
        what = f"dead letter at {place}: {letter.reason}"
        verified.drifts.append(Drift("delivery", letter.event_id or place, what))
    for anomaly in store.anomalies(1000):
        if anomaly.kind == "ledger_behind" and epochs.get(anomaly.shard, 0) > anomaly.after.epoch:
            continue  # a new epoch begins with a repair
        after, found = "-".join(map(str, anomaly.after)), "-".join(map(str, anomaly.found))
        what = f"the exporter noticed {anomaly.kind}: {after} → {found}"
        verified.drifts.append(Drift("numbering", f"shard {anomaly.shard}", what))


class _ShardCheck:
    """One shard: its records, its outbox and its part of the store, all up to one place."""

    def __init__(
        self,
        verified: Verified,
        snapshot: ShardSnapshot,
        entries: Sequence[Entry],
        contents: ShardContents,
    ) -> None:
        self._verified = verified
        self._snapshot = snapshot
        self._contents = contents
        self._name = f"shard {snapshot.number}"
        self._last = snapshot.shard.last
        self._cursor = contents.cursor or START
        self._entries = entries
        self._undelivered = [e for e in entries if Place(e.epoch, e.seq) > self._cursor]

    def run(self) -> None:
        """All that can be said without asking again."""
        verified, snapshot = self._verified, self._snapshot
        verified.wallets += len(snapshot.wallets)
        verified.holds += len(snapshot.holds)
        verified.events_stored += sum(span.count for span in self._contents.spans)
        verified.events_in_outbox += len(self._undelivered)
        if snapshot.shard.frozen:
            what = "is frozen: it has lost entries; `creditgate ledger reopen` repairs it"
            self._drift("delivery", self._name, what)
        for sentence in snapshot.faults:
            self._drift("records", self._name, sentence)
        for customer_id, wallet in snapshot.wallets.items():
            self._money(customer_id, wallet)
        self._holds()
        self._sums()
        self._numbering()
        self._delivery()

    # Identity 1

    def _money(self, customer_id: str, wallet: Wallet) -> None:
        moved = wallet.granted_nano - wallet.settled_nano - wallet.expired_nano
        moved += wallet.adjusted_nano - wallet.voided_nano
        remains = sum(grant.remaining_nano for grant in wallet.grants) - wallet.overdraft_nano
        if moved != remains:
            self._differ("money", customer_id, "lifetime sums", moved, "what is left", remains)

    # Identity 2

    def _holds(self) -> None:
        held: dict[str, int] = defaultdict(int)
        count: dict[str, int] = defaultdict(int)
        on_grant: dict[tuple[str, int], int] = defaultdict(int)
        for reservation_id, hold in self._snapshot.holds.items():
            held[hold.customer_id] += hold.held_nano
            count[hold.customer_id] += 1
            for grant_no, nano in hold.allocations:
                on_grant[hold.customer_id, grant_no] += nano
            allocated = sum(nano for _, nano in hold.allocations)
            if allocated != hold.held_nano:
                self._differ("holds", reservation_id, "hold", hold.held_nano, "parts", allocated)
            if hold.customer_id not in self._snapshot.wallets:
                self._drift("holds", reservation_id, f"{hold.customer_id} has no wallet here")
        for customer_id, wallet in self._snapshot.wallets.items():
            pairs = [("the wallet", wallet.held_nano, held[customer_id])]
            pairs.append(
                ("its credit limit", wallet.held_credit_nano, on_grant.pop((customer_id, 0), 0))
            )
            for grant in wallet.grants:
                there = on_grant.pop((customer_id, grant.no), 0)
                pairs.append((f"grant {grant.no}", grant.held_nano, there))
            for what, says, there in pairs:
                if says != there:
                    self._differ("holds", customer_id, f"held on {what}", says, "holds", there)
            if wallet.open_reservations != count[customer_id]:
                self._drift(
                    "holds",
                    customer_id,
                    f"counts {wallet.open_reservations} open reservations, {count[customer_id]} are",
                )
        for (customer_id, grant_no), nano in on_grant.items():
            if nano and customer_id in self._snapshot.wallets:
                what = f"{format_amount(nano)} held on grant {grant_no}, which is not there"
                self._drift("holds", customer_id, what)

    # Identity 3

    def _sums(self) -> None:
        sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for customer_id, by_kind in self._contents.totals_nano.items():
            for kind, nano in by_kind.items():
                sums[customer_id][_SUM_OF.get(kind, "")] += nano
        for entry in self._undelivered:
            if isinstance(entry, Event):
                sums[entry.customer_id][_SUM_OF.get(entry.kind, "")] += entry.amount_nano
            else:
                place = f"{self._name} {entry.epoch}-{entry.seq}"
                self._drift("events", place, f"entry of the outbox: {entry.reason}")
        for customer_id, wallet in self._snapshot.wallets.items():
            told = sums.pop(customer_id, {})
            for name, says in (
                ("granted", wallet.granted_nano),
                ("settled", wallet.settled_nano),
                ("expired", wallet.expired_nano),
                ("voided", wallet.voided_nano),
                ("adjusted", wallet.adjusted_nano),
            ):
                if says != told.get(name, 0):
                    self._differ("events", customer_id, name, says, "its events", told.get(name, 0))
        for customer_id in sums:
            self._drift("events", customer_id, "has events and no wallet")

    async def ends(self, ended: Mapping[str, Ended], store: EventStore) -> None:
        """Each tombstone's event is where it says, and says the same."""
        self._verified.ended += len(ended)
        there: dict[Place, tuple[str | None, int]] = {}
        for entry in self._undelivered:
            amount = entry.amount_nano if isinstance(entry, Event) else 0
            there[Place(entry.epoch, entry.seq)] = (entry.event_id, amount)
        stored: dict[int, list[int]] = defaultdict(list)
        for record in ended.values():
            if record.epoch and Place(record.epoch, record.seq) <= self._cursor:
                stored[record.epoch].append(record.seq)
        for epoch, seqs in stored.items():
            found = await asyncio.to_thread(store.at_places, self._snapshot.number, epoch, seqs)
            there.update((Place(epoch, seq), event) for seq, event in found.items())
        for reservation_id, record in ended.items():
            if not record.epoch:
                continue  # released before there was a hold: no event
            event_id, amount = there.get(Place(record.epoch, record.seq), (None, 0))
            wanted = f"{reservation_id}:{record.outcome}"
            if event_id != wanted:
                where = f"{record.epoch}-{record.seq}"
                self._drift("events", wanted, f"should be at {where}; there is {event_id}")
            elif record.outcome != "settled_late" and amount != record.charged_nano:
                self._differ("events", wanted, "charged", record.charged_nano, "event", amount)

    # Identity 4

    def _numbering(self) -> None:
        for span in self._contents.spans:
            if span.first_seq != 0 or span.count != span.last_seq + 1:
                self._drift(
                    "numbering",
                    self._name,
                    f"the store has {span.count} of the entries 0 … {span.last_seq}"
                    f" of epoch {span.epoch}",
                )
        at = self._cursor
        for entry in self._undelivered:
            place = Place(entry.epoch, entry.seq)
            if not place.follows(at):
                self._drift("numbering", self._name, f"the outbox goes from {at} to {place}")
            at = place
        if at < self._last and not (self._last.seq < 0 and self._last.epoch > at.epoch):
            self._drift("numbering", self._name, f"events end at {at}, the shard says {self._last}")

    def _delivery(self) -> None:
        acked = self._snapshot.shard.acked
        if acked is not None and acked > self._cursor:
            what = f"trimmed up to {acked}, and the store ends at {self._cursor}"
            self._drift("delivery", self._name, what)

    @property
    def ahead(self) -> bool:
        """The store knows more than the shard did: it moved on, or the shard went back."""
        return self._cursor > self._last

    def not_ahead(self, last: Place | None) -> None:
        """Given where the shard ends after the store was read: the store cannot be beyond."""
        if last is not None and self._cursor > last:
            what = f"the store ends at {self._cursor}, the shard at {last}: the ledger lost a tail"
            self._drift("delivery", self._name, what)

    def _drift(self, identity: Identity, subject: str, message: str) -> None:
        self._verified.drifts.append(Drift(identity, subject, message))

    def _differ(
        self, identity: Identity, subject: str, one: str, says: int, other: str, there: int
    ) -> None:
        by = format_amount(says - there)
        self._drift(
            identity,
            subject,
            f"{one} {format_amount(says)}, {other} {format_amount(there)}: differs by {by}",
        )
