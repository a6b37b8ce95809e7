"""Whether the ledger can serve: its server, and the shards that have lost entries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.operations.backend import Backend
from gateway.operations.reopen import ShardStatus, ledger_status


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """The ledger's condition. trouble: why its server admits nothing, as a sentence; None for nothing"""

    trouble: str | None
    shards: Sequence[ShardStatus]

    @property
    def shut(self) -> tuple[ShardStatus, ...]:
        """Shards whose customers are refused until a repair."""
        return tuple(shard for shard in self.shards if shard.state != "open")

    @property
    def well(self) -> bool:
        """Whether everything is admitted."""
        return self.trouble is None and not self.shut


async def report_ledger(backend: Backend) -> LedgerReport:
    """The ledger's condition. Raises LedgerUnavailable."""
    trouble = await backend.find_trouble()
    shards = await ledger_status(backend.outbox, backend.store)
    return LedgerReport(trouble.sentence if trouble else None, shards)


def places(shard: ShardStatus) -> tuple[str, str]:
    """The last entry of a shard and the store's last of it, as `epoch-seq` or `none`."""
    last, stored = shard.last, shard.stored
    return (
        f"{last.epoch}-{last.seq}" if last.seq >= 0 else "none",
        "none" if stored is None else f"{stored.epoch}-{stored.seq}",
    )


def report_document(report: LedgerReport) -> dict[str, Any]:
    """The ledger's condition as a JSON document."""
    return {
        "server": report.trouble,
        "shards": len(report.shards),
        "shut": [_shard(shard) for shard in report.shut],
    }


def _shard(shard: ShardStatus) -> dict[str, Any]:
    last, stored = places(shard)
    return {
        "shard": shard.number,
        "state": shard.state,
        "last": last,
        "stored": stored,
        "lost": shard.lost,
    }
