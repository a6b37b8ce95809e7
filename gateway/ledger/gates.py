"""Gates of one ledger: each reports about itself, whoever wants to know reads all reports.

Not part of the ledger's books: a report is one field of a hash, written over by the next one. Readers
judge by its time whether the gate is still there.
"""

from dataclasses import replace
from typing import Any, Final

from gateway.domain.gates import FORGET_AFTER_MS, GateReport
from gateway.ledger.client.faults import unavailable
from gateway.ledger.codec.gates import pack_report, read_report
from gateway.ledger.codec.key_names import Keys

NAME: Final = "gates"


async def report_gate(client: Any, keys: Keys, report: GateReport) -> None:
    """Keep a gate's report, with the ledger's time. Raises LedgerUnavailable."""
    with unavailable():
        seconds, micros = await client.time()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        packed = pack_report(replace(report, reported_at_ms=now_ms))
        await client.hset(keys.common(NAME), report.name, packed)


async def leave_gates(client: Any, keys: Keys, name: str) -> None:
    """Remove the report of a gate that stops. Raises LedgerUnavailable."""
    with unavailable():
        await client.hdel(keys.common(NAME), name)


async def list_gates(client: Any, keys: Keys, now_ms: int) -> list[GateReport]:
    """Gates that have reported in the last hour, by name; older reports are removed.

    now_ms: the ledger's clock. Raises LedgerUnavailable.
    """
    with unavailable():
        kept: Any = await client.hgetall(keys.common(NAME))
        found, old = [], []
        for name, packed in kept.items():
            report = read_report(packed)
            if report is None or now_ms - report.reported_at_ms > FORGET_AFTER_MS:
                old.append(name)
            else:
                found.append(report)
        if old:
            await client.hdel(keys.common(NAME), *old)
    return sorted(found, key=lambda report: report.name)
