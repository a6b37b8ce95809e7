"""`creditgate signals`, on a store as the exporter and the courier leave it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.exporter.sinks.options import SqliteOptions
from tests.unit.exporter.test_signals import EMPTY, LOW, Receiver, Shop, receiver, until

from .desk import Desk

__all__ = ["receiver"]

CONFIG = """
upstreams: {sim: {base_url: "http://127.0.0.1:9"}}
models: {m: {upstream: sim, max_output_tokens: 100, prices: {input: "1", output: "2"}}}
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "gateway.yaml").write_text(f"data_dir: {tmp_path}{CONFIG}")
    return Desk(tmp_path / "gateway.yaml")


@pytest.fixture
async def shop(tmp_path: Path, receiver: Receiver) -> AsyncIterator[Shop]:
    made = Shop(SqliteOptions(tmp_path / "events.db"), receiver)
    await made.sink.open()
    yield made
    await made.sink.close()


async def test_before_anything_was_announced_the_list_is_empty(desk: Desk) -> None:
    assert await desk.ask("signals", "list") == []
    err = await desk.refused("signals", "resend", "r0:settled:low_balance")
    assert err


async def test_signals_are_listed_by_state_and_customer(shop: Shop, desk: Desk) -> None:
    await shop.write(LOW)
    shop.receiver.by_customer["broke"] = 500
    await shop.write(EMPTY, customer_id="broke")
    waiting = await desk.ask("signals", "list")
    assert {each["state"] for each in waiting} == {"waiting"}
    async with shop.courier() as courier:
        await until(lambda: shop.count("delivered") == 1 and courier.tally.signals_failed > 0)
        shop.late_ms = 4 * 86_400_000
        await until(lambda: shop.count("dead") == 1)
    listed = await desk.ask("signals", "list")
    assert {(each["customer_id"], each["name"]) for each in listed} == {
        ("acme", "low_balance"),
        ("broke", "exhausted"),
    }
    assert [each["customer_id"] for each in await desk.ask("signals", "list", "-n", "1")] == [
        listed[-1]["customer_id"]
    ]
    for customer in ("acme", "broke"):
        [own] = await desk.ask("signals", "list", "--customer", customer)
        assert own["balance"] == "4"
        assert own in await desk.ask("signals", "list", "--state", own["state"])
    said = await desk.run("signals", "list")
    assert "low_balance" in said.out
    assert listed[0]["signal_id"] in said.out, "also on a narrow terminal"
    assert (await desk.run("signals", "list", "--state", "lost")).code == 2
    assert (await desk.run("signals", "list", "-n", "0")).code == 2


async def test_a_delivered_signal_is_sent_again_under_its_own_id(shop: Shop, desk: Desk) -> None:
    await shop.write(LOW)
    async with shop.courier():
        await until(lambda: shop.count("delivered") == 1)
    [listed] = await desk.ask("signals", "list", "--state", "delivered")
    said = await desk.run("signals", "resend", listed["signal_id"])
    assert (said.code, said.out) == (0, "Queued for delivery.")
    err = await desk.refused("signals", "resend", listed["signal_id"])
    assert err == f"there is no signal {listed['signal_id']} that was delivered or given up"
    async with shop.courier():
        await until(lambda: shop.count("delivered") == 1)
    assert len(set(shop.receiver.ids)) == 1
    assert len(shop.receiver.ids) == 2
    err = await desk.refused("signals", "resend", "nobody")
    assert err == "there is no signal nobody that was delivered or given up"
