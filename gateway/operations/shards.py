"""Whether the ledger can serve: its server, the shards that have lost entries, and what repairs left."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.ledger.client.fitness import UNREACHABLE, common_trouble
from gateway.ledger.codec.shard_records import Loss
from gateway.operations.backend import Backend
from gateway.operations.documents import timestamp
from gateway.operations.reopen import ShardStatus, ledger_status
from gateway.operations.shut_wallets import WalletShut, list_shut_wallets


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """The ledger's condition.

    trouble: why its server admits nothing, as a sentence; None for nothing
    nodes:   of a cluster whose other nodes serve: those that answer and cannot serve → why, as a sentence
    losses:  by shard, what is known of entries that it has lost
    wallets: those that repairs have frozen and nobody has thawed
    """

    trouble: str | None
    shards: Sequence[ShardStatus]
    losses: Mapping[int, Loss]
    wallets: Sequence[WalletShut]
    nodes: Mapping[str, str] = field(default_factory=dict)

    @property
    def shut(self) -> tuple[ShardStatus, ...]:
        """Shards whose customers are refused until a repair."""
        return tuple(shard for shard in self.shards if shard.state in ("behind", "frozen"))

    @property
    def away(self) -> Mapping[str, Sequence[int]]:
        """Why shards cannot be asked → these. Of them nothing else is known."""
        found: dict[str, list[int]] = {}
        for shard in self.shards:
            if shard.state == "away":
                found.setdefault(shard.reason, []).append(shard.number)
        return found

    @property
    def well(self) -> bool:
        """Whether everything is admitted."""
        return not (self.trouble or self.nodes or self.shut or self.away or self.wallets)

    @property
    def lost(self) -> Mapping[int, Loss]:
        """Shards of which a repair has found entries nowhere; what it was the last time."""
        return {shard: loss for shard, loss in self.losses.items() if loss.lost is not None}


async def report_ledger(backend: Backend) -> LedgerReport:
    """The ledger's condition. Raises LedgerUnavailable."""
    troubles = await backend.find_troubles()
    common = common_trouble(troubles)
    nodes = {
        name: each.sentence
        for name, each in sorted(troubles.items())
        # Of a node that does not answer, its shards say so.
        if common is None and each is not None and each.word != UNREACHABLE
    }
    shards = await ledger_status(backend.outbox, backend.store)
    losses = await backend.losses.losses()
    wallets = await list_shut_wallets(backend)
    return LedgerReport(common.sentence if common else None, shards, losses, wallets, nodes)


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
        "nodes": dict(report.nodes),
        "shards": len(report.shards),
        "away": [
            {"reason": reason, "shards": list(shards)} for reason, shards in report.away.items()
        ],
        "shut": [_shard(shard, report.losses.get(shard.number)) for shard in report.shut],
        "lost_entries": [
            {
                "shard": shard,
                "entries": str(loss.lost),
                "epoch": loss.epoch,
                "found_at": timestamp(loss.at_ms),
            }
            for shard, loss in report.lost.items()
        ],
        "shut_wallets": [asdict(each) for each in report.wallets],
    }


def seen(loss: Loss | None) -> str | None:
    """The highest entry of a frozen shard that any gate has seen, as `epoch-seq`; None: not known."""
    return None if loss is None or loss.seen is None else f"{loss.seen.epoch}-{loss.seen.seq}"


def _shard(shard: ShardStatus, loss: Loss | None) -> dict[str, Any]:
    last, stored = places(shard)
    return {
        "shard": shard.number,
        "state": shard.state,
        "last": last,
        "stored": stored,
        "seen": seen(loss),
        "lost": shard.lost,
    }
