"""A gate charges by the book in force, whatever its own configuration says."""

import asyncio
from pathlib import Path

from gateway.app.pricing import ASK_EVERY_S
from gateway.domain.pricebook import Book, Draft, Price
from gateway.domain.pricing import per_unit
from tests.support.gate import Gate, running_gate
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]


async def version_charged(gate: Gate) -> str | None:
    """The price version of the newest of the customer's events, after one more request."""
    assert (await gate.chat("hi\nsim: tokens=5")).status_code == 200
    await gate.settle_all()
    return (await gate.events())[-1].price_version


async def test_a_running_gate_takes_over_what_another_has_put_in_force(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    price = Price((per_unit("input", 7), per_unit("output", 9)), {}, "small")
    version = price.table().price_version
    async with running_gate(tmp_path, valkey_socket, sim.url) as gate:
        own = gate.settings.price_draft()
        assert await version_charged(gate) == own.book.models["small"]
        draft = Draft(Book({"small": version}), frozenset(), frozenset(), {version: price})
        books = gate.store.books
        taken = await books.apply(draft)
        _, now_ms = await books.schedule()
        await asyncio.sleep((taken.from_ms - now_ms) / 1000 + ASK_EVERY_S)
        assert await version_charged(gate) == version
        gate.service.abort()
        await gate.service.prepare(gate.settings)
        gate.service.commit()
        assert await version_charged(gate) == version, "its own prices do not come back"
        assert (await books.take(own)).state == "pending"
