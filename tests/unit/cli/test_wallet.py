"""`creditgate wallet`, on the real scripts."""

import asyncio
import contextlib
from pathlib import Path

import pytest
import yaml

from gateway.domain.delivery import START
from gateway.domain.events import Event
from tests.ledger.relay import Relay
from tests.support.gate import KEY, SHARDS, Gate, digest, gate_config, running_gate
from tests.support.outbox_entries import read_entries
from tests.support.upstreams import Sim

from .desk import Desk
from .test_corrections import export


async def entries(gate: Gate) -> list[str]:
    """Ids of all entries of all outboxes."""
    tails = await read_entries(gate.outbox, dict.fromkeys(range(SHARDS), START), limit=100_000)
    return [entry.event_id for _, tail in tails for entry in tail if isinstance(entry, Event)]


async def test_show_tells_balance_holds_and_grants(gate: Gate, desk: Desk) -> None:
    shown = await desk.ask("wallet", "show", "acme")
    amounts = {name: shown[name] for name in ("balance", "held", "available", "granted", "settled")}
    assert amounts == {
        "balance": "10",
        "held": "0",
        "available": "10",
        "granted": "10",
        "settled": "0",
    }
    assert (shown["credit_limit"], shown["overdraft"], shown["status"]) == ("0", "0", "active")
    [grant] = shown["grants"]
    assert (grant["name"], grant["category"], grant["remaining"]) == ("start", "paid", "10")
    said = await desk.run("wallet", "show", "acme")
    assert said.code == 0
    assert "balance 10" in said.out
    assert "start" in said.out


async def test_show_counts_what_was_charged(gate: Gate, desk: Desk) -> None:
    await gate.chat("hi\nsim: tokens=5", max_tokens=8)
    event = await gate.one_event()
    shown = await desk.ask("wallet", "show", "acme")
    charged = f"{event.amount_nano / 1e9:.9f}".rstrip("0")
    assert shown["settled"] == charged
    assert shown["grants"][0]["remaining"] == shown["balance"] != "10"


async def test_grants_stand_in_the_order_they_are_spent(gate: Gate, desk: Desk) -> None:
    terms = ("--category", "promotional", "--priority", "5", "--expires", "2096-01-01T00:00:00Z")
    made = await desk.ask("wallet", "grant", "acme", "2.50", *terms, "--name", "spring")
    assert (made["amount"], made["balance"], made["replayed"]) == ("2.5", "12.5", False)
    spring, start = (await desk.ask("wallet", "show", "acme"))["grants"]
    assert (spring["name"], spring["expires_at"]) == ("spring", "2096-01-01T00:00:00.000Z")
    assert (spring["category"], spring["priority"]) == ("promotional", 5)
    assert start["name"] == "start"


async def test_list_has_every_customer_also_one_without_a_wallet(gate: Gate, desk: Desk) -> None:
    config = yaml.safe_load(desk.config.read_text())
    config["customers"]["new"] = {}
    desk.config.write_text(yaml.safe_dump(config))
    listed = {each["customer_id"]: each for each in await desk.ask("wallet", "list")}
    assert listed["acme"]["balance"] == "10"
    assert listed["broke"]["available"] == "0"
    assert listed["new"] == {"customer_id": "new", "status": "no wallet yet"}
    said = await desk.run("wallet", "list")
    assert "new no wallet yet" in said.out


async def test_a_grant_without_a_key_makes_one_and_is_new_each_time(gate: Gate, desk: Desk) -> None:
    first = await desk.ask("wallet", "grant", "acme", "1")
    second = await desk.ask("wallet", "grant", "acme", "1")
    assert (first["balance"], second["balance"]) == ("11", "12")
    assert first["key"] != second["key"]
    again = await desk.ask("wallet", "grant", "acme", "1", "--key", first["key"])
    assert (again["balance"], again["replayed"]) == ("12", True)
    said = await desk.run("wallet", "grant", "acme", "1")
    assert "Granted acme 1 credits." in said.out
    assert "--key cli-" in said.err


