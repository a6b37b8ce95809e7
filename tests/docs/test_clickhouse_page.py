"""docs/how-to/sinks/clickhouse.md: its configuration is valid, its queries run on tables that the sink made."""

import re
from pathlib import Path

import pytest
import yaml

from gateway.exporter.sinks.clickhouse import ClickHouseSink
from gateway.exporter.sinks.options import ClickHouseOptions
from gateway.settings import load_settings
from loadtest.sinks.clickhouse_server import running
from tests.unit.exporter.sinks.contract import batch_of, make_event
from tests.unit.settings.conftest import RIGHT

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "sinks" / "clickhouse.md").read_text()


def test_its_configuration_is_valid(tmp_path: Path) -> None:
    (sample,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert yaml.safe_load(sample)["export"]["required"] == "warehouse"
    file = tmp_path / "gateway.yaml"
    file.write_text(RIGHT + sample)
    settings = load_settings(file, {"CLICKHOUSE_PASSWORD": "hunter2"})
    assert settings.required_store() == ClickHouseOptions(
        "https://clickhouse.example.com:8443", "creditgate", "creditgate", "hunter2", 30_000
    )


async def test_its_queries_and_tables_are_there(tmp_path: Path) -> None:
    _, queries = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    tables = re.findall(
        r"^\| (`[^|]*`) \|", PAGE[PAGE.index("## What to query") : PAGE.index("## Versions")], re.M
    )
    with running(tmp_path, debian=False) as server:
        options = server.options(database="creditgate")
        sink = ClickHouseSink(options)
        await sink.open()
        event = make_event(0, occurred_at_ms=1_800_000_000_000, cost_nano=200)
        await sink.write(batch_of([event]))
        await sink.close()
        answers = [server.ask(query.strip()) for query in queries.split(";") if query.strip()]
        own = server.ask("SELECT name FROM system.tables WHERE database = 'creditgate'")
    named = [name for cell in tables for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(line["name"] for line in own) == sorted(named)
    assert answers[0][0]["margin"] == pytest.approx(5e-7)
    assert answers[1] == [{"customer_id": "acme", "charged_nano": 700}]
    assert answers[2] == [{"team": "x", "charged_nano": 700}]
