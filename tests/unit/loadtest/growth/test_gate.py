"""What a gate needs as things grow is measured on real gates, in short."""

import asyncio
from pathlib import Path

import pytest

from loadtest.growth import gate
from loadtest.growth.chart import draw


def nobody(_: str) -> None:
    """Nobody watches."""


@pytest.mark.long
async def test_streams_are_open_while_memory_is_read(tmp_path: Path) -> None:
    found = await asyncio.to_thread(gate.streams, 250, nobody)
    assert found.report["streams"] == [0, 250]
    each = found.report["bytes_a_stream"]
    assert each["TLS"] > each["plain"] > gate.KIB, "two sockets and a hold take something"
    draw(found.panels, tmp_path / "streams.svg")
    assert "KiB a stream" in (tmp_path / "streams.svg").read_text()


@pytest.mark.long
async def test_a_configuration_of_more_customers_makes_more_wallets() -> None:
    found = await asyncio.to_thread(gate.configured, 1000, nobody)
    few, many = found.report["configurations"]
    assert (few["customers"], many["customers"]) == (10, 1000)
    assert many["ledger_bytes"] > few["ledger_bytes"]
    assert many["uss_bytes"]["worker"] > few["uss_bytes"]["worker"]


@pytest.mark.long
async def test_the_walk_is_measured_on_wallets_that_are_there() -> None:
    found = await asyncio.to_thread(gate.walk, 1000, nobody)
    (walked,) = found.report["walks"]
    assert walked.keys() == {"worker_s", "ledger_s", "stall_s", "grown_bytes"}
    assert walked["worker_s"] > 0
