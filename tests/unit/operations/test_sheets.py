"""Cells of CSV files."""

import pytest

from gateway.operations.sheets import csv_cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+cmd|'/C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_is_not_run_as_a_formula(text: str) -> None:
    assert csv_cell(text, "text") == f"'{text}"


@pytest.mark.parametrize("text", ["acme", "gpt-5=x", "-12.5", ""])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert csv_cell(text, "text") == text


def test_negative_amounts_stay_numbers() -> None:
    assert csv_cell(-1_500_000_000, "credits") == "-1.5"