async def test_the_same_key_grants_once_and_says_so(gate: Gate, desk: Desk) -> None:
    words = ("wallet", "grant", "acme", "5.00", "--key", "payment-7")
    assert "Granted acme 5 credits. balance 15" in (await desk.run(*words)).out
    said = await desk.run(*words)
    assert said.code == 0
    assert "The key payment-7 was used for this before: nothing was changed." in said.out
    assert "balance 15" in said.out


@pytest.mark.parametrize(
    "other", [("6.00",), ("5.00", "--category", "promotional"), ("5.00", "--priority", "7")]
)
async def test_a_key_used_for_other_terms_is_refused_and_changes_nothing(
    gate: Gate, desk: Desk, other: tuple[str, ...]
) -> None:
    await desk.ask("wallet", "grant", "acme", "5.00", "--key", "payment-7")
    err = await desk.refused("wallet", "grant", "acme", *other, "--key", "payment-7")
    assert "the key payment-7 was used for another grant to acme" in err
    assert (await desk.ask("wallet", "show", "acme"))["balance"] == "15"


async def test_one_key_for_two_customers_grants_both_as_two_events(gate: Gate, desk: Desk) -> None:
    for customer in ("acme", "broke"):
        made = await desk.ask("wallet", "grant", customer, "1", "--key", "spring-2027")
        assert not made["replayed"]
    ids = [name for name in await entries(gate) if "spring-2027" in name]
    assert len(ids) == len(set(ids)) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("abc",), "not a plain decimal number"),
        (("1e3",), "not a plain decimal number"),
        (("1.0000000001",), "nine decimals"),
        (("99999999",), "beyond 9000000 credits"),
        (("0.00",), "must be more than 0"),
        (("1", "--expires", "tomorrow"), "is not a date"),
        (("1", "--expires", "2096-01-01T00:00:00"), "has no time zone"),
        (("1", "--priority", "256"), "less than or equal to 255"),
        (("1", "--category", "gift"), "'gift' is not one of"),
        (("1", "--key", "k" * 65), "1 to 64 printable"),
    ],
)
async def test_what_cannot_be_granted_is_a_usage_error(
    gate: Gate, desk: Desk, words: tuple[str, ...], says: str
) -> None:
    said = await desk.run("wallet", "grant", "acme", *words)
    assert said.code == 2
    assert says in said.err.replace("│ ", "").replace(" │", "")
    assert (await desk.ask("wallet", "show", "acme"))["balance"] == "10"


async def test_a_grant_that_is_over_already_is_refused(gate: Gate, desk: Desk) -> None:
    err = await desk.refused("wallet", "grant", "acme", "1", "--expires", "2001-01-01T00:00:00Z")
    assert "its expiry has passed" in err


async def test_more_than_64_open_grants_are_refused_in_words(gate: Gate, desk: Desk) -> None:
    for number in range(63):
        await gate.ledger.grant("acme", f"fill-{number}", 1)
    err = await desk.refused("wallet", "grant", "acme", "1")
    assert "acme has 64 grants" in err


async def test_an_unknown_customer_is_told_with_the_nearest_name(gate: Gate, desk: Desk) -> None:
    for words in (("show", "acmee"), ("grant", "acmee", "1")):
        err = await desk.refused("wallet", *words)
        assert err == "there is no customer acmee. Did you mean 'acme'?"


async def test_a_configured_customer_without_a_wallet_is_told_so(gate: Gate, desk: Desk) -> None:
    config = yaml.safe_load(desk.config.read_text())
    config["customers"]["new"] = {}
    desk.config.write_text(yaml.safe_dump(config))
    err = await desk.refused("wallet", "grant", "new", "1")
    assert "new is in the configuration but has no wallet yet" in err


