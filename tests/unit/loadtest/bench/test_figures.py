"""What a run's samples say of each figure that design asks for."""

import io

import pytest
from rich.console import Console

from loadtest.bench import report
from loadtest.bench.cells import BURST, CELLS, JSON_32, JSON_RATE, PACED
from loadtest.bench.figures import Run, figures
from loadtest.bench.idle import Idle
from loadtest.bench.report import Report
from loadtest.bench.sampling import Key
from loadtest.figures import Figure
from loadtest.ledger_cost import ONE, THREE, Case, Cost
from loadtest.measure import Sample
from tests.unit.loadtest.bench.samples import sampled

TARGETS = ("direct", "nginx+lua", "nginx+lua pooled", "gate", "hardcap", "litellm")


def run_of(figures_of: dict[tuple[str, str], Sample], **missing: str) -> Run:
    """A run with one sample of each of these workloads and targets, behind the plain upstream."""
    samples: dict[Key, list[Sample]] = {
        (f"{workload}, plain upstream", target): [sample]
        for (workload, target), sample in figures_of.items()
    }
    return Run(Report(CELLS, TARGETS, samples, missing, {}, dict.fromkeys(TARGETS, "about")))


def named(run: Run, name: str) -> Figure:
    [figure] = [figure for figure in figures(run) if figure.name.startswith(name)]
    return figure


def test_cpu_is_compared_with_the_better_variant_of_nginx_with_lua() -> None:
    run = run_of(
        {
            (JSON_32, "gate"): sampled(cpu_us=90),
            (JSON_32, "nginx+lua"): sampled(cpu_us=100),
            (JSON_32, "nginx+lua pooled"): sampled(cpu_us=60),
            (BURST, "gate"): sampled(cpu_us=90),
            (BURST, "nginx+lua"): sampled(cpu_us=100),
        }
    )
    json, burst = figures(run)[0], named(run, "the same, SSE burst")
    assert (json.value, json.verdict) == (1.5, "not met")
    assert (burst.value, burst.verdict) == (0.9, "met")


def test_throughput_is_a_multiple_of_the_peers() -> None:
    run = run_of(
        {
            (JSON_32, "gate"): sampled(per_second=6000),
            (JSON_32, "litellm"): sampled(per_second=50),
            (JSON_32, "hardcap"): sampled(per_second=1500),
        }
    )
    assert named(run, "throughput against LiteLLM").value == 120
    hardcap = named(run, "throughput against hardcap 0.1.0, JSON")
    assert (hardcap.value, hardcap.verdict) == (4, "not met")


def test_added_latency_counts_from_what_the_provider_needs() -> None:
    samples = {
        (JSON_RATE, "direct"): sampled(p50_ms=1.0),
        (JSON_RATE, "gate"): sampled(p50_ms=2.5),
        (JSON_RATE, "nginx+lua"): sampled(p50_ms=2.0),
    }
    assert named(run_of(samples), "added p50").value == 1.5
    samples[JSON_RATE, "nginx+lua"] = sampled(p50_ms=0.9)
    assert named(run_of(samples), "added p50").verdict == "not measured"


def test_what_a_run_did_not_measure_is_there_and_says_why() -> None:
    run = run_of({(PACED, "gate"): sampled()}, **{"nginx+lua": "nginx has no Lua module"})
    found = figures(run)
    assert {figure.verdict for figure in found} == {"not measured"}
    assert len(found) == 14
    assert "nginx has no Lua module" in named(run, "the same, paced SSE").note
    assert all(figure.note for figure in found)


def test_noise_is_told_beside_the_figure() -> None:
    run = run_of(
        {
            (JSON_32, "gate"): sampled(foreign_share=0.5),
            (JSON_32, "nginx+lua"): sampled(),
        }
    )
    assert figures(run)[0].note.endswith("noisy: gate")


def test_the_ledgers_cost_and_waiting_streams_are_judged_where_they_are_measured() -> None:
    run = run_of({})
    run.costs = [
        Cost("valkey 9", 8, Case(THREE, 2, tiers=True), 80.0, 2.0, [80.0]),
        Cost("valkey 9", 8, Case(ONE, 1, tiers=False), 49.0, 2.0, [49.0]),
        Cost("valkey 9", 8, Case(ONE, 8, tiers=False), 1.0, 2.0, [1.0]),
    ]
    run.idles = [
        Idle("gate", "plain", 10, 33.0, 50.0),
        Idle("gate", "tls", 10, 64.0, 50.0),
        Idle("nginx+lua", "plain", 10, 1.0, 50.0),
    ]
    judged = {figure.name: figure.verdict for figure in figures(run)}
    pair = [verdict for name, verdict in judged.items() if name.startswith("Redis CPU per")]
    assert pair == ["met", "not met"]
    assert judged["the same with one scope and one grant: µs"] == "aim met"
    assert judged["memory per idle stream, plain upstream, KiB"] == "not met"
    assert judged["memory per idle stream, TLS upstream, KiB"] == "aim met"


def test_the_tables_show_ratios_to_the_gate_and_what_failed() -> None:
    run = run_of(
        {
            (JSON_32, "gate"): sampled(cpu_us=100, core_share=0.25),
            (JSON_32, "hardcap"): sampled(cpu_us=870),
        }
    )
    run.report.failed = {(f"{BURST}, plain upstream", "litellm"): "fails: 12× 500"}
    console = Console(width=report.WIDTH, record=True, file=io.StringIO())
    console.print(run.report.ratios())
    console.print(run.report.details())
    shown = console.export_text()
    for words in ("8.70", "fails", "25%", "870"):
        assert words in shown
    assert run.report.faults() == {f"litellm, {BURST}, plain upstream": "fails: 12× 500"}
    [hardcap] = [
        row
        for row in run.report.document()
        if (row["cell"], row["target"]) == (f"{JSON_32}, plain upstream", "hardcap")
    ]
    assert hardcap["over_gate"] == pytest.approx(8.7)
    assert hardcap["medians"]["cpu_us"] == 870
