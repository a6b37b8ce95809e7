"""Ledgers are compared within a round, in the order of their size, whatever was left out."""

import io

from rich.console import Console

from loadtest.scale import report
from loadtest.scale.__main__ import show
from loadtest.scale.gates import DIRECT
from loadtest.scale.servers import ONE, REPLICATED, SHAPES, SINGLE, THREE, TWO
from tests.unit.loadtest.scale.samples import run

CORES = 2


def column(table: report.Found, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_a_disturbed_round_does_not_change_a_ratio() -> None:
    found = report.driven(run(more_us=2.5), CORES)
    assert column(found, "ledger") == [shape.name for shape in SHAPES]
    assert column(found, "× single server") == ["1.00", "1.00", "1.05", "1.10", "1.10"]
    assert column(found, "× 1 primary") == ["1.00", "1.00", "2.00", "2.00", "2.00"]


def test_ledgers_keep_their_order_although_rounds_begin_with_another() -> None:
    made = run()
    made.paced = dict(reversed(made.paced.items()))
    assert column(report.paced(made), "ledger") == [shape.name for shape in SHAPES]


def test_cores_allow_no_more_than_their_cpu_and_than_the_primaries() -> None:
    made = run()
    # medians: 12,000 pairs a second at 100 + 5 µs
    assert report.allowed_per_second(made, ONE.name, CORES) == 12_000
    assert report.allowed_per_second(made, TWO.name, CORES) == CORES * 1e6 / 105
    assert report.allowed_per_second(made, TWO.name, 64) == 24_000
    assert report.allowed_per_second(made, REPLICATED.name, CORES) == CORES * 1e6 / 125
    del made.driven[ONE.name]
    assert report.allowed_per_second(made, TWO.name, CORES) is None


def test_what_a_gate_adds_is_the_difference_within_a_round() -> None:
    found = report.gates(run())
    assert column(found, "ledger") == [SINGLE.name, THREE.name, REPLICATED.name]
    assert column(found, "added p50, ms") == ["+0.750"] * 3
    assert column(found, "added p99, ms") == ["+2.000"] * 3


def test_tables_without_rows_are_left_out() -> None:
    assert [table.name for table in report.tables(run(), CORES)] == [
        "cluster",
        "paced",
        "driven",
        "gates",
    ]
    assert "gates" not in {table.name for table in report.tables(run(gates=False), CORES)}


def test_sizing_gets_the_cost_with_replicas_if_it_was_measured() -> None:
    assert report.carries(run()) == {
        "gate_us": 160.4,
        "ledger_us": 80.0,
        "replica_us": 31.0,
        "exporter_us": 20.0,
    }
    assert report.carries(run(gates=False)) is None


def test_the_document_has_every_sample() -> None:
    document = report.document(run())
    assert len(document["pairs"]) == 2 * 2 * len(SHAPES)
    assert len(document["driven"][THREE.name]) == 2
    assert document["gate_latencies"][DIRECT][1] == {"p50_ms": 0.9, "p99_ms": 1.5}


def test_a_gate_that_did_not_start_is_named_with_its_last_word() -> None:
    made = run(gates=False)
    made.missing[THREE.name] = "a long log\nthe server is not fit\n"
    console = Console(width=150, record=True, file=io.StringIO())
    show(made, CORES, console)
    shown = console.export_text()
    assert f"not measured: a gate on {THREE.name}: the server is not fit" in shown
    assert "a long log" not in shown
    assert "everything on, 32 callers a primary" in shown