async def test_grants_for_some_models_are_available_for_those_alone(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    grants = [{"name": "premium-only", "amount": "3.00", "groups": ["premium"]}]
    customers = {"acme": {"grants": grants}}
    sections = {"model_groups": {"premium": 1, "basic": 2}, "customers": customers}
    async with running_gate(tmp_path, valkey_socket, sim.url, **sections):
        shown = await Desk(tmp_path / "gateway.yaml").ask("wallet", "show", "acme")
    assert (shown["balance"], shown["available"]) == ("3", "0")
    assert shown["available_by_group"] == {"premium": "3"}
    assert shown["grants"][0]["groups"] == ["premium"]


class CutsTheGrant(Relay):
    """Passes all but the answer to the grant with this key."""

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                self.cut_replies |= not is_reply and b"grant:acme:pay-9" in data
                if is_reply and self.cut_replies:
                    self.replies_cut += 1
                    return
                target.write(data)
                await target.drain()


async def test_a_lost_answer_names_the_key_that_makes_a_repeat_safe(
    gate: Gate, desk: Desk, tmp_path: Path, valkey_socket: Path
) -> None:
    relay = CutsTheGrant(valkey_socket)
    await relay.listen_unix(tmp_path / "relay")
    config = gate_config("http://127.0.0.1:9", tmp_path / "data", f"unix://{tmp_path}/relay")
    (tmp_path / "relayed.yaml").write_text(yaml.safe_dump(config))
    words = ("wallet", "grant", "acme", "1", "--key", "pay-9")
    err = await Desk(tmp_path / "relayed.yaml").refused(*words)
    assert relay.replies_cut > 0
    assert "Whether acme was granted is not known" in err
    assert "--key pay-9" in err
    await relay.close()
    again = await desk.ask(*words)
    assert (again["balance"], again["replayed"]) == ("11", True)


async def test_show_tells_how_limits_stand(tmp_path: Path, valkey_socket: Path, sim: Sim) -> None:
    customers = {
        "acme": {
            "grants": [{"name": "start", "amount": "10.00"}],
            "limits": [
                {"measure": "spend", "window": "total", "ceiling": "3.00"},
                {"scope": "model", "model": "dear", "measure": "requests", "window": "day", "ceiling": 2},
                {"scope": "key", "measure": "requests", "window": "minute", "ceiling": 60},
            ],
            "projects": {"web": {"limits": [{"measure": "concurrent", "ceiling": 4}]}},
            "keys": [{"id": "k_acme", "sha256": digest(KEY), "project": "web"}],
        }
    }  # fmt: skip
    async with running_gate(tmp_path, valkey_socket, sim.url, customers=customers) as gate:
        desk = Desk(tmp_path / "gateway.yaml")
        await gate.store.keys.add(digest("sk-made"), "k-made", "acme")
        await gate.chat("hi\nsim: tokens=5", max_tokens=8)
        event = await gate.one_event()
        limits = (await desk.ask("wallet", "show", "acme"))["limits"]
        shown = {(each["scope"], each["name"]): (each["used"], each["left"]) for each in limits}
        charged = f"{event.amount_nano / 1e9:.9f}".rstrip("0")
        assert shown == {
            ("customer", "acme"): (charged, f"{3 - event.amount_nano / 1e9:.9f}".rstrip("0")),
            ("model", "dear"): (0, 2),
            ("project", "web"): (0, 4),
            ("key", "k_acme"): (1, 59),
            ("key", "k-made"): (0, 60),
        }
        said = await desk.run("wallet", "show", "acme")
        assert "any minute" in said.out


async def test_show_tells_what_recurs_and_what_nothing_names_any_more(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    recurring = [
        {"name": "monthly", "amount": "20.00"},
        {"name": "daily", "amount": "1.00", "every": "day"},
    ]
    customers = {"acme": {"recurring_grants": recurring}}
    async with running_gate(tmp_path, valkey_socket, sim.url, customers=customers) as gate:
        await export(gate)
        desk = Desk(tmp_path / "gateway.yaml")
        config = yaml.safe_load(desk.config.read_text())
        config["customers"]["acme"]["recurring_grants"] = recurring[:1]
        desk.config.write_text(yaml.safe_dump(config))
        shown = await desk.ask("wallet", "show", "acme")
        said = await desk.run("wallet", "show", "acme")
    told = {
        each["name"]: (each["amount"], each["configured"]) for each in shown["recurring_grants"]
    }
    assert told == {"monthly": ("20", True), "daily": ("1", False)}
    assert {each["name"] for each in shown["grants"]} == {"monthly", "daily"}
    assert "monthly: 20 every month" in said.out
    assert "daily: 1 every day, which is no longer configured" in said.out
