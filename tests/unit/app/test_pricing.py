"""A gate charges by the book in force, whatever its own configuration says."""

from pathlib import Path

import pytest

from gateway.app import pricing
from gateway.domain.pricebook import Book, Draft, Price
from gateway.domain.pricing import per_unit
from gateway.ledger import pricebook
from tests.support.gate import Gate, running_gate
from tests.support.until import until
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]


async def version_charged(gate: Gate) -> str | None:
    """The price version of the newest of the customer's events, after one more request."""
    assert (await gate.chat("hi\nsim: tokens=5")).status_code == 200
    await gate.settle_all()
    return (await gate.events())[-1].price_version


async def test_a_running_gate_takes_over_what_another_has_put_in_force(
    tmp_path: Path, valkey_socket: Path, sim: Sim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pricebook, "LEAD_MS", 300)
    monkeypatch.setattr(pricing, "ASK_EVERY_S", 0.1)
    price = Price((per_unit("input", 7), per_unit("output", 9)), {}, "small")
    version = price.table().price_version
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        own = gate.settings.price_draft()
        assert await version_charged(gate) == own.book.models["small"]
        draft = Draft(Book({"small": version}), frozenset(), frozenset(), {version: price})
        books = gate.store.books
        taken = await books.apply(draft)

        async def charges_it() -> bool:
            return await version_charged(gate) == version

        await until(charges_it)
        _, now_ms = await books.schedule()
        assert now_ms >= taken.from_ms, "not before it begins"
        gate.service.abort()
        await gate.service.prepare(gate.settings)
        gate.service.commit()
        assert await version_charged(gate) == version, "its own prices do not come back"
        assert (await books.take(own)).state == "pending"
