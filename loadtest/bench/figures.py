"""What a run says of each figure that design asks for, by its name there.

Invariants: a figure is a ratio to what ran in the same minutes, or a cost inside Redis or in memory; one from
another day never decides. Of nginx with a Lua gate the better variant counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from loadtest.bench.cells import BURST, JSON_32, JSON_256, JSON_RATE, PACED
from loadtest.bench.idle import Idle
from loadtest.bench.report import Report
from loadtest.bench.sampling import Key
from loadtest.bench.stage import DIRECT
from loadtest.figures import Figure
from loadtest.ledger_cost import FULL_US, FULL_XADDS, LEAN_US, Cost
from loadtest.peers import hardcap, litellm, nginx_lua, ours

_LUA: Final = (nginx_lua.NAME, nginx_lua.POOLED)

_CPU: Final = (
    (
        "gateway CPU per JSON request against nginx+Lua (best of its variants), c=32",
        JSON_32,
        1.0,
        0.65,
    ),
    (
        "gateway CPU per JSON request against nginx+Lua (best of its variants), c=256",
        JSON_256,
        1.0,
        0.65,
    ),
    ("the same, SSE burst", BURST, 1.0, 0.85),
    ("the same, paced SSE", PACED, 1.6, 1.1),
)
_THROUGHPUT: Final = (
    ("throughput against LiteLLM 1.106.2, JSON c=32, one core", JSON_32, litellm.NAME, 100, 180),
    ("throughput against hardcap 0.1.0, JSON", JSON_32, hardcap.NAME, 5, 8),
    ("throughput against hardcap 0.1.0, SSE", BURST, hardcap.NAME, 8, 14),
)
_MEMORY: Final = (("plain", 32, 16), ("tls", 80, 64))


@dataclass(slots=True)
class Run:
    """All that a run has measured. idle_faults: why streams were not weighed, by contender and upstream."""

    report: Report
    costs: Sequence[Cost] = ()
    idles: Sequence[Idle] = ()
    idle_faults: dict[Key, str] = field(default_factory=dict)

    def faults(self) -> dict[str, str]:
        """What could not be measured, and why."""
        idle = {
            f"{name}, streams that wait, {upstream} upstream": why
            for (name, upstream), why in self.idle_faults.items()
        }
        return {**self.report.faults(), **idle}


def figures(run: Run) -> list[Figure]:
    """Every figure of design's table, in its order."""
    report = run.report
    found = [_cpu(report, *row) for row in _CPU]
    found += [_throughput(report, *row) for row in _THROUGHPUT]
    found += _pairs(run.costs)
    found.append(_added(report))
    found.append(
        Figure(
            "exporter, events a second and core into Postgres and ClickHouse form",
            None,
            30_000,
            60_000,
            at_least=True,
            note="not part of this benchmark yet",
        )
    )
    found += [_memory(run, *row) for row in _MEMORY]
    return found


def _cpu(report: Report, name: str, workload: str, must: float, aim: float) -> Figure:
    mine = report.cpu_us(workload, ours.NAME)
    peers = {peer: cost for peer in _LUA if (cost := report.cpu_us(workload, peer))}
    if not mine or not peers:
        return Figure(name, None, must, aim, note=report.why_not(workload, ours.NAME, *_LUA))
    best = min(peers, key=lambda peer: peers[peer])
    said = f"{mine:,.0f} µs, {best} {peers[best]:,.0f} µs"
    note = said + report.noise(workload, ours.NAME, best)
    return Figure(name, mine / peers[best], must, aim, note=note)


def _throughput(
    report: Report, name: str, workload: str, peer: str, must: float, aim: float
) -> Figure:
    mine, theirs = (report.median(workload, of, "per_second") for of in (ours.NAME, peer))
    if not mine or not theirs:
        why = report.why_not(workload, ours.NAME, peer)
        return Figure(name, None, must, aim, at_least=True, note=why)
    share = report.median(workload, ours.NAME, "core_share") or 0.0
    note = f"{mine:,.0f} and {theirs:,.1f} a second; the gate used {share:.0%} of its core"
    note += report.noise(workload, ours.NAME, peer)
    return Figure(name, mine / theirs, must, aim, at_least=True, note=note)


def _added(report: Report) -> Figure:
    name, must, aim = "added p50 at 1,000 rps against nginx+Lua's", 1.5, 1.0
    direct, mine = (report.median(JSON_RATE, of, "p50_ms") for of in (DIRECT, ours.NAME))
    peers = {
        peer: p50_ms - (direct or 0.0)
        for peer in _LUA
        if (p50_ms := report.median(JSON_RATE, peer, "p50_ms"))
    }
    if not direct or not mine or not peers:
        return Figure(
            name, None, must, aim, note=report.why_not(JSON_RATE, DIRECT, ours.NAME, *_LUA)
        )
    best = min(peers, key=lambda peer: peers[peer])
    said = f"+{mine - direct:.2f} ms, {best} +{peers[best]:.2f} ms on {direct:.2f} ms"
    if peers[best] <= 0:
        return Figure(name, None, must, aim, note=f"{said}: too small to compare")
    note = said + report.noise(JSON_RATE, DIRECT, ours.NAME, best)
    return Figure(name, (mine - direct) / peers[best], must, aim, note=note)


def _pairs(costs: Sequence[Cost]) -> list[Figure]:
    found = []
    for target in (FULL_US, FULL_XADDS, LEAN_US):
        measured = [one for cost in costs for one in cost.figures() if one.name == target.name]
        found += measured or [replace(target, note="left out of this run")]
    return found


def _memory(run: Run, upstream: str, must: float, aim: float) -> Figure:
    name = f"memory per idle stream, {'TLS' if upstream == 'tls' else upstream} upstream, KiB"
    for idle in run.idles:
        if (idle.target, idle.upstream) == (ours.NAME, upstream):
            note = f"{idle.streams:,} streams on {idle.base_mib:.0f} MiB"
            return Figure(name, idle.kib_each, must, aim, note=note)
    return Figure(
        name,
        None,
        must,
        aim,
        note=run.idle_faults.get((ours.NAME, upstream), "left out of this run"),
    )
