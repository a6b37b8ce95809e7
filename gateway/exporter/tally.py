"""Figures of the exporter, as plain numbers that another process can sum or publish."""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Tally:
    """lag_events: written by the ledger and not yet in the sink; lag_seconds: age of the oldest
    of them that has been read; waiting: 1 while the sink or the ledger cannot be reached;
    standing_by: 1 while the ledger's events go to another store; shards_held: by this exporter.
    Lags are as of the last look (each second), the rest counts since start.
    """

    lag_events: int = 0
    lag_seconds: float = 0.0
    waiting: int = 0
    standing_by: int = 0
    shards_held: int = 0
    batches: int = 0
    delivered: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    anomalies: int = 0
    retries: int = 0
    refusals: int = 0

    def snapshot(self) -> dict[str, float]:
        """Return all figures by name."""
        return asdict(self)
