"""Reports of gates in the ledger."""

from dataclasses import replace

import redis.asyncio

from gateway.domain.gates import FORGET_AFTER_MS, GateFigures, GateReport
from gateway.ledger.codec.gates import pack_report
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.gates import leave_gates, list_gates, report_gate

KEYS = Keys("cg", 4)
REPORT = GateReport(
    "web-1",
    "1.0",
    "10.0.0.1:8080",
    "10.0.0.1:8081",
    1,
    0,
    workers=2,
    workers_ready=1,
    why_not=("starting",),
    figures=GateFigures(3, {"bad_key": 2}, 10**15, latency_bounds_s=(0.1,), latency_counts=(1, 2)),
)


async def now_ms(valkey: redis.asyncio.Redis) -> int:
    seconds, micros = await valkey.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def test_a_report_is_read_back_with_the_ledgers_time(valkey: redis.asyncio.Redis) -> None:
    before = await now_ms(valkey)
    await report_gate(valkey, KEYS, REPORT)
    await report_gate(valkey, KEYS, replace(REPORT, name="a"))
    first, second = await list_gates(valkey, KEYS, await now_ms(valkey))
    assert (first.name, second.name) == ("a", "web-1")
    assert before <= second.reported_at_ms <= await now_ms(valkey)
    assert replace(second, reported_at_ms=0) == REPORT


async def test_a_gate_that_leaves_is_not_listed(valkey: redis.asyncio.Redis) -> None:
    await report_gate(valkey, KEYS, REPORT)
    await leave_gates(valkey, KEYS, "web-1")
    assert await list_gates(valkey, KEYS, 0) == []


async def test_old_and_unreadable_reports_are_removed(valkey: redis.asyncio.Redis) -> None:
    name, now = KEYS.common("gates"), await now_ms(valkey)
    old = replace(REPORT, reported_at_ms=now - FORGET_AFTER_MS - 1)
    await valkey.hset(name, "old", pack_report(old))
    await valkey.hset(name, "odd", b"\x93")
    assert await list_gates(valkey, KEYS, now) == []
    assert await valkey.hlen(name) == 0
