"""docs/explanation/benchmark.md says what is measured: contenders, workloads, sizes and limits are the program's."""

import re
from pathlib import Path

import pytest

from loadtest.bench.cells import CELLS, KEY, LARGE_BYTES, PACED_ITL_MS, SMALL_BYTES, TOKENS
from loadtest.bench.figures import Run, figures
from loadtest.bench.report import Report
from loadtest.bench.run import FULL, QUICK
from loadtest.bench.stage import Cores, Ground, Installed, starters
from loadtest.measure import QUIET_FOREIGN_SHARE
from loadtest.tls import TlsFiles
from tests.support.upstreams import tls_files

__all__ = ["tls_files"]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "benchmark.md").read_text()


def section(title: str) -> str:
    """The text under a heading."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> dict[str, str]:
    """The table under a heading: first cells and the rest."""
    found = re.findall(r"^\| ([^|]+) \| (.*) \|$", section(title), re.MULTILINE)
    return {name: rest for name, rest in found if name != "---"}


def test_the_page_names_every_contender_in_order(tls_files: TlsFiles) -> None:
    nowhere = Path("nowhere")
    ground = Ground({}, tls_files, ())
    started = starters(Cores((0,), (0,)), ground, Installed(nowhere), ["gate"])
    assert [*rows("Contenders")][1:] == [*started]


@pytest.mark.parametrize(
    ("contender", "lock"),
    [
        ("hardcap 0.1.0", "requirements-hardcap.lock"),
        ("LiteLLM 1.106.2", "requirements-litellm.lock"),
        ("LiteLLM 1.108.7", "requirements-litellm-current.lock"),
        ("TensorZero 2026.6.0", "requirements-tensorzero.lock"),
        ("ferrogw 1.5.10", "requirements-ferrogw.lock"),
        ("Portkey gateway 1.15.2", "loadtest/peers/portkey/package.json"),
    ],
)
def test_the_page_names_the_versions_that_are_locked(contender: str, lock: str) -> None:
    assert contender in section("Contenders")
    name, version = contender.lower().replace(" gateway", "").rsplit(" ", 1)
    text = (ROOT / lock).read_text()
    assert re.search(rf"{name}(-ai/gateway|\[proxy\])?(==|\": \"){re.escape(version)}\b", text)


def test_locks_of_peers_hold_hashes_and_name_no_index() -> None:
    for lock in ROOT.glob("requirements-*.lock"):
        text = lock.read_text()
        assert "://" not in text
        assert text.count("--hash=sha256:") >= text.count("==")
    text = (ROOT / "loadtest/peers/portkey/package-lock.json").read_text()
    assert '"resolved"' not in text
    packages = text.count('"node_modules/')
    assert text.count('"integrity": "sha512-') == packages > 0


def test_the_page_describes_the_workloads_that_are_sent() -> None:
    told = rows("Workloads")
    for workload in {cell.workload for cell in CELLS}:
        family, _, size = workload.partition(" c=")
        assert any(family in name and size in name for name in told), workload
    assert f"bodies of {SMALL_BYTES} bytes" in told["JSON c=32, c=256"]
    assert f"{TOKENS} frames of them {PACED_ITL_MS} ms apart" in told["paced SSE c=100"]
    assert LARGE_BYTES == 2**20
    head, _, _ = CELLS[0].shot({}).data.partition(b"\r\n\r\n")
    assert head.count(b"\r\n") == 11
    assert KEY.encode() in head


def test_the_page_states_the_sizes_of_the_full_and_of_the_quick_form() -> None:
    arguments = dict(re.findall(r"^\| (`--[^|]+) \| ([^|]*) \|", PAGE, re.MULTILINE))
    assert arguments["`--rounds`, `--seconds`"] == f"{FULL.rounds}, {FULL.seconds}"
    assert arguments["`--streams`"] == str(FULL.streams)
    assert arguments["`--pairs`"] == str(FULL.pairs)
    assert (
        f"{QUICK.rounds} round of {QUICK.seconds} s, {QUICK.streams} streams, {QUICK.pairs} pairs"
        in PAGE
    )
    assert f"{FULL.streams:,} streams that have delivered" in PAGE
    assert f"more than {QUIET_FOREIGN_SHARE:.0%}".replace("%", " %") in PAGE


def test_the_performance_page_states_the_targets_that_judge() -> None:
    page = (ROOT / "docs" / "explanation" / "performance.md").read_text()
    table = page.partition("\n## Targets\n")[2].partition("\n## ")[0]
    stated = re.findall(
        r"^\| ([^|]+) \| [^|]+ \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE
    )[1:]
    judged = [
        (figure.name, *(f"{'≥' if figure.at_least else '≤'} {limit:,g}" for limit in limits))
        for figure in figures(Run(Report(CELLS, ())))
        for limits in [(figure.must, figure.aim)]
    ]
    assert stated == judged
