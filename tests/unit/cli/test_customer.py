"""`creditgate customer`, with a gate that serves the customers."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import Gate, running_gate
from tests.support.upstreams import Sim

from .desk import Desk

PLANS: dict[str, Any] = {
    "starter": {"grants": [{"name": "welcome", "amount": "5.00"}], "models": ["small"]},
    "pro": {"credit_limit": "3.00", "grants": [{"name": "pro", "amount": "7.00"}]},
}


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, sim: Sim) -> Any:
    async with running_gate(tmp_path, valkey_socket, sim.url, plans=PLANS) as running:
        yield running


async def chat(gate: Gate, key: str, model: str = "small") -> int:
    """The status of a small chat."""
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {key}"}
    return (await gate.post("/v1/chat/completions", body, headers)).status_code


async def test_a_customer_from_its_creation_to_its_end(gate: Gate, desk: Desk) -> None:
    made = await desk.ask("customer", "create", "newco", "--plan", "starter", "--name", "New Co")
    assert (made["id"], made["plan"], made["balance"]) == ("newco", "starter", "5")
    key = (await desk.ask("key", "create", "newco"))["key"]
    assert (await chat(gate, key), await chat(gate, key, "dear")) == (200, 403)
    assert (await desk.ask("customer", "update", "newco", "--plan", "pro"))["plan"] == "pro"
    assert await chat(gate, key, "dear") == 200
    assert (await desk.ask("customer", "suspend", "newco"))["status"] == "suspended"
    assert await chat(gate, key) == 402
    assert (await desk.ask("customer", "resume", "newco"))["status"] == "active"
    assert await chat(gate, key) == 200
    gone = await desk.ask("customer", "delete", "newco", "--yes", "--reason", "asked")
    assert (gone["status"], gone["name"]) == ("deleted", None)
    assert await chat(gate, key) == 401


async def test_every_field_can_be_given_and_emptied(gate: Gate, desk: Desk, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("small: {input: 4.00, output: 16.00}\n")
    given = {
        "--plan": "pro",
        "--name": "New Co",
        "--email": "a@new.example",
        "--external": "stripe=cus_9",
        "--tag": "region=eu",
        "--credit-limit": "0",
        "--billing-day": "15",
        "--model": "small",
        "--limit": "model:small:requests/rolling-day=9",
        "--project-limit": "web:spend/month=2.50",
        "--prices": str(prices),
    }
    words = [word for option in given.items() for word in option]
    made = await desk.ask("customer", "create", "newco", *words)
    assert made["external_ids"] == {"stripe": "cus_9"}
    assert made["tags"] == {"region": "eu"}
    assert (made["credit_limit"], made["billing_day"], made["models"]) == ("0", 15, ["small"])
    [limit] = made["limits"]
    assert limit == {
        "scope": "model",
        "model": "small",
        "measure": "requests",
        "window": "day",
        "ceiling": 9,
        "rolling": True,
    }
    [project] = made["projects"]["web"]["limits"]
    assert (project["scope"], project["ceiling"]) == ("project", "2.5")
    assert list(made["prices"]) == ["small"]
    shown = (await desk.run("customer", "show", "newco")).out
    assert "model:small:requests/rolling-day=9" in shown
    assert "web: project:spend/month=2.5" in shown
    fields = ("plan", "name", "email", "external", "tags", "credit-limit", "billing-day", "models")
    unset = [
        word
        for field in (*fields, "limits", "project-limits", "prices")
        for word in ("--unset", field)
    ]
    empty = await desk.ask("customer", "update", "newco", *unset)
    plain = await desk.ask("customer", "create", "plain")
    own = {"id", "balance", "available", "created_at"}
    assert {name: value for name, value in empty.items() if name not in own} == {
        name: value for name, value in plain.items() if name not in own
    }


async def test_an_id_is_made_up_if_none_is_given(gate: Gate, desk: Desk) -> None:
    said = await desk.run("customer", "create", "--plan", "starter")
    assert said.out.startswith("Created cus_")
    assert "plan starter, balance 5, status active" in said.out


async def test_pages_of_the_list_continue_where_the_last_one_ended(gate: Gate, desk: Desk) -> None:
    for name in ("aaa", "zzz"):
        await desk.ask("customer", "create", name)
    page = await desk.ask("customer", "list", "-n", "2")
    assert ([each["id"] for each in page["customers"]], page["after"]) == (["aaa", "acme"], "acme")
    page = await desk.ask("customer", "list", "--after", "acme")
    assert ([each["id"] for each in page["customers"]], page["after"]) == (["broke", "zzz"], None)
    page = await desk.ask("customer", "list", "--prefix", "z")
    assert [each["id"] for each in page["customers"]] == ["zzz"]
    said = await desk.run("customer", "list", "-n", "1")
    assert ("aaa" in said.out, said.err) == (True, "There are more: --after aaa")


async def test_the_customers_of_one_plan_are_listed(gate: Gate, desk: Desk) -> None:
    for name in ("aaa", "bbb", "ccc"):
        await desk.ask("customer", "create", name, "--plan", "pro")
    await desk.ask("customer", "create", "bab", "--plan", "starter")
    page = await desk.ask("customer", "list", "--plan", "pro", "-n", "2")
    assert ([each["id"] for each in page["customers"]], page["after"]) == (["aaa", "bbb"], "bbb")
    page = await desk.ask("customer", "list", "--plan", "pro", "--after", "bbb", "-n", "2")
    assert ([each["id"] for each in page["customers"]], page["after"]) == (["ccc"], None)


async def test_nothing_is_deleted_without_a_yes(gate: Gate, desk: Desk) -> None:
    await desk.ask("customer", "create", "newco")
    assert (await desk.run("customer", "delete", "newco", stdin="n\n")).code == 1
    assert (await desk.ask("customer", "show", "newco"))["status"] == "active"
    said = await desk.run("customer", "delete", "newco", stdin="y\n")
    assert said.out.removeprefix("y ") == "Deleted newco. balance 0, status deleted"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["create", "a b"], "'a b' is not a name"),
        (["create", "x", "--tag", "region"], "'region' must be NAME=VALUE"),
        (["create", "x", "--credit-limit", "much"], "Write credits as a decimal"),
        (["create", "x", "--limit", "requests"], "'requests' is not a limit. Write"),
        (
            ["create", "x", "--limit", "wishes/day=3"],
            "'wishes' is not a measure: use one of spend,",
        ),
        (["create", "x", "--limit", "spend/year=3"], "'year' is not a window: use one of minute,"),
        (["create", "x", "--limit", "team:spend/day=3"], "'team' is not a scope: use one of"),
        (["create", "x", "--limit", "requests/day=1.5"], "`ceiling`"),
        (["create", "x", "--limit", "requests=5"], "`window` is missing"),
        (["create", "x", "--limit", "model:spend/day=5"], "`models` is missing"),
        (["create", "x", "--project-limit", "spend/day=5"], "names no project"),
        (["update", "x"], "nothing to change"),
        (["update", "x", "--plan", "pro", "--unset", "plan"], "contradicts another option"),
    ],
)
async def test_a_mistake_on_the_command_line_is_a_usage_error(
    gate: Gate, desk: Desk, words: list[str], says: str
) -> None:
    said = await desk.run("customer", *words)
    assert said.code == 2
    assert says in said.err.replace(" │ │ ", " ")


async def test_what_the_ledger_or_the_configuration_forbids_is_said_in_one_line(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    await desk.ask("customer", "create", "newco")
    err = await desk.refused("customer", "create", "newco", "--plan", "pro")
    assert err == "there is, or was, a customer newco already"
    err = await desk.refused("customer", "create", "other", "--plan", "gold")
    assert "there is no plan gold in the configuration" in err
    err = await desk.refused("customer", "update", "acme", "--plan", "pro")
    assert "acme is kept in the configuration, under customers.acme" in err
    assert "Did you mean 'newco'" in await desk.refused("customer", "show", "newc")
    prices = tmp_path / "prices.yaml"
    prices.write_text("nope: {input: 1}\n")
    err = await desk.refused("customer", "update", "newco", "--prices", str(prices))
    assert "there is no model nope" in err
    prices.write_text("small: 3\n")
    err = await desk.refused("customer", "update", "newco", "--prices", str(prices))
    assert "small must be a mapping of prices" in err
