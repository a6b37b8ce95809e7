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

TARGETS = ("direct", "nginx+lua", "nginx+lua pooled", "gate", "tensorzero", "hardcap")


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
    json = named(run, "CPU per JSON request / nginx+lua's, c=32")
    burst = named(run, "CPU per stream / nginx+lua's, SSE burst")
    assert (json.value, json.verdict) == (1.5, "met")
    assert (burst.value, burst.verdict) == (0.9, "aim met")


def test_throughput_is_a_multiple_of_the_peers() -> None:
    run = run_of(
        {
            (JSON_32, "gate"): sampled(per_second=6000),
            (JSON_32, "hardcap"): sampled(per_second=2000),
        }
    )
    hardcap = named(run, "throughput on one core / hardcap's, JSON")
    assert (hardcap.value, hardcap.verdict) == (3, "not met")


def test_cpu_is_compared_with_tensorzero() -> None:
    run = run_of(
        {(JSON_32, "gate"): sampled(cpu_us=90), (JSON_32, "tensorzero"): sampled(cpu_us=300)}
    )
    figure = named(run, "CPU per JSON request / TensorZero's")
    assert figure.value == pytest.approx(0.3)
    assert figure.verdict == "met"


def test_bytecodes_are_judged_when_they_were_counted() -> None:
    run = run_of({})
    run.bytecodes = 5001
    assert named(run, "bytecodes").verdict == "not met"


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
    assert len({figure.name for figure in found}) == 14
    assert "nginx has no Lua module" in named(run, "CPU per stream / nginx+lua's, paced SSE").note
    assert all(figure.note for figure in found)


def test_the_note_of_a_figure_names_noisy_contenders() -> None:
    run = run_of(
        {
            (JSON_32, "gate"): sampled(foreign_share=0.5),
            (JSON_32, "nginx+lua"): sampled(),
        }
    )
    assert figures(run)[1].note.endswith("noisy: gate")


def test_the_ledgers_cost_and_waiting_streams_are_judged_where_they_are_measured() -> None:
    run = run_of({})
    run.costs = [
        Cost("valkey 9", 8, Case(THREE, 2, tiers=True), 80.0, 2.0, [80.0]),
        Cost("valkey 9", 8, Case(ONE, 1, tiers=False), 44.0, 2.0, [44.0]),
        Cost("valkey 9", 8, Case(ONE, 8, tiers=False), 1.0, 2.0, [1.0]),
    ]
    run.idles = [
        Idle("gate", "plain", 10, 33.0, 50.0),
        Idle("gate", "tls", 10, 64.0, 50.0),
        Idle("nginx+lua", "plain", 10, 1.0, 50.0),
    ]
    judged = {figure.name: figure.verdict for figure in figures(run)}
    assert judged["Redis CPU per reserve+settle, everything on, µs"] == "met"
    assert judged["Redis CPU per reserve+settle, plain wallet, µs"] == "aim met"
    assert judged["memory per idle stream, plain upstream, KiB"] == "not met"
    assert judged["memory per idle stream, TLS upstream, KiB"] == "met"


def test_the_tables_show_ratios_to_the_gate_and_what_failed() -> None:
    run = run_of(
        {
            (JSON_32, "gate"): sampled(cpu_us=100, core_share=0.25),
            (JSON_32, "hardcap"): sampled(cpu_us=870),
        }
    )
    run.report.failed = {(f"{BURST}, plain upstream", "tensorzero"): "fails: 12× 500"}
    console = Console(width=report.WIDTH, record=True, file=io.StringIO())
    console.print(run.report.ratios())
    console.print(run.report.details())
    shown = console.export_text()
    for words in ("8.70", "fails", "25%", "870"):
        assert words in shown
    assert run.report.faults() == {f"tensorzero, {BURST}, plain upstream": "fails: 12× 500"}
    [hardcap] = [
        row
        for row in run.report.document()
        if (row["cell"], row["target"]) == (f"{JSON_32}, plain upstream", "hardcap")
    ]
    assert hardcap["over_gate"] == pytest.approx(8.7)
    assert hardcap["medians"]["cpu_us"] == 870
