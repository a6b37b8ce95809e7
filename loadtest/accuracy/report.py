"""What a run of all contenders says: each target met or missed, a table, JSON.

Invariants: overshoot and use are judged by the worst tenant of the run, never by a mean. Streams cut are a
mean, as hardcap's own table has them; times and refusals are compared with hardcap's default in
the same run.
"""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtest.accuracy.contenders import Contender
from loadtest.accuracy.run import Outcome, TenantOutcome
from loadtest.accuracy.scenario import Scenario

WIDTH: Final = 140
"""Columns of a terminal, or of a file, that the table needs."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One contender over all repetitions and tenants. Shares are of the budget.

    Worst: of all tenants; mean: over them. `seconds` is the median time from the first request
    to the end of the tenant's last stream.
    """

    contender: str
    about: str
    ours: bool
    peer: bool
    tenants: int
    over_charged_worst_tokens: int
    over_served_worst_tokens: int
    over_served_worst: float
    usable_worst: float
    usable_mean: float
    cut_worst: int
    cut_mean: float
    uncharged_mean_tokens: float
    refusals_mean: float
    refusals: dict[str, int]
    failures: dict[str, int]
    held_after_tokens: int
    seconds: float
    cpu_ms_per_1000_tokens: float
    redis_cpu_ms_per_1000_tokens: float
    foreign_share: float
    drifts: list[str]


def summarize(contender: Contender, outcomes: Sequence[Outcome]) -> Summary:
    """One contender's outcomes as one row."""
    tenants = [tenant for outcome in outcomes for tenant in outcome.tenants]
    budget = tenants[0].budget
    served = sum(tenant.served for tenant in tenants)

    def mean(figure: Callable[[TenantOutcome], float]) -> float:
        return statistics.mean(map(figure, tenants))

    over_served = max(tenant.over_served for tenant in tenants)
    return Summary(
        contender=contender.name,
        about=contender.about,
        ours=contender.ours,
        peer=contender.peer,
        tenants=len(tenants),
        over_charged_worst_tokens=max(tenant.over_charged for tenant in tenants),
        over_served_worst_tokens=over_served,
        over_served_worst=over_served / budget,
        usable_worst=min(tenant.usable for tenant in tenants),
        usable_mean=mean(lambda tenant: tenant.usable),
        cut_worst=max(tenant.load.cut for tenant in tenants),
        cut_mean=mean(lambda tenant: tenant.load.cut),
        uncharged_mean_tokens=mean(lambda tenant: tenant.served - tenant.charged),
        refusals_mean=mean(lambda tenant: tenant.refusals),
        refusals=dict(sum((tenant.load.refusals for tenant in tenants), Counter())),
        failures=dict(sum((tenant.load.failures for tenant in tenants), Counter())),
        held_after_tokens=max(tenant.held for tenant in tenants),
        seconds=statistics.median(tenant.load.ended_s for tenant in tenants),
        cpu_ms_per_1000_tokens=sum(o.cpu_s for o in outcomes) / served * 1e6,
        redis_cpu_ms_per_1000_tokens=sum(o.redis_cpu_s for o in outcomes) / served * 1e6,
        foreign_share=statistics.mean(outcome.foreign_share for outcome in outcomes),
        drifts=[drift for outcome in outcomes for drift in outcome.drifts],
    )


@dataclass(frozen=True, slots=True)
class Target:
    """What one figure of a contender must be. `limit` is in the figure's own unit."""

    name: str
    figure: Callable[[Summary], float]
    at_least: bool
    limit: float
    times_peer: bool = False


