"""Runs as if measured: two rounds, of which the second was disturbed, all ledgers alike."""

from loadtest.scale.drive import Driven
from loadtest.scale.gates import DIRECT, GateSample, Latency
from loadtest.scale.pairs import KINDS, Paced, PairSample
from loadtest.scale.run import CALLERS, GATED, Run
from loadtest.scale.servers import SHAPES

NOISE = (1.0, 3.0)


def run(*, more_us: float = 0.0, gates: bool = True) -> Run:
    """A run of all ledgers. more_us: CPU of a pair for each primary more than one"""
    made = Run(server="valkey 9.1", shares={}, idle={})
    for shape in SHAPES:
        primaries = max(1, shape.primaries)
        cost_us = 50.0 + more_us * (primaries - 1)
        replicas_us = 20.0 * shape.replicas
        made.shares[shape.name] = [1 / primaries] * primaries
        made.idle[shape.name] = 0.001
        for kind in KINDS:
            for callers in CALLERS:
                made.pairs[shape.name, kind.name, callers] = [
                    PairSample(9000 / by, cost_us * by, cost_us * by, replicas_us, 30.0, 8.0)
                    for by in NOISE
                ]
        made.paced[shape.name] = [Paced(0.2 * by, 0.9 * by, cost_us * by) for by in NOISE]
        made.driven[shape.name] = [
            Driven(min(primaries * 18_000, 36_000) / by, cost_us * by, replicas_us, 5.0, 1.9)
            for by in NOISE
        ]
    if gates:
        made.gate_latencies[DIRECT] = [Latency(0.3, 0.5), Latency(0.9, 1.5)]
        for shape in GATED:
            made.gates[shape.name] = [GateSample(4000, 160.4, 80.0, 31.0, 20.0)] * 2
            made.gate_latencies[shape.name] = [Latency(0.8, 1.5), Latency(1.9, 4.5)]
    return made
