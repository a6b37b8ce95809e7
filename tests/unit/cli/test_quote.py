"""`creditgate quote`, compared with what the gate itself holds for the same body."""

import json
from pathlib import Path
from typing import Any

import yaml

from gateway.domain.money import parse_amount
from tests.support.gate import KEY, Gate, digest, running_gate
from tests.support.upstreams import Sim

from .desk import Desk


def chat(**fields: Any) -> str:
    """A chat's body."""
    messages = [{"role": "user", "content": "How much is this? 5 €"}]
    return json.dumps({"model": "small", "messages": messages, **fields})


async def test_a_quote_is_what_the_gate_then_holds(gate: Gate, desk: Desk) -> None:
    body = chat(max_tokens=100)
    quoted = await desk.ask("quote", "acme", stdin=body)
    answer = await gate.post("/v1/chat/completions", json.loads(body))
    assert answer.headers["x-credits-reserved"] == quoted["hold"] == quoted["at_most"]
    assert quoted["decision"] == "allow"
    assert (quoted["available"], quoted["balance"]) == ("10", "10")
    assert quoted["bound"]["output"] == 100
    assert quoted["bound"]["input"] > len("How much is this? 5 €".encode())


async def test_the_hold_of_a_stream_may_grow_to_what_it_could_cost(gate: Gate, desk: Desk) -> None:
    settings = {"preset": "balanced", "hold_output_tokens": "50"}
    desk.config.write_text(desk.config.read_text() + f"policy: {json.dumps(settings)}\n")
    quoted = await desk.ask("quote", "acme", stdin=chat(max_tokens=100, stream=True))
    assert (quoted["stream"], quoted["bound"]["held_output"]) == (True, 50)
    grows = parse_amount(quoted["at_most"]) - parse_amount(quoted["hold"])
    assert grows == 50 * 4000


async def test_it_holds_and_writes_nothing(gate: Gate, desk: Desk) -> None:
    before = await gate.store.wallets.read(["acme", "broke"])
    await desk.ask("quote", "acme", stdin=chat())
    await desk.ask("quote", "broke", stdin=chat())
    assert await gate.store.wallets.read(["acme", "broke"]) == before
    assert await gate.store.holds.open_holds() == []


async def test_a_customer_that_cannot_pay_is_said_to_be_refused(gate: Gate, desk: Desk) -> None:
    quoted = await desk.ask("quote", "broke", stdin=chat())
    assert (quoted["decision"], quoted["available"]) == ("insufficient_credits", "0")
    said = await desk.run("quote", "broke", stdin=chat())
    assert said.code == 0
    assert "It would be refused: the balance cannot pay for it." in said.out


