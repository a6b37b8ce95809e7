"""`creditgate key`, with keys used at a running gate."""

import hashlib
import hmac
from pathlib import Path

import httpx
import pytest

from tests.support.gate import BROKE_KEY, KEY, Gate, digest, running_gate
from tests.support.upstreams import Sim

from .desk import Desk


async def chat(gate: Gate, key: str) -> httpx.Response:
    """A small chat with another key than the test customer's own."""
    body = {"model": "small", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    return await gate.post("/v1/chat/completions", body, {"authorization": f"Bearer {key}"})


async def test_a_new_key_works_at_once_and_stands_on_the_event(gate: Gate, desk: Desk) -> None:
    made = await desk.ask("key", "create", "acme", "--project", "website", "--id", "k_web")
    assert made["key"].startswith("sk-cg-")
    assert (made["key_id"], made["customer_id"], made["project_id"]) == ("k_web", "acme", "website")
    assert (await chat(gate, made["key"])).status_code == 200
    facts = (await gate.one_event()).facts
    assert (facts["key_id"], facts["project_id"]) == ("k_web", "website")


async def test_the_key_is_printed_alone_so_that_it_can_be_piped(gate: Gate, desk: Desk) -> None:
    said = await desk.run("key", "create", "acme")
    assert said.code == 0
    assert " " not in said.out
    assert (await chat(gate, said.out)).status_code == 200
    assert "not shown again" in said.err


async def test_only_the_hash_is_kept(gate: Gate, desk: Desk) -> None:
    made = await desk.ask("key", "create", "acme")
    assert made["sha256"] == digest(made["key"])
    [stored] = await gate.store.keys.entries()
    assert stored.digest == made["sha256"]
    listed = (await desk.run("key", "list", "--json")).out
    assert made["key"] not in listed
    assert made["sha256"] in listed


async def test_with_a_pepper_the_hash_is_keyed(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    auth = {"key_pepper": "salt and pepper"}
    async with running_gate(tmp_path, valkey_socket, sim.url, auth=auth) as gate:
        made = await Desk(tmp_path / "gateway.yaml").ask("key", "create", "acme")
        keyed = hmac.new(b"salt and pepper", made["key"].encode(), hashlib.sha256).hexdigest()
        assert made["sha256"] == keyed
        assert (await chat(gate, made["key"])).status_code == 200


async def test_a_revoked_key_is_refused_at_its_next_request(gate: Gate, desk: Desk) -> None:
    made = await desk.ask("key", "create", "acme")
    assert (await chat(gate, made["key"])).status_code == 200
    revoked = await desk.ask("key", "revoke", made["key_id"])
    assert revoked["revoked_at"] is not None
    assert (await chat(gate, made["key"])).status_code == 401
    assert (await chat(gate, KEY)).status_code == 200, "the customer's other key goes on"
    again = await desk.ask("key", "revoke", made["key_id"])
    assert again["revoked_at"] == revoked["revoked_at"]


async def test_list_has_both_kinds_and_marks_revoked_ones(gate: Gate, desk: Desk) -> None:
    await desk.ask("key", "create", "acme", "--id", "k_old")
    await desk.ask("key", "create", "acme", "--id", "k_new")
    await desk.ask("key", "revoke", "k_old")
    listed = {each["key_id"]: each for each in await desk.ask("key", "list")}
    assert set(listed) == {"k_acme", "k_broke", "k_old", "k_new"}
    assert (listed["k_acme"]["kept_in"], listed["k_new"]["kept_in"]) == ("configuration", "ledger")
    assert listed["k_old"]["revoked_at"] is not None
    assert listed["k_new"]["revoked_at"] is None
    only = {each["key_id"] for each in await desk.ask("key", "list", "acme")}
    assert only == {"k_acme", "k_old", "k_new"}
    assert "k_old" in (await desk.run("key", "list")).out


async def test_a_key_of_the_configuration_is_revoked_in_the_configuration(
    gate: Gate, desk: Desk
) -> None:
    err = await desk.refused("key", "revoke", "k_broke")
    assert "k_broke is kept in the configuration, under customers.broke" in err
    assert (await chat(gate, BROKE_KEY)).status_code == 402, "it is still known"


async def test_ids_are_not_used_twice(gate: Gate, desk: Desk) -> None:
    await desk.ask("key", "create", "acme", "--id", "k_one")
    assert "there is a key k_one already" in await desk.refused(
        "key", "create", "broke", "--id", "k_one"
    )
    assert "k_acme in the configuration already" in await desk.refused(
        "key", "create", "acme", "--id", "k_acme"
    )


async def test_what_is_not_known_is_told_with_the_nearest_name(gate: Gate, desk: Desk) -> None:
    await desk.ask("key", "create", "acme", "--id", "k_web")
    for words in (("create", "acmee"), ("list", "acmee")):
        err = await desk.refused("key", *words)
        assert err == "there is no customer acmee. Did you mean 'acme'?"
    err = await desk.refused("key", "revoke", "k_wep")
    assert err == "there is no key k_wep. Did you mean 'k_web'?"


@pytest.mark.parametrize("option", ["--id", "--project"])
async def test_names_that_the_configuration_could_not_have_are_usage_errors(
    gate: Gate, desk: Desk, option: str
) -> None:
    said = await desk.run("key", "create", "acme", option, "a b")
    assert said.code == 2
    assert "'a b' is not a name" in said.err
    assert await gate.store.keys.entries() == []


async def test_where_gates_take_no_keys_none_is_made(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    trusted = {"customer": "x-customer-id", "networks": ["127.0.0.0/8"]}
    auth = {"keys": False, "trusted_header": trusted}
    async with running_gate(tmp_path, valkey_socket, sim.url, auth=auth) as gate:
        desk = Desk(tmp_path / "gateway.yaml")
        assert "API keys are disabled" in await desk.refused("key", "create", "acme")
        assert await gate.store.keys.entries() == []


async def test_a_key_has_the_options_that_it_was_created_with(gate: Gate, desk: Desk) -> None:
    made = await desk.ask(
        "key",
        "create",
        "acme",
        "--name=Build server",
        "--expires=90d",
        "--model=small",
        "--limit=requests/day=1",
        "--network=127.0.0.0/8",
        "--network=10.0.0.0/8",
    )
    [entry] = [e for e in await desk.ask("key", "list", "acme") if e["kept_in"] == "ledger"]
    assert (entry["name"], entry["models"]) == ("Build server", ["small"])
    assert entry["networks"] == ["127.0.0.0/8", "10.0.0.0/8"]
    assert entry["shown"] == f"sk-cg-…{made['key'][-4:]}"
    assert (await chat(gate, made["key"])).status_code == 200
    assert (await chat(gate, made["key"])).status_code == 429
    said = (await desk.run("key", "list", "acme")).out
    assert entry["shown"] in said


async def test_the_list_says_when_a_key_was_last_used(gate: Gate, desk: Desk) -> None:
    made = await desk.ask("key", "create", "acme", "--id", "k_web")
    assert (await chat(gate, made["key"])).status_code == 200
    await gate.service.ledger.accounts.key_uses.write()
    [entry] = [e for e in await desk.ask("key", "list", "acme") if e["key_id"] == "k_web"]
    assert entry["last_used_at"] is not None


async def test_a_test_key_says_so_in_its_prefix(gate: Gate, desk: Desk) -> None:
    made = await desk.ask("key", "create", "acme", "--test")
    assert made["key"].startswith("sk-test-")
    assert made["livemode"] is False
    assert (await chat(gate, made["key"])).status_code == 200
    granted = await desk.ask("wallet", "grant", "acme~test", "1.00")
    assert granted["customer_id"] == "acme~test"
    assert (await desk.ask("wallet", "show", "acme"))["settled"] == "0"


async def test_a_rotated_key_ends_after_its_grace(gate: Gate, desk: Desk) -> None:
    old = await desk.ask("key", "create", "acme", "--id", "k_old", "--project", "web")
    said = await desk.run("key", "rotate", "k_old", "--grace", "24h")
    assert said.code == 0
    assert [(await chat(gate, key)).status_code for key in (old["key"], said.out)] == [200, 200]
    listed = {each["key_id"]: each for each in await desk.ask("key", "list", "acme")}
    new_id = listed["k_old"]["replaced_by"]
    assert listed[new_id]["project_id"] == "web"
    assert listed["k_old"]["expires_at"] is not None
    newest = await desk.ask("key", "rotate", new_id, "--grace", "0")
    assert (await chat(gate, said.out)).status_code == 401
    assert (await chat(gate, newest["key"])).status_code == 200
    assert "was rotated already" in await desk.refused("key", "rotate", "k_old")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--expires=soon", "not a"),
        ("--limit=customer:spend/day=1", "must have the scope `key`"),
        ("--limit=spend/day=lots", "`ceiling`"),
    ],
)
async def test_options_that_no_key_could_have_are_usage_errors(
    gate: Gate, desk: Desk, option: str, says: str
) -> None:
    said = await desk.run("key", "create", "acme", option)
    assert (said.code, says in said.err.replace(" │ │ ", " ")) == (2, True), said
    said = await desk.run("key", "rotate", "k_acme", "--grace", "long")
    assert said.code == 2
    assert await gate.store.keys.entries() == []
