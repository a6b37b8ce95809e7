"""The commercial samples, each served end to end: the simulated provider reports what it is told
to, and what the ledger has charged is compared with what the sample's comments say."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.gate import Gate, running_gate
from tests.support.upstreams import Sim, sim

__all__ = ["sim"]

CONFIG = Path(__file__).parents[3] / "config"
SECTIONS = ("models", "plans", "customers")


def sections(name: str) -> dict[str, Any]:
    document = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    return {section: document.get(section, {}) for section in SECTIONS}


@pytest.fixture
async def gate(
    request: pytest.FixtureRequest, tmp_path: Path, valkey_socket: Path, sim: Sim
) -> AsyncIterator[Gate]:
    async with running_gate(tmp_path, valkey_socket, sim.url, **sections(request.param)) as running:
        yield running


async def charged(
    gate: Gate, *, output: int, model: str = "sim-small", key: str = "sk-demo", who: str = "acme"
) -> int:
    """What the customer pays, in nano-credits, for one answer of 1,000 input tokens."""
    before = (await gate.store.wallets.read([who]))[who]
    body = {
        "model": model,
        "max_tokens": output,
        "messages": [{"role": "user", "content": f"hi\nsim: tokens={output} input=1000"}],
    }
    answer = await gate.post("/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    await gate.settle_all()
    after = (await gate.store.wallets.read([who]))[who]
    return (after.settled_nano - after.adjusted_nano) - (before.settled_nano - before.adjusted_nano)


@pytest.mark.parametrize("gate", ["prepaid"], indirect=True)
async def test_prepaid_credit_is_spent_promotion_first(gate: Gate) -> None:
    # 1,000 × 0.50/M + 100 × 2.00/M
    assert await charged(gate, output=100) == 500_000 + 200_000
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    remaining = {grant.category: grant.remaining_nano for grant in wallet.grants}
    assert remaining == {"promotional": 10**9 - 700_000, "paid": 20 * 10**9}


@pytest.mark.parametrize("gate", ["subscription"], indirect=True)
async def test_a_subscription_has_an_allowance_included_requests_and_overage(gate: Gate) -> None:
    tokens = 500_000 + 200_000
    assert await charged(gate, output=100) == tokens
    assert await charged(gate, output=100) == tokens
    assert await charged(gate, output=100) == tokens + 10_000_000, "the third request of the month"
    wallet = (await gate.store.wallets.read(["acme"]))["acme"]
    (allowance,) = wallet.grants
    assert allowance.category == "allowance"
    assert allowance.remaining_nano == 20 * 10**9 - 3 * tokens - 10_000_000
    assert (wallet.billing_day, wallet.credit_limit_nano) == (15, 50 * 10**9)
    assert wallet.allowances[0].rollover_max_nano == 5 * 10**9


@pytest.mark.parametrize("gate", ["tiers"], indirect=True)
async def test_a_graduated_price_and_a_volume_price_count_the_month(gate: Gate) -> None:
    assert [await charged(gate, output=60) for _ in range(2)] == [
        60 * 10_000,
        40 * 10_000 + 20 * 4_000,
    ]
    assert [await charged(gate, output=60, model="sim-large") for _ in range(2)] == [
        60 * 10_000,
        120 * 4_000 - 60 * 10_000,  # all 120 at the second tier's rate: credited
    ]


@pytest.mark.parametrize("gate", ["reseller"], indirect=True)
async def test_a_reseller_charges_cost_times_markup_by_plan_and_customer(gate: Gate) -> None:
    costs = 1000 * 200 + 100 * 1000
    assert await charged(gate, output=100) == costs * 3 // 2
    assert await charged(gate, output=100, key="sk-broke", who="partner") == costs * 11 // 10
    assert await charged(gate, output=100, key="sk-pocket", who="special") == 200_000 + 105_000
    events = [await gate.events(who) for who in ("acme", "partner", "special")]
    assert {event.cost_nano for (event,) in events} == {costs}
    assert len({event.price_version for (event,) in events}) == 3