async def test_a_route_with_a_price_of_its_own_is_quoted_by_its_path(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    sold = {
        "path": "/v1/maps/{id}/print",
        "dialect": "generic",
        "upstream": "sim",
        "prices": {"per_item": "0.002"},
        "meter": {"per_item": {"request_pointer": "/copies", "at_most": 9}},
    }
    read = {**sold, "methods": ["GET"], "free": True}
    del read["prices"], read["meter"]
    routes = {"read": read, "sold": sold}
    async with running_gate(tmp_path, valkey_socket, sim.url, routes=routes):
        desk = Desk(tmp_path / "gateway.yaml")
        path = ("--route", "/v1/maps/7/print")
        quoted = await desk.ask("quote", "acme", *path, stdin='{"copies": 3}')
        assert (quoted["model"], quoted["hold"]) == ("sold", "0.006")
        assert quoted["route"] == "/v1/maps/{id}/print"
        refused = await desk.run("quote", "acme", *path, stdin='{"copies": 10}')
        assert refused.code == 1
        assert "/copies" in refused.err


async def test_a_model_in_the_path_is_quoted(gate: Gate, desk: Desk) -> None:
    body = json.dumps({"contents": [{"parts": [{"text": "hi"}]}]})
    path = "/v1beta/models/dear:generateContent"
    quoted = await desk.ask("quote", "acme", "--route", path, stdin=body)
    assert quoted["model"] == "dear"


async def test_the_table_shows_quantities_prices_and_amounts(gate: Gate, desk: Desk) -> None:
    said = await desk.run("quote", "acme", stdin=chat(max_tokens=100))
    assert "output 100 4 /M 0.0004 0.0004" in said.out
    assert "available 10 of a balance of 10 It would be admitted now." in said.out


async def test_another_model_and_endpoint_can_be_asked_for(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    cheap = await desk.ask("quote", "acme", stdin=chat(max_tokens=100))
    dear = await desk.ask("quote", "acme", "--model", "dear", stdin=chat(max_tokens=100))
    assert dear["model"] == "dear"
    assert float(dear["hold"]) / float(cheap["hold"]) > 900
    body = tmp_path / "message.json"
    body.write_text(chat(max_tokens=100))
    quoted = await desk.ask("quote", "acme", "--route", "/v1/messages", "--file", str(body))
    assert (quoted["route"], quoted["bound"]["output"]) == ("/v1/messages", 100)


async def test_limits_are_asked_too(tmp_path: Path, valkey_socket: Path, sim: Sim) -> None:
    limits = [
        {"measure": "spend", "window": "day", "ceiling": "0.01"},
        {"scope": "key", "measure": "requests", "window": "hour", "ceiling": "1"},
    ]
    grants = [{"name": "start", "amount": "10.00"}]
    keys = [{"id": "k_acme", "sha256": digest(KEY)}]
    customers = {"acme": {"grants": grants, "keys": keys, "limits": limits}}
    async with running_gate(tmp_path, valkey_socket, sim.url, customers=customers) as gate:
        desk = Desk(tmp_path / "gateway.yaml")
        body = chat(max_tokens=4)
        assert (await desk.ask("quote", "acme", stdin=body))["decision"] == "allow"
        whole = await desk.ask("quote", "acme", stdin=chat())
        assert whole["decision"] == "spend_limit"
        assert (await gate.post("/v1/chat/completions", json.loads(body))).status_code == 200
        await gate.settle_all()
        used = await desk.ask("quote", "acme", "--key", "k_acme", stdin=body)
        assert used["decision"] == "rate_limit"
        fresh = await desk.ask("quote", "acme", stdin=body)
        assert fresh["decision"] == "allow", "a new key has used nothing of its limits"


async def test_a_key_narrows_down_the_models(tmp_path: Path, valkey_socket: Path, sim: Sim) -> None:
    keys = [{"id": "k_acme", "sha256": digest(KEY), "models": ["dear"]}]
    async with running_gate(tmp_path, valkey_socket, sim.url, customers={"acme": {"keys": keys}}):
        desk = Desk(tmp_path / "gateway.yaml")
        await desk.ask("quote", "acme", stdin=chat())
        err = await desk.refused("quote", "acme", "--key", "k_acme", stdin=chat())
        assert err == "acme may not use small, only: dear"


async def test_a_key_made_here_can_be_asked_for_until_it_is_revoked(gate: Gate, desk: Desk) -> None:
    await desk.ask("key", "create", "acme", "--id", "k_web")
    assert (await desk.ask("quote", "acme", "--key", "k_web", stdin=chat()))["key_id"] == "k_web"
    await desk.ask("key", "revoke", "k_web")
    err = await desk.refused("quote", "acme", "--key", "k_web", stdin=chat())
    assert "acme has no valid key k_web" in err


async def test_what_the_gate_would_not_price_is_told_in_its_words(gate: Gate, desk: Desk) -> None:
    refused = {
        "there is no model smal. Did you mean 'small'?": ("acme", "--model", "smal"),
        "there is no endpoint /v1/mesages. Did you mean '/v1/messages'?": (
            "acme",
            "--route",
            "/v1/mesages",
        ),
        "/v1/messages/count_tokens is free: there is nothing to hold or to charge": (
            "acme",
            "--route",
            "/v1/messages/count_tokens",
        ),
        "there is no customer acne. Did you mean 'acme'?": ("acne",),
    }
    for says, words in refused.items():
        assert await desk.refused("quote", *words, stdin=chat()) == says
    bodies = {
        '{"model": "small", "model": "dear"}': "stands twice",
        "not json": "not valid JSON",
        chat(max_tokens=100_000): "(max_tokens)",
    }
    for body, says in bodies.items():
        err = await desk.refused("quote", "acme", stdin=body)
        assert err.startswith("the gate would refuse this body with 400: ")
        assert says in err


async def test_a_body_that_cannot_be_read_is_a_usage_error(gate: Gate, desk: Desk) -> None:
    said = await desk.run("quote", "acme", "--file", "none.json")
    assert (said.code, said.err) == (2, "cannot read none.json: No such file or directory")


async def test_a_quote_is_at_the_price_in_force_not_at_the_configuration_s(
    gate: Gate, desk: Desk
) -> None:
    asked = ("quote", "acme")
    body = chat(max_tokens=100)
    before = await desk.ask(*asked, stdin=body)
    config = yaml.safe_load(desk.config.read_text())
    config["models"]["small"]["prices"] = {"input": "50.00", "output": "50.00"}
    config["models"]["new"] = config["models"]["small"]
    desk.config.write_text(yaml.safe_dump(config))
    assert await desk.ask(*asked, stdin=body) == before, "no gate has offered it yet"
    answer = await gate.post("/v1/chat/completions", json.loads(body))
    assert answer.headers["x-credits-reserved"] == before["hold"]
    unknown = await desk.ask(*asked, "--model", "new", stdin=body)
    assert unknown["price_version"] != before["price_version"], "its configuration's own"


async def test_a_customer_s_own_price_and_its_plan_s_are_quoted(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    cheap = {"small": {"input": "0.10", "output": "0.10"}}
    own = {"dear": {"input": "0.20", "output": "0.20"}}
    keys = [{"id": "k_acme", "sha256": digest(KEY)}]
    grants = [{"name": "start", "amount": "10.00"}]
    customers = {
        "acme": {"plan": "pro", "prices": own, "keys": keys, "grants": grants},
        "other": {},
    }
    sections = {"plans": {"pro": {"prices": cheap}}, "customers": customers}
    async with running_gate(tmp_path, valkey_socket, sim.url, **sections) as gate:
        desk = Desk(tmp_path / "gateway.yaml")
        for model in ("small", "dear"):
            body = chat(model=model, max_tokens=100)
            quoted = await desk.ask("quote", "acme", stdin=body)
            answer = await gate.post("/v1/chat/completions", json.loads(body))
            assert answer.headers["x-credits-reserved"] == quoted["hold"]
            general = await desk.ask("quote", "other", stdin=body)
            assert parse_amount(general["hold"]) > parse_amount(quoted["hold"])


async def test_service_tiers_and_tiers_of_quantity_are_quoted(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    graduated = {"shape": "graduated", "tiers": [{"up_to": 10, "price": "9"}, {"price": "1"}]}
    prices = {
        "input": "1.00",
        "output": graduated,
        "service_tiers": {"flex": {"input": "0.50", "output": "2.00"}},
    }
    models = {"small": {"upstream": "sim", "prices": prices, "max_output_tokens": 100}}
    async with running_gate(tmp_path, valkey_socket, sim.url, models=models) as gate:
        desk = Desk(tmp_path / "gateway.yaml")
        for tier in ("default", "flex"):
            body = chat(max_tokens=20, service_tier=tier)
            quoted = await desk.ask("quote", "acme", stdin=body)
            answer = await gate.post("/v1/chat/completions", json.loads(body))
            assert answer.headers["x-credits-reserved"] == quoted["hold"]
            await gate.settle_all()
        said = await desk.run("quote", "acme", stdin=chat(max_tokens=20))
        assert "output 20 by tiers" in said.out
        said = await desk.run("quote", "acme", stdin=chat(max_tokens=20, service_tier="flex"))
        assert "flex.output 20 2 /M 0.00004 0.00004" in said.out
        err = await desk.refused("quote", "acme", stdin=chat(service_tier="priority"))
        assert 'Send one of "auto", "default", "flex"' in err
