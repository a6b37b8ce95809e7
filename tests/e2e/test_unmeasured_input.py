"""What the body cannot measure is held at the model's context, or at the operator's number: a link to a
long film can neither be had for a constant, nor take a wallet below its credit.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import Gate, Serve, gate_config, running_gate
from tests.support.upstreams import Sim

CONTEXT = 1_000_000
INPUT, OUTPUT = 1000, 4000  # nano-credits a token
FILM = {"fileData": {"fileUri": "https://www.youtube.com/watch?v=dQw4w9WgXcQ"}}
GENERATE = "/v1beta/models/small:generateContent"


def film_of(tokens: int) -> dict[str, Any]:
    text = {"text": f"What happens?\nsim: tokens=4 input={tokens}"}
    return {
        "contents": [{"parts": [FILM, text]}],
        "generationConfig": {"maxOutputTokens": 10},
    }


def changes(tmp_path: Path, sim: Sim, valkey: Path, amount: str, **more: Any) -> dict[str, Any]:
    """The sections of a gate whose model has a context and whose customer has this much credit."""
    plain = gate_config(sim.url, tmp_path, f"unix://{valkey}")
    model = {**plain["models"]["small"], "context_tokens": CONTEXT}
    acme = {**plain["customers"]["acme"]}
    acme["grants"] = [{"name": "start", "amount": amount, "category": "paid"}]
    return {"models": {"small": model}, "customers": {"acme": acme}, **more}


async def test_a_film_by_link_is_held_at_the_context_and_charged_what_is_reported(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    given = changes(tmp_path, sim, valkey_socket, "10.00")
    async with running_gate(tmp_path, valkey_socket, sim.url, **given) as gate:
        assert (await gate.post(GENERATE, film_of(500_000))).status_code == 200
        event = await gate.one_event()
        assert event.estimated_amount_nano == CONTEXT * INPUT + 10 * OUTPUT
        assert event.amount_nano == 500_000 * INPUT + 4 * OUTPUT


async def test_twelve_films_at_once_do_not_take_a_small_wallet_below_zero(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    given = changes(tmp_path, sim, valkey_socket, "0.50")
    async with running_gate(tmp_path, valkey_socket, sim.url, **given) as gate:
        statuses = [(await gate.post(GENERATE, film_of(900_000))).status_code for _ in range(12)]
        assert statuses == [402] * 12
        assert sim.provider.served.posts == 0
        assert await gate.settled_nano() == 0


async def test_the_operator_s_number_takes_the_place_of_the_context(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    policy = {"media_tokens": {"video": 20_000}}
    given = changes(tmp_path, sim, valkey_socket, "10.00", policy=policy)
    async with running_gate(tmp_path, valkey_socket, sim.url, **given) as gate:
        assert (await gate.post(GENERATE, film_of(15_000))).status_code == 200
        event = await gate.one_event()
        assert 20_000 * INPUT <= event.estimated_amount_nano < 21_000 * INPUT


@pytest.mark.parametrize("reference", [None, 5000])
async def test_the_number_for_all_kinds_still_works(
    serve: Serve, sim: Sim, reference: int | None
) -> None:
    policy = {} if reference is None else {"reference_tokens": reference}
    async with serve(policy=policy) as gate:
        answer = await gate.post(GENERATE, film_of(4000))
        if reference is None:
            assert answer.status_code == 400
            assert "`media_tokens.video`" in answer.json()["error"]["message"]
            assert sim.provider.served.posts == 0
            assert await gate.held_nano() == 0
        else:
            assert answer.status_code == 200
            event = await gate.one_event()
            assert event.estimated_amount_nano >= reference * INPUT


async def test_names_at_the_provider_are_the_customer_s_own(gate: Gate, sim: Sim) -> None:
    await gate.chat(max_tokens=4, user="u-1", prompt_cache_key="cache", safety_identifier="s")
    [row] = sim.provider.served.rows
    assert row.body is not None
    document = json.loads(row.body)
    scope = document["user"].removesuffix("-u-1")
    assert len(scope) == 16
    assert document["prompt_cache_key"] == f"{scope}-cache"
    assert document["safety_identifier"] == f"{scope}-s"
    assert "acme" not in row.body


async def test_counting_tokens_names_the_customer_s_own_user(gate: Gate, sim: Sim) -> None:
    body = {
        "model": "small",
        "messages": [{"role": "user", "content": "hi"}],
        "metadata": {"user_id": "u-1"},
    }
    assert (await gate.post("/v1/messages/count_tokens", body)).status_code == 200
    [row] = sim.provider.served.rows
    assert row.body is not None
    user_id = json.loads(row.body)["metadata"]["user_id"]
    assert user_id.endswith("-u-1")
    assert len(user_id) == len("u-1") + 17
