"""The configurations on the pages about Parquet, HTTP, Stripe and billing systems are accepted as they are."""

import re
from pathlib import Path

import pytest

from gateway.exporter.sink import Sink
from gateway.exporter.sinks.http_recipes import RECIPES
from gateway.exporter.sinks.options_http import HttpOptions
from gateway.exporter.sinks.registry import build_sink
from gateway.settings import load_settings

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
PAGES = [
    *(HOW_TO / "sinks" / f"{name}.md" for name in ("parquet", "http", "stripe")),
    *sorted((HOW_TO / "billing").glob("*.md")),
]
BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
START = """\
upstreams: {sim: {base_url: "http://127.0.0.1:9"}}
models: {small: {upstream: sim, max_output_tokens: 1024, prices: {input: "0.50", output: "2.00"}}}
"""
CONFIGURED = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text()))
]


@pytest.mark.parametrize("block", CONFIGURED)
def test_a_configuration_on_a_page_is_accepted(block: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(START + block)
    environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", block), "a-secret-of-24-characters")
    (options,) = load_settings(file, environ).optional_sinks().values()
    assert isinstance(build_sink(options), Sink)


def test_there_is_a_page_for_each_billing_system_and_it_uses_its_recipe() -> None:
    pages = {page.stem: page.read_text() for page in (HOW_TO / "billing").glob("*.md")}
    assert pages.keys() == RECIPES.keys() - {"cloudevents"} | {"stripe"}
    for name in pages.keys() & RECIPES.keys():
        assert f"recipe: {name}\n" in pages[name]


def test_the_replay_ages_on_the_page_are_those_of_the_recipes() -> None:
    page = (HOW_TO / "sinks" / "http.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)`.*\| ([^|]+) \|$", page, re.MULTILINE))
    hours = {"any": None, "11 hours": 11, "31 days": 31 * 24, "33 days": 33 * 24}
    for recipe in RECIPES:
        age_ms = build_sink(HttpOptions("http://h", recipe)).max_replay_age_ms
        assert hours[table[recipe]] == (None if age_ms is None else age_ms // 3_600_000), recipe
