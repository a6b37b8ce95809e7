"""The layout is described once: what is generated from it is up to date, and the scripts use it alone."""

import re

import pytest

from gateway.ledger.client.scripts import lua_folder
from gateway.ledger.codec.layout import ACCOUNT, ALL, GRANT, Layout
from tests.ledger.write_layout import generated


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: object) -> None:
    current = {each: text for each, text in generated().items() if each == path}
    for each, text in current.items():
        assert each.read_text() == text, "run `python -m tests.ledger.write_layout`"


def test_the_readme_has_a_table_of_every_layout() -> None:
    shown = re.findall(r"<!-- layout (\w+) -->", (lua_folder() / "README.md").read_text())
    assert sorted(shown) == sorted(each.name for each in ALL)


@pytest.mark.parametrize("layout", ALL, ids=lambda layout: layout.name)
def test_fields_have_distinct_names(layout: Layout) -> None:
    assert len({each.name for each in layout.fields}) == len(layout.fields)


def test_records_of_a_running_ledger_stay_readable() -> None:
    """These never change: a new layout has a new number, and a migration."""
    assert {each.name: (each.codes, each.size) for each in ALL} == {
        "SHARD": ("BBHdddd", 36),
        "LOSS": ("Bdddddddd", 65),
        "ACCOUNT": ("BBBBBBBBdddddddddddddd", 120),
        "GRANT": ("BBHIdddddd", 56),
        "PERIOD": ("Idddddd", 52),
        "ALLOWANCE": ("IBBBBIdddddd", 60),
        "COUNTER": ("Iddd", 28),
        "RING": ("Iddd" + 24 * "d", 220),
        "SCOPE": ("BBBB", 4),
        "HOLD": ("BBBBBBHHHIddddd", 56),
        "ENDED": ("BBBBBBdddddd", 54),
        "ALLOCATION": ("dd", 16),
        "HELD_LIMIT": ("BBIddd", 30),
        "MARK": ("dd", 16),
        "CREDITED": ("d", 8),
    }


def test_positions_count_from_one() -> None:
    assert ACCOUNT.position("layout") == 1
    assert ACCOUNT.position("sweep_at") == 105
    assert ACCOUNT.size + GRANT.position("remaining") == 137


def test_no_script_computes_an_offset_by_hand() -> None:
    by_hand = re.compile(r"\d+ \* [a-z]\[(?:N|H|E)_[A-Z]+\] \+|\+ \d+ \* [a-z]\[(?:H|E)_")
    for path in lua_folder().glob("*.lua"):
        if path.name != "_layout.lua":
            assert not by_hand.search(path.read_text()), path.name
