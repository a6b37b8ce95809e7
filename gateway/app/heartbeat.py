"""Keeps the supervisor's reports in the ledger, and makes them of its metrics."""

import asyncio
import contextlib
from typing import Any

from gateway import __version__
from gateway.app.background import forever
from gateway.app.exporting import member
from gateway.app.reporting import Reported
from gateway.app.tasks import end_tasks
from gateway.domain.gates import GateFigures, GateReport
from gateway.domain.money import NANO_PER_CREDIT
from gateway.ledger.client.servers import locate
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.gates import leave_gates, report_gate
from gateway.settings import Settings
from gateway.telemetry.metrics import Snapshot


class LedgerReporter:
    """Keeps the reports in the ledger."""

    def __init__(self, settings: Settings, ledger_url: str) -> None:
        self._keys = Keys(settings.redis.namespace, settings.redis.shards)
        self._name = member(settings)
        self._servers = locate(ledger_url)
        self._client = self._servers.client(name="creditgate-heartbeat")
        self._following: list[asyncio.Task[None]] = []
        self._started_at_ms: int | None = None

    async def report(self, reported: Reported) -> None:
        """Keep one report."""
        if not self._following:
            self._following = [asyncio.create_task(forever(self._servers.follow_switches))]
        if self._started_at_ms is None:
            seconds, micros = await self._client.time()
            self._started_at_ms = int(seconds) * 1000 + int(micros) // 1000
        readiness = reported.readiness
        report = GateReport(
            name=self._name,
            version=__version__,
            gate=reported.addresses.get("gate", ""),
            admin=reported.addresses.get("admin", ""),
            started_at_ms=self._started_at_ms,
            reported_at_ms=0,
            workers=reported.workers,
            workers_ready=reported.workers_ready,
            why_not=readiness.why_not,
            degraded=readiness.degraded,
            notices=readiness.notices,
            figures=figures_of(reported.snapshot),
        )
        await report_gate(self._client, self._keys, report)

    async def leave(self) -> None:
        """Remove the report and close."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await leave_gates(self._client, self._keys, self._name)
        await end_tasks(self._following)
        await self._client.aclose()


def figures_of(snapshot: Snapshot) -> GateFigures:
    """What a report says of a gate's metrics."""
    decisions = _by_labels(snapshot, "creditgate_decisions_total")
    denied: dict[str, int] = {}
    for (outcome, reason), count in decisions.items():
        if outcome == "deny" and count:
            denied[reason] = denied.get(reason, 0) + int(count)
    charged = _value(snapshot, "creditgate_exporter_charged_credits_total")
    latency = snapshot.get("creditgate_added_latency_seconds", {})
    samples = latency.get("samples") or [[[], []]]
    counts = samples[0][1]
    return GateFigures(
        allowed=sum(int(n) for (outcome, _), n in decisions.items() if outcome == "allow"),
        denied=denied,
        charged_nano=round(charged * NANO_PER_CREDIT),
        in_flight=int(_value(snapshot, "creditgate_requests_in_flight")),
        holds_open=int(_value(snapshot, "creditgate_holds_open")),
        held_nano=round(_value(snapshot, "creditgate_held_credits") * NANO_PER_CREDIT),
        journal_entries=int(_value(snapshot, "creditgate_settle_journal_entries")),
        lag_events=int(_value(snapshot, "creditgate_outbox_lag_events")),
        lag_s=_value(snapshot, "creditgate_outbox_lag_seconds"),
        restarts=int(sum(_by_labels(snapshot, "creditgate_process_restarts_total").values())),
        latency_bounds_s=tuple(latency.get("bounds") or ()),
        latency_counts=tuple(int(count) for count in counts[:-1]),
    )


def _by_labels(snapshot: Snapshot, name: str) -> dict[tuple[str, ...], float]:
    samples: list[Any] = snapshot.get(name, {}).get("samples", [])
    return {tuple(labels): value for labels, value in samples}


def _value(snapshot: Snapshot, name: str) -> float:
    return float(sum(_by_labels(snapshot, name).values()))
