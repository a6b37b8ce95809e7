"""The report as files: one self-contained HTML page, with its data as JSON next to it; two reports compared."""

from pathlib import Path
from typing import Any, Final

import jinja2
import yaml

from loadtest.tester.charts import charts, comparison_charts
from loadtest.tester.compare import shown, unlike
from loadtest.tester.live import SERIES_NAMES
from loadtest.tester.report import PERCENTS, Figures, Report, Stage
from loadtest.tester.tally import TOTAL
from loadtest.tester.targets import show_ms

_VERDICTS: Final = {
    "met": ("Targets met", "good"),
    "missed": ("Targets missed", "bad"),
    "inconclusive": ("Not decided: the load generator was the limit", "refused"),
    "none": ("Measured, without targets", "dim"),
}


def write_report(report: Report, file: Path) -> Path:
    """Write both; returns the page."""
    page = file.with_suffix(".html")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(report.model_dump_json(indent=1))
    page.write_text(html_of(report))
    return page


def write_comparison(before: Report, after: Report, file: Path) -> Path:
    """Write the page that compares two reports; returns it."""
    page = file.with_suffix(".html")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(comparison_html(before, after))
    return page


def html_of(report: Report) -> str:
    """The page of one report."""
    verdict, colour = _VERDICTS[report.verdict]
    return _render(
        "report.html.jinja",
        report=report,
        stage=report.headline,
        verdict=verdict,
        colour=colour,
        sentence=sentence(report),
        cards=_cards(report),
        latencies=list(_latency_rows(report.headline)),
        percents=[f"p{percent:g}" for percent in PERCENTS],
        outcomes=list(_outcomes(report.headline.gate)),
        charts=charts(report),
        plan=yaml.safe_dump(report.plan, sort_keys=False, allow_unicode=True),
    )


def comparison_html(before: Report, after: Report) -> str:
    """The page of two reports."""
    return _render(
        "comparison.html.jinja",
        before=before,
        after=after,
        unlike=unlike(before, after),
        rows=shown(before, after),
        charts=comparison_charts(before, after),
    )


def _render(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loadtest.tester"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"ms": _ms, "mib": lambda size: f"{size / 2**20:,.0f} MiB"}
    return environment.get_template(template).render(**values)


def _ms(value: float | None) -> str:
    return "–" if value is None else show_ms(value)


def _of(figures: Figures | None, percent: str) -> float | None:
    total = figures.latencies.get(TOTAL) if figures else None
    return total.percentiles_ms[percent] if total else None


def sentence(report: Report) -> str:
    """What the report says, in a sentence or two."""
    stage = report.headline
    asked = {
        "search": "At this rate,",
        "closed": f"{stage.connections} clients in a closed loop",
        "trace": f"The trace {stage.name}",
        "ramp": f"A rate rising from {stage.rate or 0:g} to {stage.until_rate or 0:g} requests a second",
    }.get(report.shape, f"{stage.rate or 0:,g} requests a second")
    said = (
        f"{asked} for {stage.seconds:g} s: half of the answers within {_ms(_of(stage.gate, 'p50'))}"
    )
    said += f", 99 % within {_ms(_of(stage.gate, 'p99'))}."
    added = stage.added_ms.get(TOTAL, {})
    if added.get("p50") is not None:
        said += f" The gate adds {_ms(added['p50'])} to the median and {_ms(added['p99'])} to the 99th percentile."
    if report.shape == "search":
        best = report.found_rate
        found = (
            "Even {:,g} requests a second miss" if best is None else "{:,g} requests a second meet"
        )
        said = f"{found.format(best or stage.rate)} the targets. {said}"
        if report.ended_by_generator:
            said += " Rates above it were beyond the load generator: the gate may take more."
    return said


def _cards(report: Report) -> list[tuple[str, str, str]]:
    """The figures that people look for first: name, value, note."""
    stage = report.headline
    gate, added = stage.gate, stage.added_ms.get(TOTAL, {})
    share = 1 / gate.ended if gate.ended else 0.0
    offered = "" if stage.rate is None else f"target rate {stage.until_rate or stage.rate:,g}/s"
    cards = [
        ("answers a second", f"{gate.per_second:,.4g}", offered),
        ("median", _ms(_of(gate, "p50")), _beside(added.get("p50"))),
        ("99th percentile", _ms(_of(gate, "p99")), _beside(added.get("p99"))),
        ("errors", f"{gate.errors * share:.2%}", f"{gate.errors:,} of {gate.ended:,}"),
        ("refused", f"{gate.refused * share:.2%}", f"{gate.refused:,} of {gate.ended:,}"),
    ]
    workers = [one for one in stage.processes if one.name.startswith("worker")]
    if workers:
        each_us = sum(one.per_answer_us or 0 for one in workers)
        cards.append(
            (
                "gate CPU an answer",
                _ms(each_us / 1e3),
                f"{len(workers)} worker process{'es' * (len(workers) > 1)}",
            )
        )
    return cards


def _beside(added_ms: float | None) -> str:
    return "" if added_ms is None else f"{_ms(added_ms)} of it added by the gate"


def _latency_rows(stage: Stage) -> Any:
    """Name, whether it is the gate's, count, and values by percentile."""
    for series, name in SERIES_NAMES.items():
        for who, figures in (("", stage.gate), ("direct", stage.direct)):
            found = figures.latencies.get(series) if figures else None
            if found is not None:
                yield name if not who else "direct", who, found.count, found.percentiles_ms
        if series in stage.added_ms:
            yield "added", "added", None, stage.added_ms[series]


def _outcomes(figures: Figures) -> Any:
    """Kind, name, count and share of all."""
    if not figures.ended:
        return
    yield "good", "good answer", figures.good, figures.good / figures.ended
    for kind, names in (("refused", figures.refusals), ("bad", figures.error_names)):
        for name, count in names.items():
            yield kind, name, count, count / figures.ended
