"""Turns the outcome of a session into a stage of the report: figures, targets, limits of the senders."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

from loadtest.tester.histogram import Histogram
from loadtest.tester.report import (
    BUSY_MACHINE,
    DIRECT,
    GATE,
    PERCENTS,
    Figures,
    Judged,
    Latency,
    Look,
    Moment,
    Process,
    Senders,
    Stage,
)
from loadtest.tester.session import Outcome, Sample
from loadtest.tester.tally import FIRST_BYTE, SEND_LAG, TOTAL, Tally
from loadtest.tester.targets import Target

_BUSY_SENDER: Final = 0.9
"""Cores of one sending process from which on it may be what is measured."""
_LATE_MS: Final = 2.0
_LATE_SHARE: Final = 0.25
_MUCH_TOO_LATE_MS: Final = 100.0
"""Lateness of the slowest hundredth: counts when it is a good part of the latencies, or large."""


def _key(percent: float) -> str:
    return f"p{percent:g}"


def _latency(histogram: Histogram) -> Latency:
    values = histogram.percentiles_ms(PERCENTS)
    return Latency(
        count=histogram.count,
        mean_ms=histogram.mean_ms(),
        percentiles_ms=dict(zip(map(_key, PERCENTS), values, strict=True)),
        hdr=histogram.encoded(),
    )


def _figures(tally: Tally, seconds: float) -> Figures:
    kinds = tally.kinds
    return Figures(
        ended=tally.ended,
        good=kinds["good"],
        refused=kinds["refused"],
        errors=kinds["error"],
        per_second=tally.answered_inside / seconds,
        statuses={str(status): n for status, n in sorted(tally.statuses.items())},
        refusals=dict(tally.refusals.most_common()),
        error_names=dict(tally.errors.most_common()),
        latencies={
            name: _latency(histogram)
            for name, histogram in sorted(tally.latencies.items())
            if histogram.count and name != SEND_LAG
        },
    )


def measured(target: Target, gate: Tally, direct: Tally | None, seconds: float) -> float | None:
    """The figure that a target is about; None when it was not measured."""
    if target.series is not None:
        assert target.percent is not None
        found = gate.latencies[target.series].percentile_ms(target.percent)
        if not target.added:
            return found
        base = direct.latencies[target.series].percentile_ms(target.percent) if direct else None
        return None if found is None or base is None else found - base
    if target.figure == "rate":
        return gate.answered_inside / seconds
    if not gate.ended:
        return None
    return gate.kinds["error" if target.figure == "errors" else "refused"] / gate.ended


def stage_of(
    name: str,
    outcome: Outcome,
    targets: Sequence[Target],
    *,
    senders: int,
    rate: float | None = None,
    until_rate: float | None = None,
    connections: int | None = None,
    rate_at: Mapping[int, float] | None = None,
) -> Stage:
    """A session's outcome as a stage of the report."""
    gate, seconds = outcome.tallies[GATE], outcome.seconds
    direct = outcome.tallies.get(DIRECT)
    looks = [look for look in outcome.samples if 0 < look.at_s <= seconds + 0.5]
    machine = _mean([look.machine for look in looks])
    figures = _figures(gate, seconds)
    own = _senders(outcome, looks, senders, figures)
    judged = []
    for target in targets:
        value = measured(target, gate, direct, seconds)
        judged.append(Judged(text=target.text, measured=target.show(value), met=target.met(value)))
    return Stage(
        name=name,
        rate=rate,
        until_rate=until_rate,
        connections=connections,
        seconds=seconds,
        slice_s=outcome.slice_s,
        gate=figures,
        direct=_figures(direct, seconds) if direct is not None else None,
        added_ms=_added(gate, direct) if direct is not None else {},
        moments=_moments(outcome, gate, direct, rate_at or {}),
        looks=[
            Look(
                at_s=round(look.at_s, 3),
                cores={name: round(cores, 4) for name, cores in look.cores.items()},
                memory_bytes=look.memory,
                machine=round(look.machine, 4),
                senders=round(look.senders, 4),
            )
            for look in outcome.samples
            if look.at_s <= seconds + 0.5
        ],
        processes=_processes(looks, figures),
        senders=own,
        machine=machine,
        warnings=_warnings(outcome, figures, machine),
        targets=judged,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _added(gate: Tally, direct: Tally) -> dict[str, dict[str, float | None]]:
    added: dict[str, dict[str, float | None]] = {}
    for series in (TOTAL, FIRST_BYTE, "frame_gap"):
        ours, theirs = gate.latencies[series], direct.latencies[series]
        if ours.count and theirs.count:
            pairs = zip(ours.percentiles_ms(PERCENTS), theirs.percentiles_ms(PERCENTS), strict=True)
            added[series] = {
                _key(percent): None if a is None or b is None else round(a - b, 6)
                for percent, (a, b) in zip(PERCENTS, pairs, strict=True)
            }
    return added


def _moments(
    outcome: Outcome, gate: Tally, direct: Tally | None, rate_at: Mapping[int, float]
) -> list[Moment]:
    found = []
    for number in range(-(-int(outcome.seconds * 1000) // int(outcome.slice_s * 1000))):
        part = gate.slices[number]
        past = direct.slices[number] if direct is not None else None
        p50, p99 = part.total.percentiles_ms((50, 99))
        found.append(
            Moment(
                at_s=number * outcome.slice_s,
                rate=rate_at.get(number),
                good=part.kinds["good"],
                refused=part.kinds["refused"],
                errors=part.kinds["error"],
                p50_ms=p50,
                p99_ms=p99,
                first_byte_p50_ms=part.first_byte.percentile_ms(50),
                direct_p50_ms=past.total.percentile_ms(50) if past else None,
                direct_p99_ms=past.total.percentile_ms(99) if past else None,
            )
        )
    return found


def _processes(looks: Sequence[Sample], figures: Figures) -> list[Process]:
    found = []
    for name in looks[0].cores if looks else ():
        cores = [look.cores[name] for look in looks]
        mean = sum(cores) / len(cores)
        found.append(
            Process(
                name=name,
                cores=round(mean, 4),
                most_cores=round(max(cores), 4),
                per_answer_us=mean / figures.per_second * 1e6 if figures.per_second else None,
                most_memory_bytes=max(look.memory[name] for look in looks),
            )
        )
    return found


def _senders(
    outcome: Outcome, looks: Sequence[Sample], processes: int, figures: Figures
) -> Senders:
    lag = outcome.tallies[GATE].latencies[SEND_LAG]
    p50, p99 = lag.percentiles_ms((50, 99))
    cores = [look.senders for look in looks]
    mean = _mean(cores) or 0.0
    limits = []
    if mean >= _BUSY_SENDER:
        limits.append(
            f"a sending process took {mean:.0%} of a core: use more processes, or another machine"
        )
    total = figures.latencies.get(TOTAL)
    found = total.percentiles_ms["p99"] if total else None
    part_of_it = found is not None and p99 is not None and p99 >= max(_LATE_MS, _LATE_SHARE * found)
    if p99 is not None and (part_of_it or p99 >= _MUCH_TOO_LATE_MS):
        limits.append(
            f"requests were sent late (p99 {p99:.3g} ms after they were due), which is part of "
            "the latencies: use another machine, or a lower rate"
        )
    return Senders(
        processes=processes,
        cores=round(mean, 4),
        most_cores=round(max(cores, default=0.0), 4),
        lag_p50_ms=p50,
        lag_p99_ms=p99,
        limits=limits,
    )


def _warnings(outcome: Outcome, figures: Figures, machine: float | None) -> list[str]:
    found = []
    if machine is not None and machine >= BUSY_MACHINE:
        found.append(
            f"This machine was {machine:.0%} busy. Senders, gate, upstream and whatever else ran on "
            f"its {os.cpu_count()} cores waited for each other: the latencies are those of a full "
            "machine."
        )
    if outcome.most_waiting:
        found.append(
            f"At times {outcome.most_waiting:,} of the requests waited for a free connection; the wait is "
            "part of their latency."
        )
    if not figures.good:
        found.append("No request got a good answer.")
    return found