TARGETS: Final = (
    Target("charged over", lambda s: s.over_charged_worst_tokens, False, 0),
    Target("served over, %", lambda s: 100 * s.over_served_worst, False, 0.05),
    Target("usable, %", lambda s: 100 * s.usable_worst, True, 99.5),
    Target("cut mean", lambda s: s.cut_mean, False, 1),
    Target("time, s", lambda s: s.seconds, False, 1.2, times_peer=True),
    Target("refusals", lambda s: s.refusals_mean, False, 1.0, times_peer=True),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """A target and how a contender stands; `limit` is None where there is no peer in the run."""

    contender: str
    target: str
    value: float
    limit: float | None
    met: bool | None


def judge(summary: Summary, peer: Summary | None) -> list[Judged]:
    """Hold one contender against the targets."""
    judged = []
    for target in TARGETS:
        value = target.figure(summary)
        limit: float | None = target.limit
        if target.times_peer:
            limit = None if peer is None else target.limit * target.figure(peer)
        met = None
        if limit is not None:
            met = value >= limit if target.at_least else value <= limit
        judged.append(Judged(summary.contender, target.name, value, limit, met))
    return judged


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    scenario: Scenario
    repetitions: int
    contenders: Sequence[Contender]
    outcomes: Sequence[Outcome]

    def summaries(self) -> list[Summary]:
        """One for each contender that has run, in order."""
        found = []
        for contender in self.contenders:
            outcomes = [one for one in self.outcomes if one.contender == contender.name]
            if outcomes:
                found.append(summarize(contender, outcomes))
        return found

    def judged(self) -> list[Judged]:
        """Every target of every contender of ours."""
        peer = self.peer()
        return [one for mine in self.summaries() if mine.ours for one in judge(mine, peer)]

    def peer(self) -> Summary | None:
        """The contender that times and refusals are compared with; None when it has not run."""
        return next((summary for summary in self.summaries() if summary.peer), None)

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "system": platform.platform(),
                "python": platform.python_version(),
                "cores": os.cpu_count(),
            },
            "scenario": {**asdict(self.scenario), "repetitions": self.repetitions},
            "targets": [asdict(one) for one in self.judged()],
            "contenders": [asdict(summary) for summary in self.summaries()],
            "tenants": [
                {"contender": outcome.contender, **_tenant_document(tenant)}
                for outcome in self.outcomes
                for tenant in outcome.tenants
            ],
        }


def _tenant_document(tenant: TenantOutcome) -> dict[str, Any]:
    load = tenant.load
    return {
        "tenant": tenant.tenant,
        "repetition": tenant.repetition,
        "charged": tenant.charged,
        "served": tenant.served,
        "delivered": tenant.delivered,
        "held_after": tenant.held,
        "usable": tenant.usable,
        "answers": load.answers,
        "cut": load.cut,
        "lost_tokens": load.lost,
        "refusals": dict(load.refusals),
        "failures": dict(load.failures),
        "seconds": load.ended_s,
        "refused_for_good_after_s": load.refused_s,
    }


def show(report: Report, console: Console) -> None:
    """Print the table: a row a contender, green where a target is met."""
    scenario = report.scenario
    table = Table(
        title=(
            f"{scenario.streams} streams a tenant, {scenario.replicas} replicas, budgets of "
            f"{scenario.budget:,} tokens; {scenario.tenants} tenants × {report.repetitions}"
        ),
        caption=(
            "charged over in tokens; over and usable: the worst tenant; time to exhaust: median; "
            "refusals: mean a tenant, without each caller's last; CPU: ms per 1,000 tokens served"
        ),
    )
    table.add_column("contender", no_wrap=True)
    for target in TARGETS:
        table.add_column(target.name, justify="right")
    for name in ("usable mean", "cut worst", "uncharged", "CPU", "Redis", "audit"):
        table.add_column(name, justify="right")
    judged = {(one.contender, one.target): one for one in report.judged()}
    peer = report.peer()
    for summary in report.summaries():
        cells = [summary.contender]
        for target in TARGETS:
            value = f"{target.figure(summary):,.4g}"
            one = judged.get((summary.contender, target.name))
            if one is not None and one.met is not None:
                value = f"[green]{value} ✓" if one.met else f"[red]{value} ✗"
            cells.append(value)
        audit = "–" if not summary.ours else "[red]drift" if summary.drifts else "[green]clean"
        cells += [
            f"{100 * summary.usable_mean:.2f}",
            f"{summary.cut_worst}",
            f"{summary.uncharged_mean_tokens:.1f}",
            f"{summary.cpu_ms_per_1000_tokens:.0f}",
            f"{summary.redis_cpu_ms_per_1000_tokens:.1f}",
            audit,
        ]
        table.add_row(*cells)
    console.print(table)
    limits = Table("target", "limit", title="Each of ours must be")
    for target in TARGETS:
        sign = "≥" if target.at_least else "≤"
        times = (
            f" × {peer.contender} ({target.figure(peer):,.4g})"
            if target.times_peer and peer
            else ""
        )
        if not target.times_peer or peer:
            limits.add_row(target.name, f"{sign} {target.limit:g}{times}")
    console.print(limits)
