"""How far each shard has been read, stored and acknowledged, and what its numbering shows.

Invariants: within an epoch each seq follows the one before it; a new epoch starts at 0. What
breaks this, and a ledger and a store that disagree about how far they are, becomes an
anomaly that is stored with the events. Pure bookkeeping, no I/O.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain.delivery import START, Anomaly, DeadLetter, Place
from gateway.domain.event_rows import EventRow, SignalRow
from gateway.ledger.codec.outbox_rows import Tail
from gateway.ledger.codec.shard_records import Shard

Records = Mapping[int, Shard] | Sequence[Shard]
"""The records of shards, by shard."""


@dataclass(slots=True)
class Load:
    """One batch on its way: what was read, before the sink has said anything.

    begins, ends: shard → the place before its first entry, and that of its last
    """

    rows: list[EventRow] = field(default_factory=list)
    signals: list[SignalRow] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    anomalies: list[Anomaly] = field(default_factory=list)
    begins: dict[int, Place] = field(default_factory=dict)
    ends: dict[int, Place] = field(default_factory=dict)


class Progress:
    """Position of one sink on every shard."""

    def __init__(self) -> None:
        self.read_to: dict[int, Place] = {}
        """Places up to which entries were read."""
        self.stored: dict[int, Place] = {}
        """Places committed by the sink."""
        self.unacknowledged: dict[int, Place] = {}
        """Places committed and not yet acknowledged to the ledger."""
        self.halted: set[int] = set()
        """Frozen shards: neither read nor acknowledged until the ledger starts a new epoch of
        them."""
        self.doubted: set[int] = set()
        """Shards whose server may be another one now: they are read again from what it knows to be stored."""
        self._noticed: list[Anomaly] = []

    def begin(self, heads: Records, cursors: Mapping[int, Place], shards: Iterable[int]) -> None:
        """Start with these shards at the last acknowledged place, so that stored entries beyond it are
        compared by id."""
        for shard in shards:
            head = heads[shard]
            acked = self.read_to[shard] = head.acked or START
            stored = self.stored[shard] = cursors.get(shard, START)
            self.halted.discard(shard)
            if acked > stored:
                self._noticed.append(Anomaly("store_behind", shard, stored, acked))
                self.stored[shard] = acked
            if head.frozen:
                self.halt(shard, head.last)

    def lose(self, shards: Iterable[int]) -> None:
        """Another exporter has these shards now."""
        for shard in shards:
            self.halted.discard(shard)
            self.doubted.discard(shard)
            for places in (self.read_to, self.stored, self.unacknowledged):
                places.pop(shard, None)

    @property
    def held(self) -> frozenset[int]:
        """The shards that are exported here."""
        return frozenset(self.stored)

    def unread(self, shard_count: int) -> set[int]:
        """Shards that must not be read: another exporter's, and frozen or doubted ones."""
        out = self.halted | self.doubted
        return {s for s in range(shard_count) if s not in self.stored or s in out}

    def halt(self, shard: int, last: Place) -> None:
        """The ledger has lost a tail that the sink has: leave alone what is there until it is repaired.

        last: the shard's last entry
        """
        if shard in self.halted:
            return
        self.halted.add(shard)
        self.doubted.discard(shard)
        self.unacknowledged.pop(shard, None)
        stored = self.stored.get(shard, START)
        if last < stored:
            self._noticed.append(Anomaly("ledger_behind", shard, stored, last))

    def resume(self, shard: int, head: Shard) -> None:
        """Continue with the new epoch of a repaired shard; with what is not acknowledged of one that is open again
        in its old epoch, because its server has changed again."""
        self.halted.discard(shard)
        repaired = head.last.epoch > self.stored.get(shard, START).epoch
        self.read_to[shard] = Place(head.last.epoch, -1) if repaired else head.acked or START

    def doubt(self) -> None:
        """Another server may have the shards now, and other entries at the places that were read from the old
        one. So nothing that was read may be acknowledged to it before it was compared."""
        self.doubted = set(self.stored) - self.halted
        self.unacknowledged.clear()

    def rewind(self, heads: Mapping[int, Shard]) -> None:
        """Read doubted shards again from what their server knows to be stored: what the store has beyond it is
        compared by id. One that could not be asked stays doubted."""
        for shard in self.doubted & heads.keys():
            self.read_to[shard] = heads[shard].acked or START
        self.doubted -= heads.keys()

    @property
    def has_news(self) -> bool:
        """Say whether there are anomalies to store although nothing was read."""
        return bool(self._noticed)

    def take(self, tails: Sequence[Tail]) -> Load:
        """Collect what was read into a load, checking that no number is missing."""
        load = Load(anomalies=self._noticed)
        self._noticed = []
        for tail in tails:
            shard = tail.shard
            before = load.begins[shard] = self.read_to[shard]
            if not (tail.contiguous and tail.first == (before.epoch, before.seq + 1)):
                load.anomalies += _gaps(shard, before, tail.places())
            load.rows += tail.rows
            load.dead += tail.dead
            load.signals += tail.signals
            self.read_to[shard] = load.ends[shard] = tail.last
        return load

    def committed(self, load: Load) -> None:
        """Record that the sink has committed the load."""
        for shard, end in load.ends.items():
            if shard not in self.stored:
                continue
            self.stored[shard] = max(end, self.stored.get(shard, end))
            self.unacknowledged[shard] = end

    def new_rows(self, load: Load) -> Sequence[EventRow]:
        """Those of a load, not committed yet, that were not committed before either."""
        if all(before >= self.stored.get(s, before) for s, before in load.begins.items()):
            return load.rows
        return [row for row in load.rows if row.place > self.stored.get(row.shard, START)]

    def lag_events(self, heads: Records) -> int:
        """How many events the sink has not stored yet. Of a shard's earlier epochs none is counted:
        how long they were is not known without reading them."""
        lag = 0
        for shard, stored in self.stored.items():
            head = heads[shard]
            since = stored.seq if stored.epoch == head.last.epoch else -1
            lag += max(0, head.last.seq - since)
        return lag


def _gaps(shard: int, before: Place, places: Sequence[Place]) -> list[Anomaly]:
    """Where entries are missing between the place before and the last of these."""
    found = []
    for place in places:
        if not place.follows(before):
            found.append(Anomaly("gap", shard, before, place))
        before = place
    return found
