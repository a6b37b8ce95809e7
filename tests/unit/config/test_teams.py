"""The sample of internal teams, served end to end: each of its limits refuses, and is named."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gate import Gate, running_gate
from tests.support.upstreams import Sim, sim
from tests.unit.config.test_commercial import sections

__all__ = ["sim"]

SEARCH, NIGHTLY, LAB = "sk-demo", "sk-broke", "sk-pocket"
MUCH = 900_000


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    async with running_gate(tmp_path, valkey_socket, sim.url, **sections("teams")) as running:
        yield running


async def ask(
    gate: Gate, key: str, *, model: str = "sim-small", tokens: int = 100
) -> httpx.Response:
    """One answer, settled, for which the provider reports so many input tokens."""
    content = f"hi\nsim: tokens=3 input={tokens}"
    body = {
        "model": model,
        "max_tokens": 10,
        "messages": [{"role": "user", "content": content}],
    }
    answer = await gate.post("/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
    await gate.settle_all()
    return answer


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Which limit refused."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    limit: dict[str, Any] = error["metadata"]["limit"]
    assert error["metadata"]["limit_source"].startswith(f"{limit['scope']} {limit['name']} (")
    assert error["metadata"]["limit_source"] in error["message"]
    return limit


async def test_a_key_has_its_own_pace_in_any_minute(gate: Gate) -> None:
    for _ in range(3):
        assert (await ask(gate, LAB)).status_code == 200
    answer = await ask(gate, LAB)
    limit = refused(answer, 429)
    assert (limit["scope"], limit["name"], limit["ceiling"]) == ("key", "k_lab", 3)
    assert (limit["window"], limit["rolling"], limit["left"]) == ("minute", True, 0)
    assert int(answer.headers["retry-after"]) <= 65
    assert (await ask(gate, SEARCH)).status_code == 200, "other keys go on"


async def test_a_key_has_its_own_daily_budget(gate: Gate) -> None:
    assert (await ask(gate, NIGHTLY, tokens=MUCH)).status_code == 200  # 0.45 credits
    answer = await ask(gate, NIGHTLY)
    limit = refused(answer, 402)
    assert (limit["scope"], limit["name"], limit["measure"]) == ("key", "k_nightly", "spend")
    assert (limit["window"], limit["ceiling"], limit["left"]) == ("day", "0.4", "0")
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    assert (await ask(gate, SEARCH)).status_code == 200, "the project has more"


async def test_the_dear_model_has_a_budget_of_its_own(gate: Gate) -> None:
    assert (await ask(gate, SEARCH, model="sim-large", tokens=MUCH)).status_code == 200  # 4.50
    limit = refused(await ask(gate, SEARCH, model="sim-large"), 402)
    assert (limit["scope"], limit["name"], limit["ceiling"]) == ("model", "sim-large", "4")
    assert (await ask(gate, SEARCH)).status_code == 200, "the other model goes on"
    limit = refused(await ask(gate, NIGHTLY, model="sim-large"), 402)
    assert limit["scope"] == "model", "it is all keys' budget"


async def test_a_project_has_its_own_monthly_budget(gate: Gate) -> None:
    for _ in range(3):
        assert (await ask(gate, LAB, tokens=MUCH)).status_code == 200
    answer = await ask(gate, LAB)
    limit = refused(answer, 402)
    assert (limit["scope"], limit["name"], limit["window"]) == ("project", "lab", "month")
    assert limit["ceiling"] == "1", "of the two that refuse, the one that does so longest"
    assert (await ask(gate, SEARCH)).status_code == 200


async def test_a_project_runs_no_more_at_once_than_it_may(gate: Gate) -> None:
    stream = {
        "model": "sim-small",
        "stream": True,
        "messages": [{"role": "user", "content": "hi\nsim: tokens=20 itl_ms=10"}],
    }
    lab = {**gate.headers, "authorization": f"Bearer {LAB}"}
    async with gate.client.stream(
        "POST", "/v1/chat/completions", json=stream, headers=lab
    ) as running:
        answer = await gate.post("/v1/chat/completions", {**stream, "stream": False}, lab)
        limit = refused(answer, 429)
        assert (limit["scope"], limit["name"], limit["measure"]) == (
            "project",
            "lab",
            "concurrent",
        )
        await running.aread()
    await gate.settle_all()
    assert (await ask(gate, LAB)).status_code == 200


async def test_each_key_sees_the_limits_that_it_may_meet(gate: Gate) -> None:
    await ask(gate, NIGHTLY, tokens=1000)
    headers = {"authorization": f"Bearer {NIGHTLY}"}
    shown = (await gate.client.get("/v1/credits", headers=headers)).json()["data"]["limits"]
    limits = {(each["scope"], each["measure"], each["window"]): each for each in shown}
    assert {place: each["ceiling"] for place, each in limits.items()} == {
        ("project", "spend", "month"): "300",
        ("project", "concurrent", None): 20,
        ("key", "spend", "day"): "0.4",
        ("key", "requests", "minute"): 60,
        ("key", "tokens", "day"): 5_000_000,
        ("model", "spend", "day"): "4",
    }
    assert limits["key", "tokens", "day"]["used"] == 1003
    assert limits["key", "requests", "minute"]["left"] == 59
    charge = 1000 * 500 + 3 * 2000
    assert limits["project", "spend", "month"]["used"] == f"0.000{charge // 1000}"
