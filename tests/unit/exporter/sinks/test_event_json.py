"""An event as JSON has the columns of its row."""

import orjson

from gateway.domain.event_rows import COLUMNS
from gateway.exporter.sinks.event_json import event_json
from tests.unit.exporter.sinks.contract import make_row


def test_it_has_every_column_in_order_and_its_nested_values_as_json() -> None:
    row = make_row(3, customer_id='A"c\\me\n✓', cost_nano=5)
    said = orjson.loads(event_json(row))
    assert tuple(said) == COLUMNS
    nested = {name: orjson.loads(getattr(row, name)) for name in ("usage", "allocations", "facts")}
    assert said == {**row._asdict(), **nested}


def test_what_is_not_known_is_null() -> None:
    said = orjson.loads(event_json(make_row(0, facts={})))
    assert (said["model"], said["livemode"], said["cost_nano"], said["facts"]) == (
        None,
        None,
        None,
        {},
    )
