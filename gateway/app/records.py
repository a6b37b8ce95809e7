"""What a worker writes down: metrics, log lines, its journal, kept answers; and its traces."""

from dataclasses import dataclass
from pathlib import Path

from gateway.app.roles import Resources
from gateway.app.tracing import Tracing, open_tracing
from gateway.flow.kept_responses import AnswerStore
from gateway.ledger.journal import SettleJournal
from gateway.settings import Settings
from gateway.telemetry.logs import RequestLog
from gateway.telemetry.names import GateMetrics


@dataclass(frozen=True, slots=True)
class Records:
    """A worker's records.

    journals: the folder of the journals of every worker
    """

    metrics: GateMetrics
    lines: RequestLog
    journals: Path
    journal: SettleJournal
    answers: AnswerStore
    tracing: Tracing

    async def close(self) -> None:
        """Write what is buffered and close the files."""
        await self.journal.close()
        await self.lines.close()
        await self.answers.close()
        if self.tracing.spans is not None:
            await self.tracing.spans.close()


def open_records(settings: Settings, resources: Resources) -> Records:
    """Open them. Raises OSError, CannotServe."""
    metrics = GateMetrics()
    tracing = open_tracing(settings, metrics)
    folder = Path(resources.data_dir)
    journals = folder / "journal"
    return Records(
        metrics=metrics,
        lines=RequestLog(resources.process, metrics.log_lines_dropped),
        journals=journals,
        journal=SettleJournal(journals),
        answers=AnswerStore(folder / "answers.db", settings.answers.max_bytes),
        tracing=tracing,
    )
