"""The growth page has a chart and a table of everything that is measured; the scale page has every ledger."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from loadtest.growth import directory, page, sizing, soak
from loadtest.growth.gate import MEASURED, MIB
from loadtest.growth.places import DIMENSIONS
from loadtest.growth.sizing import Carries
from loadtest.scale.pairs import KINDS
from loadtest.scale.run import CALLERS, GATED
from loadtest.scale.servers import SHAPES

DOCS = Path(__file__).parents[2] / "docs"
GROWTH, SCALE = ((DOCS / "explanation" / name).read_text() for name in ("growth.md", "scale.md"))
LARGEST_CHART_BYTES = 100_000


@pytest.mark.parametrize(
    "name", [*(one.name for one in DIMENSIONS), *MEASURED, *directory.MEASURED, "soak"]
)
def test_everything_measured_has_a_chart_and_a_table(name: str) -> None:
    (chart,) = re.findall(rf"!\[[^\]]+\]\((\.\./charts/{name}\.svg)\)", GROWTH)
    assert 0 < (DOCS / "explanation" / chart).stat().st_size < LARGEST_CHART_BYTES
    assert page.read(GROWTH, name)


@pytest.mark.parametrize("one", DIMENSIONS, ids=lambda one: one.name)
def test_a_table_has_the_sizes_that_are_measured(one: object) -> None:
    chosen = next(each for each in DIMENSIONS if each is one)
    told = [row[0] for row in page.read(GROWTH, chosen.name)]
    assert told == [f"{size:,}" for size in chosen.sizes]


def test_the_sizing_follows_from_what_one_core_carries() -> None:
    told = {row[0]: int(row[1].replace(",", "")) for row in page.read(SCALE, "carries")}
    inputs = {each.name: told[sizing.FROM[each.name]] for each in fields(Carries)}
    assert page.read(SCALE, "sizing") == sizing.sizing(Carries(**inputs))
    assert f"{sizing.BUSY:.0%}".replace("%", " %") in SCALE


def test_the_scale_page_has_every_ledger_that_is_measured() -> None:
    names = [shape.name for shape in SHAPES]
    assert [row[0] for row in page.read(SCALE, "driven")] == names
    assert [row[0] for row in page.read(SCALE, "paced")] == names
    assert [row[0] for row in page.read(SCALE, "gates")] == [shape.name for shape in GATED]
    assert [row[:2] for row in page.read(SCALE, "cluster")] == [
        [f"{kind.name}, {callers} callers a primary", name]
        for kind in KINDS
        for callers in CALLERS
        for name in names
    ]


def test_the_soaks_bounds_are_those_that_judge() -> None:
    assert f"{soak.BOUND_SHARE:.0%}".replace("%", " %") in GROWTH
    assert f"{soak.BOUND_BYTES // MIB} MiB" in GROWTH
    assert f"{soak.BOUND_DESCRIPTORS} descriptors more" in GROWTH
    assert f"{soak.BOUND_RECORD_BYTES:g} bytes a record" in GROWTH
    assert f"{soak.WARM_MINUTES:g} minutes" in GROWTH
    assert f"up to {soak.STORE_CACHE_BYTES // MIB} MiB\nmore" in GROWTH
