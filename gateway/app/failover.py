"""What a worker does about failovers of the ledger: keeps what one could lose, and measures how long each
shard admits nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.app.ledger_access import LedgerAccess
from gateway.app.ledger_health import LedgerHealth
from gateway.domain.delivery import Place
from gateway.domain.stores import StoreAccess
from gateway.flow.reservation.delivery import Delivery
from gateway.flow.reservation.kept_settlements import KeptSettlements
from gateway.flow.shard_outages import ShardOutages
from gateway.telemetry.names import GateMetrics


@dataclass(frozen=True, slots=True)
class Failover:
    """What one worker keeps and measures."""

    kept: KeptSettlements
    outages: ShardOutages
    ledger: LedgerAccess
    health: LedgerHealth

    def watch(self) -> None:
        """Learn of every answered settlement, and of every look at the shards, from now on."""
        self.ledger.settling.answered = self.kept.note
        self.ledger.shards.on_look = self._looked

    def _looked(self, stored: Mapping[int, Place], serving: Mapping[int, Place]) -> None:
        self.kept.looked(stored, serving)
        if self.health.why_not_ready() is None:
            self.outages.serve(serving)

    def measure(self, metrics: GateMetrics) -> None:
        """Bring the metrics up to date."""
        self.outages.count()
        metrics.shards_shut.set(len(self.outages.shut | self.ledger.shards.closed))


def keep_settlements(
    ledger: LedgerAccess, delivery: Delivery, store: StoreAccess, metrics: GateMetrics
) -> KeptSettlements:
    """What keeps a worker's settlements until its store has them."""

    def stored_ids(event_ids: Sequence[str]) -> set[str]:
        with store.open_or_empty() as events:
            return events.known_ids(event_ids)

    def connection() -> int | None:
        settlement = ledger.settlement
        return settlement.reconnects if settlement.connected else None

    return KeptSettlements(delivery, metrics, stored_ids, connection)
