"""Tables of reports go into pages, and the sizing is what follows from its inputs."""

from pathlib import Path

import orjson
import pytest

from loadtest.growth import page, sizing
from loadtest.growth.sizing import Carries


def test_a_page_gets_the_tables_of_which_there_is_a_report(tmp_path: Path) -> None:
    made = page.table(("a", "b"), [("1", "2"), ("3", "4")])
    (tmp_path / "one.json").write_bytes(orjson.dumps({"table": made}))
    text = "before\n<!-- one -->\nold\n<!-- /one -->\n<!-- two -->\nkept\n<!-- /two -->\nafter\n"
    filled = page.fill(text, tmp_path)
    table = "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n"
    assert filled == text.replace("old\n", table)
    assert page.fill(filled, tmp_path) == filled
    assert page.read(filled, "one") == [["1", "2"], ["3", "4"]]


def test_cores_are_rounded_up_and_not_filled() -> None:
    assert sizing.cores(6000, 100) == 1
    assert sizing.cores(6001, 100) == 2
    assert sizing.cores(1, 1) == 1


def test_what_one_core_carries_is_read_from_the_reports(tmp_path: Path) -> None:
    def write(name: str, report: object) -> None:
        (tmp_path / f"{name}.json").write_bytes(orjson.dumps(report))

    known = {"exporter_us": 30, "gate_us": 7}
    each = {"gate_us": 200.4, "ledger_us": 90.0, "replica_us": 29.6, "exporter_us": 20.0}
    write("scale", {"carries": each})
    trend = {"name": "ledger, bytes a record", "start": 250.0, "rise": -10.0}
    write("soak", {"trends": [{"name": "worker-0 memory"}, trend]})
    points = [{"size": 10, "used_bytes": 9999}, {"size": 1000, "used_bytes": 500_000}]
    write("backlog", {"measured": [{"points": points}]})
    assert sizing.carries(tmp_path, known) == Carries(200, 90, 30, 20, 240, 500)
    (_, *rows) = sizing.sizing(Carries(200, 90, 30, 20, 240, 500))
    assert rows[-1] == ["1,000,000", "334", "150", "50", "34", "800", "1,700"]


def test_what_no_report_has_stays_as_the_page_says(tmp_path: Path) -> None:
    rows = [(label, f"{1000 + number:,}", "–") for number, label in enumerate(sizing.FROM.values())]
    text = "<!-- carries -->\n" + page.markdown(page.table(("measured", "each", "core"), rows))
    known = sizing.on_page(text + "<!-- /carries -->\n")
    assert sizing.carries(tmp_path, known) == Carries(1000, 1001, 1002, 1003, 1004, 1005)
    # a run whose gate did not start on a cluster
    (tmp_path / "scale.json").write_bytes(orjson.dumps({"carries": None}))
    assert sizing.carries(tmp_path, known).gate_us == 1000
    with pytest.raises(TypeError):
        sizing.carries(tmp_path, {"gate_us": 1})
