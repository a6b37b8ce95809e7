"""How a figure stands against what it must and should be."""

import io

import pytest
from rich.console import Console

from loadtest.figures import Figure, table_of


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure("cost", 0.65, 1.0, 0.65), "aim met"),
        (Figure("cost", 1.0, 1.0, 0.65), "met"),
        (Figure("cost", 1.01, 1.0, 0.65), "not met"),
        (Figure("throughput", 8, 5, 8, at_least=True), "aim met"),
        (Figure("throughput", 5, 5, 8, at_least=True), "met"),
        (Figure("throughput", 4.99, 5, 8, at_least=True), "not met"),
        (Figure("cost", None, 1.0, 0.65), "not measured"),
        (Figure("cost", float("nan"), 1.0, 0.65), "not measured"),
    ],
)
def test_a_figure_stands_by_its_limits_or_was_not_measured(figure: Figure, verdict: str) -> None:
    assert figure.verdict == verdict
    assert figure.document()["verdict"] == verdict


def test_the_table_names_every_figure_with_its_limits_and_its_note() -> None:
    figures = [
        Figure("throughput", 7.5, 5, 8, at_least=True, note="a note"),
        Figure("exporter", None, 30_000, 60_000, at_least=True, note="why not"),
    ]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table_of(figures))
    shown = console.export_text()
    for words in ("7.50", "≥ 5", "≥ 8", " met ", "a note", "≥ 30,000", "not measured", "why not"):
        assert words in shown
