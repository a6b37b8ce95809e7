"""Customers of the ledger are measured on a real gate, in short."""

import asyncio
from pathlib import Path

import pytest

from loadtest.growth import directory
from loadtest.growth.chart import draw


@pytest.mark.long
async def test_customers_that_were_filled_in_bulk_are_served(tmp_path: Path) -> None:
    found = await asyncio.to_thread(directory.directory, 1000, lambda _: None)
    [row] = found.report["directories"]
    assert (row["customers"], row["active"]) == (1000, 100)
    assert row["ledger_bytes"] > 1000 * 500
    assert row["cold_ms"] > 0
    draw(found.panels, tmp_path / "directory.svg")
