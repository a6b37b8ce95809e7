"""What a run says of each performance target: ratios to peers in the same run, and absolute costs.

Invariants: a figure is a ratio to what ran in the same minutes, a count, or a cost inside Redis or in
memory; one from another day never decides. Of nginx with a Lua gate the cheaper variant counts.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from loadtest.bench.cells import BURST, JSON_32, JSON_256, JSON_RATE, PACED
from loadtest.bench.idle import Idle
from loadtest.bench.report import Report
from loadtest.bench.sampling import Key
from loadtest.bench.stage import DIRECT
from loadtest.figures import Figure
from loadtest.ledger_cost import ONE, THREE, Case, Cost
from loadtest.peers import hardcap, nginx_lua, ours, tensorzero

_LUA: Final = (nginx_lua.NAME, nginx_lua.POOLED)
_ZERO: Final = (tensorzero.NAME,)

BYTECODES: Final = Figure("bytecodes per JSON request", None, 5000, 3500)
CPU: Final[tuple[tuple[Figure, str, tuple[str, ...]], ...]] = (
    (Figure("CPU per JSON request / nginx+lua's, c=32", None, 1.8, 1.2), JSON_32, _LUA),
    (Figure("CPU per JSON request / nginx+lua's, c=256", None, 1.8, 1.2), JSON_256, _LUA),
    (Figure("CPU per stream / nginx+lua's, SSE burst", None, 1.6, 1.2), BURST, _LUA),
    (Figure("CPU per stream / nginx+lua's, paced SSE", None, 1.4, 1.1), PACED, _LUA),
    (Figure("CPU per JSON request / TensorZero's, c=32", None, 0.35, 0.25), JSON_32, _ZERO),
    (Figure("CPU per stream / TensorZero's, SSE burst", None, 0.2, 0.12), BURST, _ZERO),
)
ADDED: Final = Figure("added p50 at 1,000 requests/s / nginx+lua's", None, 2.0, 1.2)
THROUGHPUT: Final = (
    (Figure("throughput on one core / hardcap's, JSON", None, 4, 6, at_least=True), JSON_32),
    (Figure("throughput on one core / hardcap's, SSE burst", None, 8, 12, at_least=True), BURST),
)
MEMORY: Final = {
    "plain": Figure("memory per idle stream, plain upstream, KiB", None, 24, 16),
    "tls": Figure("memory per idle stream, TLS upstream, KiB", None, 64, 48),
}
PAIRS: Final = (
    (
        Figure("Redis CPU per reserve+settle, plain wallet, µs", None, 60, 45),
        Case(ONE, 1, tiers=False),
    ),
    (
        Figure("Redis CPU per reserve+settle, everything on, µs", None, 95, 70),
        Case(THREE, 2, tiers=True),
    ),
)
_LEFT_OUT: Final = "left out of this run"


@dataclass(slots=True)
class Run:
    """Everything that a run has measured.

    idle_faults:      why idle streams were not weighed, by contender and upstream
    bytecodes:        per JSON request; None when not counted, and `bytecodes_fault` says why
    """

    report: Report
    costs: Sequence[Cost] = ()
    idles: Sequence[Idle] = ()
    idle_faults: dict[Key, str] = field(default_factory=dict)
    bytecodes: int | None = None
    bytecodes_fault: str = _LEFT_OUT

    def faults(self) -> dict[str, str]:
        """What could not be measured, and why."""
        idle = {
            f"{name}, idle streams, {upstream} upstream": why
            for (name, upstream), why in self.idle_faults.items()
        }
        return {**self.report.faults(), **idle}


def figures(run: Run) -> list[Figure]:
    """Every target with its value, in the order of docs/explanation/performance.md."""
    lua, zero = (
        [_cpu(run.report, *row) for row in CPU if row[2] == peers] for peers in (_LUA, _ZERO)
    )
    return [
        _bytecodes(run),
        *lua,
        _added(run.report),
        *zero,
        *(_throughput(run.report, *row) for row in THROUGHPUT),
        *(_memory(run, upstream) for upstream in MEMORY),
        *(figure for row in PAIRS for figure in _pairs(run.costs, *row)),
    ]


def _bytecodes(run: Run) -> Figure:
    if run.bytecodes is None:
        return replace(BYTECODES, note=run.bytecodes_fault)
    note = f"counted on Python {platform.python_version()}; other versions count differently"
    return replace(BYTECODES, value=run.bytecodes, note=note)


def _cpu(report: Report, target: Figure, workload: str, peers: tuple[str, ...]) -> Figure:
    mine = report.cpu_us(workload, ours.NAME)
    theirs = {peer: cost for peer in peers if (cost := report.cpu_us(workload, peer))}
    if not mine or not theirs:
        return replace(target, note=report.why_not(workload, ours.NAME, *peers))
    best = min(theirs, key=lambda peer: theirs[peer])
    note = f"{mine:,.0f} µs, {best} {theirs[best]:,.0f} µs"
    note += report.noise(workload, ours.NAME, best)
    return replace(target, value=mine / theirs[best], note=note)


def _throughput(report: Report, target: Figure, workload: str) -> Figure:
    names = (ours.NAME, hardcap.NAME)
    mine, theirs = (report.median(workload, of, "per_second") for of in names)
    if not mine or not theirs:
        return replace(target, note=report.why_not(workload, *names))
    share = report.median(workload, ours.NAME, "core_share") or 0.0
    note = f"{mine:,.0f} and {theirs:,.1f} a second; the gate used {share:.0%} of its core"
    costs = [report.cpu_us(workload, of) for of in names]
    if costs[0] and costs[1]:
        note += f"; by CPU {costs[1] / costs[0]:.1f}"
    return replace(target, value=mine / theirs, note=note + report.noise(workload, *names))


def _added(report: Report) -> Figure:
    direct, mine = (report.median(JSON_RATE, of, "p50_ms") for of in (DIRECT, ours.NAME))
    peers = {
        peer: p50_ms - (direct or 0.0)
        for peer in _LUA
        if (p50_ms := report.median(JSON_RATE, peer, "p50_ms"))
    }
    if not direct or not mine or not peers:
        return replace(ADDED, note=report.why_not(JSON_RATE, DIRECT, ours.NAME, *_LUA))
    best = min(peers, key=lambda peer: peers[peer])
    note = f"{mine - direct:+.2f} ms, {best} {peers[best]:+.2f} ms on {direct:.2f} ms"
    if peers[best] <= 0:
        return replace(ADDED, note=f"{note}: too small to compare")
    note += report.noise(JSON_RATE, DIRECT, ours.NAME, best)
    return replace(ADDED, value=(mine - direct) / peers[best], note=note)


def _memory(run: Run, upstream: str) -> Figure:
    target = MEMORY[upstream]
    for idle in run.idles:
        if (idle.target, idle.upstream) == (ours.NAME, upstream):
            note = f"{idle.streams:,} streams on {idle.base_mib:.0f} MiB"
            return replace(target, value=idle.kib_each, note=note)
    return replace(target, note=run.idle_faults.get((ours.NAME, upstream), _LEFT_OUT))


def _pairs(costs: Sequence[Cost], target: Figure, case: Case) -> list[Figure]:
    """The target on each server that was measured: Valkey, and Redis where it is installed."""
    measured = [
        replace(target, value=cost.cpu_us, note=f"{case.name}; {cost.server}, depth {cost.depth}")
        for cost in costs
        if cost.case == case
    ]
    return measured or [replace(target, note=_LEFT_OUT)]
