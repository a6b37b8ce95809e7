"""`creditgate customer link`, with the link used at a running gate."""

from pathlib import Path

import pytest

from tests.support.gate import Gate, running_gate
from tests.support.upstreams import Sim

from .desk import Desk


async def test_the_link_opens_the_customer_s_page(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    holders = {"enabled": True, "public_url": "http://gate.example"}
    async with running_gate(tmp_path, valkey_socket, sim.url, key_holders=holders) as gate:
        desk = Desk(tmp_path / "gateway.yaml")
        said = await desk.run("customer", "link", "acme", "--valid", "12h")
        assert said.code == 0
        assert said.out.startswith("http://gate.example/account/enter?token=")
        assert "opens the page of acme until" in said.err
        answer = await gate.client.get(said.out.removeprefix("http://gate.example"))
        assert answer.status_code == 200
        assert "set-cookie" in answer.headers
        made = await desk.ask("customer", "link", "acme")
        assert set(made) == {"url", "expires_at"}
        missing = await desk.run("customer", "link", "acmee")
        assert (missing.code, missing.out) == (1, "")
        assert "there is no customer acmee" in missing.err


@pytest.mark.parametrize("valid", ["7", "0d", "-1d", "91d", "soon"])
async def test_a_time_that_is_none_is_a_usage_error(desk: Desk, valid: str) -> None:
    assert (await desk.run("customer", "link", "acme", "--valid", valid)).code == 2


async def test_without_the_page_there_is_no_link(gate: Gate, desk: Desk) -> None:
    said = await desk.run("customer", "link", "acme")
    assert said.code == 1
    assert "key_holders.enabled" in said.err
