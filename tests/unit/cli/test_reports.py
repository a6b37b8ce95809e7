"""`report`, `events export` and `reconcile` on a real store, as they are run."""

import csv
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import typer

from gateway.cli.files import complete_file
from gateway.cli.periods import period_ms, when_ms
from gateway.domain.refusals import HOUR_MS, NO_ENTRY, RefusalHour
from tests.support.stores import sqlite_sink
from tests.unit.exporter.sinks.contract import batch_of, make_event

from .desk import Desk

DAY_MS = 86_400_000
FIRST = 20_000 * DAY_MS
PERIOD = ("--since", "2024-10-04", "--until", "2024-10-06")
CREDIT = 1_000_000_000
MODELS = """
upstreams: {sim: {base_url: "http://127.0.0.1:9"}}
models: {m: {upstream: sim, max_output_tokens: 100, prices: {input: "1", output: "2"}}}
"""


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    """A store with three requests, a refund and refusals; no ledger is needed to report on it."""
    facts = {"model": "m", "upstream": "sim"}
    sold: dict[str, Any] = {"occurred_at_ms": FIRST, "facts": facts, "cost_nano": CREDIT // 2}
    sink = sqlite_sink(tmp_path / "data" / "events.db")
    await sink.open()
    events = [
        make_event(0, amount_nano=CREDIT, **sold),
        make_event(1, amount_nano=2 * CREDIT, customer_id="zeta", **sold),
        make_event(2, amount_nano=3 * CREDIT, **{**sold, "occurred_at_ms": FIRST + DAY_MS}),
        make_event(3, kind="adjust", event_id="refund:0", amount_nano=CREDIT // 4, usage={},
                   occurred_at_ms=FIRST + DAY_MS, facts={"corrects": "r0-0:settled"}),
        make_event(4, occurred_at_ms=FIRST + 2 * DAY_MS),
    ]  # fmt: skip
    await sink.write(batch_of(events))
    broke = [
        RefusalHour(FIRST + HOUR_MS, "acme", "m", "insufficient_credits", 3, 7 * CREDIT),
        RefusalHour(FIRST + HOUR_MS, "zeta", "m", "rate_limit", 2, CREDIT),
        RefusalHour(FIRST - HOUR_MS, "zeta", "m", "rate_limit", 99, CREDIT),
    ]
    await sink.add_refusals(broke, NO_ENTRY, "5-0")
    await sink.close()
    config = tmp_path / "gateway.yaml"
    config.write_text(f"data_dir: {tmp_path}/data" + MODELS)
    return Desk(config)


async def test_usage_as_a_table_has_a_line_a_group_and_the_sum(desk: Desk) -> None:
    said = await desk.run("report", "usage", "--by", "customer", *PERIOD)
    assert said.code == 0
    assert said.out == (
        "customer requests input output charged corrected cost "
        "acme 2 24 10 4 -0.25 1 zeta 1 12 5 2 0 0.5 all 3 36 15 6 -0.25 1.5"
    )


async def test_a_table_leaves_out_corrections_where_there_are_none(desk: Desk) -> None:
    said = await desk.run("report", "margin", "--by", "customer", "--customer", "zeta", *PERIOD)
    assert said.out == (
        "customer requests charged cost margin margin percent "
        "zeta 1 2 0.5 1.5 75.00 all 1 2 0.5 1.5 75.00"
    )


async def test_margin_as_json_says_what_it_is_about(desk: Desk) -> None:
    found = await desk.ask("report", "margin", "--by", "day,model", *PERIOD, "--customer", "acme")
    assert found["since"] == "2024-10-04T00:00:00.000Z"
    assert found["by"] == ["day", "model"]
    assert found["lines"][1] == {
        "day": "2024-10-05",
        "model": "m",
        "requests": 1,
        "charged": "3",
        "corrected": "-0.25",
        "cost": "0.5",
        "without_cost": "0",
        "margin": "2.25",
        "margin_percent": "81.82",
    }
    assert found["total"]["margin"] == "2.75"


async def test_refusals_say_what_was_turned_away_and_why(desk: Desk) -> None:
    found = await desk.ask("report", "refusals", "--by", "reason", *PERIOD)
    assert found["lines"] == [
        {"reason": "insufficient_credits", "refused": 3, "estimated": "7"},
        {"reason": "rate_limit", "refused": 2, "estimated": "1"},
    ]
    assert found["total"] == {"refused": 5, "estimated": "8"}
    assert "refusals are not counted by 'key'" in await desk.refused(
        "report", "refusals", "--by", "key", *PERIOD
    )


async def test_csv_and_parquet_have_the_same_exact_values(desk: Desk, tmp_path: Path) -> None:
    for form in ("csv", "parquet", "json"):
        words = ("report", "margin", *PERIOD, "--format", form, "-o", str(tmp_path / f"m.{form}"))
        assert (await desk.run(*words)).code == 0
    with (tmp_path / "m.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = pyarrow.parquet.read_table(tmp_path / "m.parquet").to_pylist()
    assert len(lines) == len(rows) == 2
    assert rows[0]["margin"] == Decimal("2.75")
    assert rows[0]["requests"] == 2
    for line, row in zip(lines, rows, strict=True):
        assert {name: Decimal(line[name]) for name in ("charged", "margin", "margin_percent")} == {
            name: row[name] for name in ("charged", "margin", "margin_percent")
        }
    assert json.loads((tmp_path / "m.json").read_text())["lines"][0]["margin"] == "2.75"


async def test_parquet_needs_a_file_and_a_table_does_not_go_into_one(
    desk: Desk, tmp_path: Path
) -> None:
    said = await desk.run("report", "usage", "--format", "parquet")
    assert (said.code, said.out) == (2, "")
    assert "name a file with --output" in said.err
    said = await desk.run("report", "usage", "-o", str(tmp_path / "x"))
    assert said.code == 2
    assert "choose --format csv, json or parquet" in said.err
    assert not (tmp_path / "x").exists()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_without_pyarrow_the_message_says_what_to_install(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    file = str(tmp_path / "x.parquet")
    for words in (("report", "usage"), ("events", "export")):
        err = await desk.refused(*words, "--format", "parquet", "-o", file)
        assert err == "pyarrow is not installed: pip install 'creditgate[parquet]'"
    assert names_in(tmp_path) == ["data", "gateway.yaml"]


async def test_an_unknown_dimension_is_refused_with_those_that_exist(desk: Desk) -> None:
    err = await desk.refused("report", "usage", "--by", "customer,colour")
    assert err.startswith("there is no dimension 'colour'. There are: customer, project, key")


async def test_events_export_writes_every_row_and_says_the_sum(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    said = await desk.run("events", "export", *PERIOD, "-o", str(file))
    assert said.code == 0
    assert said.out == f"4 events in {file}, 6 credits charged"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["event_id"] for row in rows] == [
        "r0-0:settled",
        "r0-1:settled",
        "r0-2:settled",
        "refund:0",
    ]
    assert rows[0]["usage"] == {"input": 12, "output": 5}
    document = await desk.ask("events", "export", *PERIOD, "--customer", "zeta", "-o", str(file))
    assert document == {
        "file": str(file), "rows": 1, "charged": "2", "amounts": {"settle": "2"},
    }  # fmt: skip


async def test_reconcile_shows_differences_first(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "provider.csv"
    file.write_text("day,model,cost,input\n2024-10-04,m,1,24\n2024-10-05,m,0.6,12\n")
    said = await desk.run("reconcile", "--provider", str(file))
    assert said.code == 0
    assert said.out == (
        "day model figure ours provider difference "
        "2024-10-05 m cost 0.5 0.6 0.1 2024-10-05 m input 12 12 0 "
        "2024-10-04 m cost 1 1 0 2024-10-04 m input 24 24 0 "
        "all cost 1.5 1.6 0.1 all input 36 36 0 1 of 2 lines differ (generic)."
    )
    found = await desk.ask("reconcile", "--provider", str(file), "--credits-each", "2")
    assert (found["format"], found["differing"], found["uncosted_requests"]) == ("generic", 2, 0)
    assert found["total"]["cost_difference"] == "1.7"


async def test_reconcile_names_what_it_does_not_understand(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "provider.csv"
    file.write_text("day,model,inputs\n")
    assert "not understood in generic: inputs" in await desk.refused(
        "reconcile", "--provider", str(file)
    )
    said = await desk.run("reconcile", "--provider", str(file), "--column", "inputs")
    assert said.code == 2
    said = await desk.run("reconcile", "--provider", str(tmp_path / "none.csv"))
    assert said.code == 2
    assert "cannot read" in said.err


async def test_a_store_that_is_not_there_yet_reports_nothing(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"data_dir: {tmp_path}/data" + MODELS)
    found = await Desk(config).ask("report", "usage")
    assert found["lines"] == []
    assert found["total"]["requests"] == 0


NOW = 1_800_000_000_000


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("7d", NOW - 7 * DAY_MS),
        ("24h", NOW - DAY_MS),
        ("90m", NOW - 90 * 60_000),
        ("2w", NOW - 14 * DAY_MS),
        ("2024-10-04", FIRST),
        ("2024-10-04T00:00:00Z", FIRST),
        ("2024-10-04T02:00:00.5+02:00", FIRST + 500),
    ],
)
def test_a_moment_is_a_date_a_time_or_how_long_ago(text: str, at_ms: int) -> None:
    assert when_ms(text, NOW) == at_ms


@pytest.mark.parametrize("text", ["yesterday", "2024-13-01", "7", "7y", "2024-10-04T00:00:00", ""])
def test_other_moments_are_usage_errors(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        when_ms(text, NOW)


def test_a_period_that_ends_before_it_begins_is_a_usage_error() -> None:
    assert period_ms("2024-10-04", None) == (FIRST, None)
    with pytest.raises(typer.BadParameter, match="not after"):
        period_ms("2024-10-04", "2024-10-04")


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("earlier")

    def break_off() -> None:
        with complete_file(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert names_in(tmp_path) == ["out.csv"]
    assert path.read_text() == "earlier"
    with complete_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "earlier"
    assert path.read_text() == "new"
    with pytest.raises(typer.Exit), complete_file(tmp_path / "no" / "folder"):
        pass
