"""Gates of the ledger: which report, how they are, and what they do per second."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.domain.gates import GateReport
from gateway.domain.money import format_amount
from gateway.operations.backend import Backend
from gateway.operations.documents import timestamp


@dataclass(frozen=True, slots=True)
class Gates:
    """Every gate that has reported in the last hour. now_ms: the ledger's clock, Unix ms."""

    now_ms: int
    reports: Sequence[GateReport]

    @property
    def present(self) -> list[GateReport]:
        """Those that still report."""
        return [report for report in self.reports if not report.gone(self.now_ms)]


async def list_gates(backend: Backend) -> Gates:
    """Read every gate's last report. Raises LedgerUnavailable."""
    now_ms = await backend.ledger_time_ms()
    return Gates(now_ms, await backend.list_gates(now_ms))


def gate_status(report: GateReport, now_ms: int) -> str:
    """One word: `ready`, `not ready`, `degraded` or `gone`."""
    if report.gone(now_ms):
        return "gone"
    if report.why_not:
        return "not ready"
    return "degraded" if report.degraded else "ready"


def gate_document(report: GateReport, now_ms: int) -> dict[str, Any]:
    """One gate as a JSON document."""
    return {
        "gate": report.name,
        "status": gate_status(report, now_ms),
        "version": report.version,
        "address": report.gate,
        "admin_address": report.admin,
        "started_at": timestamp(report.started_at_ms),
        "reported_at": timestamp(report.reported_at_ms),
        "workers": report.workers,
        "workers_ready": report.workers_ready,
        "why_not_ready": list(report.why_not),
        "degraded": list(report.degraded),
        "notices": list(report.notices),
        "requests_in_flight": report.figures.in_flight,
        "holds_open": report.figures.holds_open,
        "held": format_amount(report.figures.held_nano),
        "outbox_lag_events": report.figures.lag_events,
    }
