"""Promise 5: 500 concurrent requests over four gate processes, on a wallet that pays for 100 of
them, admit exactly 100, round after round.

Each request is charged exactly what it holds (the provider reports the very bound), so that no
credit comes back while a round runs, and the wallet must end at zero.
"""

import asyncio
import os
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
import yaml

from gateway.domain.money import format_amount
from loadtest import gate as gates
from tests.support.gate import digest, running_gate
from tests.support.upstreams import sim_provider

ROUNDS = int(os.environ.get("CREDITGATE_OVERSPEND_ROUNDS", "2"))
REQUESTS, PAID, WORKERS = 500, 100, 4
OUTPUT_TOKENS, INPUT_RATE_NANO, OUTPUT_RATE_NANO = 8, 500, 2000
RICH = "sk-rich"


def chat(input_tokens: int) -> dict[str, object]:
    """A request whose answer reports `input_tokens`; its length does not depend on the number."""
    text = f"hi\nsim: tokens={OUTPUT_TOKENS} input={input_tokens:06d}"
    return {
        "model": gates.MODEL,
        "max_tokens": OUTPUT_TOKENS,
        "messages": [{"role": "user", "content": text}],
    }


def keys_of(round_no: int) -> str:
    return f"sk-round-{round_no}"


def customers(wallet_nano: int) -> dict[str, object]:
    """One customer a round, each with credit for exactly PAID requests."""
    wallets = {keys_of(n): format_amount(wallet_nano) for n in range(ROUNDS)}
    return {
        f"c{number}": {
            "grants": [{"name": "start", "amount": amount, "category": "paid"}],
            "keys": [{"id": f"k{number}", "sha256": digest(key)}],
        }
        for number, (key, amount) in enumerate([*wallets.items(), (RICH, "100")])
    }


async def ask(session: aiohttp.ClientSession, key: str, input_tokens: int) -> tuple[int, str]:
    """Status, and what was reserved."""
    headers = {"authorization": f"Bearer {key}"}
    async with session.post(
        "/v1/chat/completions", json=chat(input_tokens), headers=headers
    ) as answer:
        await answer.read()
        return answer.status, answer.headers.get("x-credits-reserved", "")


async def balance(session: aiohttp.ClientSession, key: str) -> tuple[str, str]:
    """Balance and held, once nothing is held any more."""
    for _ in range(200):
        async with session.get("/v1/credits", headers={"authorization": f"Bearer {key}"}) as answer:
            data = (await answer.json())["data"]
        if data["held"] == "0":
            break
        await asyncio.sleep(0.05)
    return data["balance"], data["held"]


def session_for(url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=REQUESTS))


async def bound_of_a_request(folder: Path, socket: Path, sim_url: str) -> int:
    """What one such request holds, in nano-credits, as a gate with the same prices says."""
    config = yaml.safe_load(gates.write_config(folder, sim_url).read_text())
    served = {name: config[name] for name in ("upstreams", "models")}
    async with (
        running_gate(folder, socket, sim_url, customers=customers(1), **served) as gate,
        session_for(gate.url) as session,
    ):
        status, reserved = await ask(session, RICH, 1)
    assert status == 200
    return round(float(reserved) * 1e9)


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * ROUNDS)
async def test_500_concurrent_requests_on_a_wallet_for_100_admit_exactly_100(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, valkey_socket: Path
) -> None:
    async with sim_provider() as sim:
        folder = tmp_path_factory.mktemp("bound")
        bound_nano = await bound_of_a_request(folder, valkey_socket, sim.url)
        input_tokens = (bound_nano - OUTPUT_TOKENS * OUTPUT_RATE_NANO) // INPUT_RATE_NANO
        config = gates.write_config(
            tmp_path,
            sim.url,
            workers=WORKERS,
            changes={"customers": customers(PAID * bound_nano)},
        )
        serving = gates.serving(config)
        running = await asyncio.to_thread(serving.__enter__)
        try:
            async with session_for(running.url) as session:
                for number in range(ROUNDS):
                    key = keys_of(number)
                    answers = await asyncio.gather(
                        *(ask(session, key, input_tokens) for _ in range(REQUESTS))
                    )
                    statuses = Counter(status for status, _ in answers)
                    assert statuses[200] == PAID, f"round {number}: {statuses}"
                    assert set(statuses) <= {200, 402, 429}, f"round {number}: {statuses}"
                    assert await balance(session, key) == ("0", "0")
            assert len(running.pids("worker")) == WORKERS
        finally:
            await asyncio.to_thread(serving.__exit__, None, None, None)
        assert sim.provider.served.posts == ROUNDS * PAID + 1
