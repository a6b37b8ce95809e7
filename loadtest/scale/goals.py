"""The goals of a ledger on a cluster, judged from one run. Pure."""

import statistics
from dataclasses import replace
from typing import Final

from loadtest.figures import Figure
from loadtest.scale.gates import DIRECT
from loadtest.scale.pairs import KINDS
from loadtest.scale.report import Samples, allowed_per_second, middle, times
from loadtest.scale.run import CALLERS, Run
from loadtest.scale.servers import REPLICATED, SINGLE, THREE, TWO, Shape

_MOST_CALLERS: Final = max(CALLERS)


def figures(run: Run, cores: int) -> list[Figure]:
    """The goals, with what was measured."""
    cpu = f"Redis CPU a pair, {THREE.name} / {SINGLE.name}"
    note = f"{_MOST_CALLERS} callers a primary, through the gate's client"
    through = (
        Figure(
            f"{cpu}: {kind.name}",
            _ratio(
                run.pairs.get((THREE.name, kind.name, _MOST_CALLERS)),
                run.pairs.get((SINGLE.name, kind.name, _MOST_CALLERS)),
                "redis_us",
            ),
            1.10,
            1.05,
            note=note,
        )
        for kind in KINDS
    )
    packed = _ratio(run.driven.get(THREE.name), run.driven.get(SINGLE.name), "redis_us")
    paced, paced_single = run.paced.get(THREE.name), run.paced.get(SINGLE.name)
    took = _ratio(paced, paced_single, "p50_ms")
    return [
        Figure(f"{cpu}: paced", _ratio(paced, paced_single, "redis_us"), 1.10, 1.05),
        *through,
        Figure(f"{cpu}: packed in advance", packed, 1.10, 1.05),
        *(_throughput(run, shape, cores) for shape in (TWO, THREE)),
        Figure(f"p50 of a reserve, {THREE.name} / {SINGLE.name}", took, 1.10, 1.05),
        *(_added(run, shape) for shape in (THREE, REPLICATED)),
    ]


def _throughput(run: Run, shape: Shape, cores: int) -> Figure:
    name = f"pairs a second, {shape.name} / what {cores} cores allow"
    figure = Figure(name, None, 0.9, 0.95, at_least=True)
    samples = run.driven.get(shape.name)
    allowed = allowed_per_second(run, shape.name, cores) if samples else None
    if not samples or allowed is None:
        return replace(figure, note="left out of this run")
    rate = middle(samples, "per_second")
    return replace(figure, value=rate / allowed, note=f"{rate:,.0f} of {allowed:,.0f}")


def _added(run: Run, shape: Shape) -> Figure:
    figure = Figure(f"p50 that a gate adds, {shape.name} / {SINGLE.name}", None, 1.10, 1.05)
    direct = run.gate_latencies.get(DIRECT)
    ours, theirs = (run.gate_latencies.get(of.name) for of in (shape, SINGLE))
    if not (direct and ours and theirs):
        return replace(figure, note="the gate did not start, or was left out")
    added = [
        [mine.p50_ms - its.p50_ms for mine, its in zip(of, direct, strict=True)]
        for of in (ours, theirs)
    ]
    note = " and ".join(f"{statistics.median(each):.2f} ms" for each in added)
    ratio = statistics.median(mine / its for mine, its in zip(*added, strict=True))
    return replace(figure, value=ratio, note=note)


def _ratio(ours: Samples | None, theirs: Samples | None, figure: str) -> float | None:
    return times(ours, theirs, figure) if ours and theirs else None
