"""The page: whole in itself, readable in light and dark, and escaped."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.tester.charts import charts
from loadtest.tester.compare import shown
from loadtest.tester.live import summary
from loadtest.tester.page import html_of, sentence, write_comparison, write_report
from loadtest.tester.report import Report, read_report

from .plans import plan_for, report_of


class Links(HTMLParser):
    """What a page would load, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value or "")


def test_the_page_needs_nothing_else_and_its_data_is_beside_it(
    whole: Report, tmp_path: Path
) -> None:
    page = write_report(whole, tmp_path / "new" / "report.html")
    text = page.read_text()
    links = Links()
    links.feed(text)
    assert links.loads == []
    assert "@import" not in text
    assert "url(http" not in text
    assert len(links.ids) == len(set(links.ids))
    assert len(text) < 400_000
    assert read_report(page) == whole


def test_a_comparison_needs_nothing_else_and_shows_what_both_say(
    plain: Report, whole: Report, tmp_path: Path
) -> None:
    text = write_comparison(plain, whole, tmp_path / "both.html").read_text()
    links = Links()
    links.feed(text)
    assert links.loads == []
    assert len(links.ids) == len(set(links.ids))
    assert "They differ in rate" in text
    for row in shown(plain, whole):
        assert row.after in text
        assert row.name in text


def test_every_colour_of_a_chart_is_defined_for_light_and_for_dark(stepped: Report) -> None:
    text = html_of(stepped)
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    drawn = "".join(chart.svg for chart in charts(stepped))
    used = set(re.findall(r"var\(--([\w-]+)\)", drawn)) - {"font"}
    assert {"ink", "gate", "grid", "bad"} <= used
    for styles in (light, dark):
        assert used <= set(re.findall(r"--([\w-]+):", styles))
    assert "#0a0b" not in text


def test_what_was_measured_is_what_the_page_says(plain: Report) -> None:
    text = html_of(plain)
    assert "20 requests a second for 1 s" in sentence(plain)
    for target in plain.headline.targets:
        assert target.measured in text
    titles = [chart.title for chart in charts(plain)]
    assert "Latency by rate" not in titles
    assert "Between the frames of a stream, by percentile" not in titles


async def test_a_report_without_any_answer_is_drawn_all_the_same() -> None:
    plan = plan_for("http://127.0.0.1:1", rate=5, timeout="200ms")
    assert "never got a connection" in html_of(await report_of(plan))


def test_a_title_is_text_and_not_markup(plain: Report) -> None:
    titled = plain.model_copy(update={"title": "<script>alert(1)</script>"})
    assert "<script>" not in html_of(titled)


@pytest.mark.parametrize(("share", "busy"), [(0.97, True), (0.5, False), (None, False)])
def test_a_full_machine_is_named_beside_the_verdict(
    whole: Report, share: float | None, busy: bool
) -> None:
    stage = whole.headline.model_copy(update={"machine": share})
    report = whole.model_copy(update={"stages": [stage], "main": 0})
    page = html_of(report)
    _, _, after = page.partition('class="verdict')
    said = Console(width=100, file=io.StringIO(), record=True)
    said.print(summary(report))
    printed = said.export_text()
    if busy:
        assert after.partition('<p class="lead">')[0].count("the machine was 97% busy") == 1
        assert "s (the machine was 97% busy)" in printed
    else:
        assert "the machine was" not in printed
        assert "the machine was" not in page


def test_on_a_phone_only_the_columns_that_fit_are_shown(stepped: Report) -> None:
    page = html_of(stepped)
    assert re.search(
        r"@media \(max-width: 640px\) \{.*\.wide \{ display: none; \}", page, re.DOTALL
    )
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    assert len(tables) == 5
    for table in tables:
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL):
            cells = re.findall(r"<t[hd]([^>]*)>", row)
            assert len([cell for cell in cells if "wide" not in cell]) <= 6
            assert "&#34;" not in row
