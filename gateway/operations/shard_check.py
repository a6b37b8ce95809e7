"""The identities of `verify` within one shard."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.domain.delivery import START, Place, ShardContents
from gateway.domain.events import Event
from gateway.domain.money import format_amount
from gateway.domain.stores import EventStore
from gateway.ledger.audit import ShardSnapshot
from gateway.ledger.codec.outbox_entries import Entry
from gateway.ledger.codec.reservation_records import Ended
from gateway.ledger.codec.wallet_records import Wallet
from gateway.operations.drifts import Findings, Side

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


class ShardCheck:
    """One shard: its records, its outbox and its part of the store, all up to one place."""

    def __init__(
        self,
        findings: Findings,
        snapshot: ShardSnapshot,
        entries: Sequence[Entry],
        contents: ShardContents,
    ) -> None:
        self._findings = findings
        self._snapshot = snapshot
        self._contents = contents
        self._name = f"shard {snapshot.number}"
        self._last = snapshot.shard.last
        self._cursor = contents.cursor or START
        self._entries = entries
        self._undelivered = [e for e in entries if Place(e.epoch, e.seq) > self._cursor]

    def run(self) -> None:
        """All that can be said without asking again."""
        findings, snapshot = self._findings, self._snapshot
        findings.wallets += len(snapshot.wallets)
        findings.holds += len(snapshot.holds)
        findings.events_stored += sum(span.count for span in self._contents.spans)
        findings.events_in_outbox += len(self._undelivered)
        if snapshot.shard.frozen:
            what = "is frozen: it has lost entries; `creditgate ledger status` says more"
            self._findings.drift("delivery", self._name, what)
        for sentence in snapshot.faults:
            self._findings.drift("records", self._name, sentence)
        self.wallets()
        self._numbering()
        self._delivery()

    def wallets(self, *, sums: bool = True) -> None:
        """Identities 1 to 3. sums: compare each wallet with the sums of its events"""
        for customer_id, wallet in self._snapshot.wallets.items():
            self._money(customer_id, wallet)
        self._holds()
        if sums:
            self._sums()

    # Identity 1

    def _money(self, customer_id: str, wallet: Wallet) -> None:
        moved = wallet.granted_nano - wallet.settled_nano - wallet.expired_nano
        moved += wallet.adjusted_nano - wallet.voided_nano
        remains = sum(grant.remaining_nano for grant in wallet.grants) - wallet.overdraft_nano
        self._findings.compare(
            "money", customer_id, Side("lifetime sums", moved), Side("what is left", remains)
        )

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
            self._findings.compare(
                "holds", reservation_id, Side("hold", hold.held_nano), Side("parts", allocated)
            )
            if hold.customer_id not in self._snapshot.wallets:
                self._findings.drift(
                    "holds", reservation_id, f"{hold.customer_id} has no wallet here"
                )
        for customer_id, wallet in self._snapshot.wallets.items():
            pairs = [("the wallet", wallet.held_nano, held[customer_id])]
            pairs.append(
                ("its credit limit", wallet.held_credit_nano, on_grant.pop((customer_id, 0), 0))
            )
            for grant in wallet.grants:
                there = on_grant.pop((customer_id, grant.no), 0)
                pairs.append((f"grant {grant.no}", grant.held_nano, there))
            for what, says, there in pairs:
                one, other = Side(f"held on {what}", says), Side("holds", there)
                self._findings.compare("holds", customer_id, one, other)
            if wallet.open_reservations != count[customer_id]:
                self._findings.drift(
                    "holds",
                    customer_id,
                    f"counts {wallet.open_reservations} open reservations, {count[customer_id]} are",
                )
        for (customer_id, grant_no), nano in on_grant.items():
            if nano and customer_id in self._snapshot.wallets:
                what = f"{format_amount(nano)} held on grant {grant_no}, which is not there"
                self._findings.drift("holds", customer_id, what)

    # Identity 3

    def _sums(self) -> None:
        sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for customer_id, by_kind in self._contents.totals_nano.items():
            for kind, nano in by_kind.items():
                if kind == "audit":  # needs no wallet
                    continue
                sums[customer_id][_SUM_OF.get(kind, "")] += nano
        for entry in self._undelivered:
            if isinstance(entry, Event):
                if entry.kind == "audit":
                    continue
                sums[entry.customer_id][_SUM_OF.get(entry.kind, "")] += entry.amount_nano
            else:
                place = f"{self._name} {entry.epoch}-{entry.seq}"
                self._findings.drift("events", place, f"entry of the outbox: {entry.reason}")
        for customer_id, wallet in self._snapshot.wallets.items():
            of_events = sums.pop(customer_id, {})
            for name, says in (
                ("granted", wallet.granted_nano),
                ("settled", wallet.settled_nano),
                ("expired", wallet.expired_nano),
                ("voided", wallet.voided_nano),
                ("adjusted", wallet.adjusted_nano),
            ):
                other = Side("its events", of_events.get(name, 0))
                self._findings.compare("events", customer_id, Side(name, says), other)
        for customer_id in sums:
            self._findings.drift("events", customer_id, "has events and no wallet")

    async def ends(self, ended: Mapping[str, Ended], store: EventStore) -> None:
        """Each tombstone's event is where it says, and says the same."""
        self._findings.ended += len(ended)
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
                self._findings.drift("events", wanted, f"should be at {where}; there is {event_id}")
            elif record.outcome != "settled_late":
                charged = Side("charged", record.charged_nano)
                self._findings.compare("events", wanted, charged, Side("event", amount))

    # Identity 4

    def _numbering(self) -> None:
        for span in self._contents.spans:
            if span.first_seq != 0 or span.count != span.last_seq + 1:
                self._findings.drift(
                    "numbering",
                    self._name,
                    f"the store has {span.count} of the entries 0 … {span.last_seq}"
                    f" of epoch {span.epoch}",
                )
        at = self._cursor
        for entry in self._undelivered:
            place = Place(entry.epoch, entry.seq)
            if not place.follows(at):
                self._findings.drift(
                    "numbering", self._name, f"the outbox goes from {at} to {place}"
                )
            at = place
        if at < self._last and not (self._last.seq < 0 and self._last.epoch > at.epoch):
            self._findings.drift(
                "numbering", self._name, f"events end at {at}, the shard says {self._last}"
            )

    def _delivery(self) -> None:
        acked = self._snapshot.shard.acked
        if acked is not None and acked > self._cursor:
            what = f"trimmed up to {acked}, and the store ends at {self._cursor}"
            self._findings.drift("delivery", self._name, what)

    @property
    def ahead(self) -> bool:
        """The store knows more than the shard did: it moved on, or the shard went back."""
        return self._cursor > self._last

    def not_ahead(self, last: Place | None) -> None:
        """Given where the shard ends after the store was read: the store cannot be beyond."""
        if last is not None and self._cursor > last:
            what = f"the store ends at {self._cursor}, the shard at {last}: the ledger lost a tail"
            self._findings.drift("delivery", self._name, what)
