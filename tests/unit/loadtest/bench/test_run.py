"""A short run for real: every part of it gives its figures, whatever they are."""

import dataclasses
import io
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.bench.__main__ import Watch, document, show
from loadtest.bench.cells import BURST, CELLS, JSON_32, JSON_LARGE, JSON_RATE
from loadtest.bench.run import QUICK, Plan, measure
from loadtest.bench.stage import Installed, starters
from loadtest.gate import GATE_COMMAND

NOWHERE = Path("/nonexistent")
PEERS = ("tensorzero", "ferrogw", "hardcap", "litellm", "litellm current", "portkey")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_short_run_measures_the_gate_and_says_which_peers_are_missing(tmp_path: Path) -> None:
    workloads = (JSON_32, BURST, JSON_RATE, JSON_LARGE)
    cells = [cell for cell in CELLS if cell.workload in workloads]
    console = Console(width=150, record=True, file=io.StringIO())
    size = dataclasses.replace(QUICK, streams=16, pairs=16)
    names = ["direct", "gate", *PEERS]
    start = partial(starters, installed=Installed(NOWHERE), gate_command=GATE_COMMAND)
    run = measure(tmp_path, Plan(cells, names, size), start, Watch(console).steps())
    report = run.report
    assert set(report.missing) == set(PEERS)
    assert set(report.interpreters) == {"gate"}
    for cell in cells:
        [sample] = report.samples[cell.name, "gate"]
        assert sample.good > 0
        assert sample.bad == 0
        assert sample.cpu_us > 0
        assert sample.redis_us > 0
        assert sample.scripts >= 2
    assert {(idle.target, idle.upstream) for idle in run.idles} == {
        ("gate", "plain"),
        ("gate", "tls"),
    }
    assert {name for name, _upstream in run.idle_faults} == {"hardcap"}
    judged = {figure["name"]: figure for figure in document(run, size)["figures"]}
    assert judged["Redis CPU per reserve+settle, plain wallet, µs"]["value"] > 0
    assert judged["bytecodes per JSON request"]["value"] > 1000
    assert judged["memory per idle stream, plain upstream, KiB"]["verdict"] != "not measured"
    assert judged["throughput on one core / hardcap's, JSON"]["verdict"] == "not measured"
    show(run, console)
    assert "hardcap is not installed" in console.export_text()
