"""`prices plan`: what a gate charged, re-rated, is what a gate with the other prices charges."""

import asyncio
import datetime as dt
import importlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgpack import packb

from gateway.domain.pricing import PriceTable
from gateway.domain.reservation import Account, Hold, shard_of
from gateway.exporter.main import Exporter
from gateway.ledger.codec.reservation_records import DueReservation
from tests.support.gate import KEY, SHARDS, Gate, digest, gate_config, running_gate
from tests.support.stores import events_path, sqlite_sink
from tests.support.upstreams import Sim

from .desk import Desk, Said

importlib.import_module("gateway.cli.prices_plan")

OTHER_KEY = "sk-test-other"
OLD: dict[str, dict[str, Any]] = {
    "small": {
        "input": "1.00", "cache_read": "0.10", "output": "4.00",
        "service_tiers": {"flex": {"input": "0.50", "output": "2.00"}},
    },
    "dear": {"input": "1000.00", "output": "4000.00"},
}  # fmt: skip
NEW: dict[str, Any] = {
    "small": {
        "input": {
            "shape": "graduated", "included": 40,
            "tiers": [{"up_to": 60, "price": "30.00"}, {"price": "20.00", "flat": "0.001"}],
        },
        "cache_read": "0.50",
        "output": {"price": "8.00", "minimum_per_period": "0.0007"},
        "per_request": "0.00003",
        "service_tiers": {
            "flex": {"input": "3.00", "output": {"price": "1.00", "included": 20}, "per_request": "0.7"}
        },
    },
    "dear": {
        "input": {"price": "500.00", "minimum_per_request": "0.01"},
        "output": {"shape": "volume", "tiers": [{"up_to": 9, "price": "9000"}, {"price": "2000"}]},
    },
}  # fmt: skip
OWN = {"dear": {"input": "0.5", "output": {"shape": "package", "package": 7, "price": "0.02"}}}
REQUESTS = [
    ("small", KEY, "tokens=5 input=30"),
    ("small", OTHER_KEY, "tokens=70 input=100"),
    ("dear", KEY, "tokens=8 input=3"),
    ("small", KEY, "tokens=9 input=50 cached=20"),
    ("dear", OTHER_KEY, "tokens=6 input=3"),
    ("small", KEY, "tokens=40 input=35"),
    ("dear", KEY, "tokens=4 input=30"),
    ("small flex", KEY, "tokens=15 input=9"),
    ("dear", OTHER_KEY, "tokens=9 input=3"),
    ("small flex", KEY, "tokens=15 input=9 cached=4"),
    ("small", KEY, "tokens=1 input=10 cached=10"),
]


def sections(
    prices: Mapping[str, Any], costs: Mapping[str, Any] | None = None, **customers: Any
) -> dict[str, Any]:
    """Models at these prices and two customers with credit."""
    config = gate_config("http://127.0.0.1:9", Path("data"), "redis://127.0.0.1:9")
    models = {
        name: {**config["models"][name], "prices": own, "costs": (costs or {}).get(name)}
        for name, own in prices.items()
    }
    for model in models.values():
        if model["costs"] is None:
            del model["costs"]
    grants = [{"name": "start", "amount": "100.00"}]
    keys = {"acme": KEY, "other": OTHER_KEY}
    return {
        "models": models,
        "customers": {
            name: {
                "grants": grants,
                "keys": [{"id": f"k_{name}", "sha256": digest(key)}],
                **({"prices": customers[name]} if name in customers else {}),
            }
            for name, key in keys.items()
        },
    }


def new_config(folder: Path, prices: Mapping[str, Any], **options: Any) -> str:
    """A file with these prices, whose ledger is nowhere: only its prices count."""
    config = gate_config("http://127.0.0.1:9", folder / "nowhere", "redis://127.0.0.1:9")
    file = folder / "new.yaml"
    file.write_text(yaml.safe_dump({**config, **sections(prices, **options)}))
    return str(file)


async def ask(gate: Gate, requests: list[tuple[str, str, str]]) -> None:
    """Each in turn, some as streams."""
    for number, (model, key, says) in enumerate(requests):
        gate.headers["authorization"] = f"Bearer {key}"
        more: dict[str, Any] = {"stream": True} if number % 3 == 1 else {}
        model, _, tier = model.partition(" ")
        if tier:
            more["service_tier"] = tier
        answer = await gate.chat(f"hi\nsim: {says}", model=model, max_tokens=100, **more)
        assert answer.status_code == 200, answer.text
        await gate.settle_all()


async def export(gate: Gate) -> None:
    """Everything to the store of the gate's configuration."""
    exporter = Exporter(gate.outbox, gate.ledger, sqlite_sink(events_path(gate.settings)))
    exporter.begin()
    await exporter.drain(10)


@dataclass(frozen=True, slots=True)
class Charged:
    """What a gate really charged: by customer, and by customer and model before any credit."""

    net: Mapping[str, int]
    lines: Mapping[tuple[str, str], int]


async def charged(gate: Gate) -> Charged:
    wallets = await gate.store.wallets.read(["acme", "other"])
    lines: dict[tuple[str, str], int] = {}
    for name in wallets:
        for event in await gate.events(name):
            line = (name, tier_of(event.facts))
            lines[line] = lines.get(line, 0) + event.amount_nano
    net = {name: each.settled_nano - each.adjusted_nano for name, each in wallets.items()}
    return Charged(net, lines)


def tier_of(said: Mapping[str, Any]) -> str:
    """The model, and the service tier where it is not the default one."""
    tier = said.get("service_tier", "default")
    return said["model"] if tier == "default" else f"{said['model']} {tier}"


def nano(said: str) -> int:
    return round(float(said) * 10**9)


async def test_the_plan_is_what_a_gate_with_the_new_prices_charges(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    (tmp_path / "then").mkdir()
    (tmp_path / "now").mkdir()
    async with running_gate(tmp_path / "then", valkey_socket, sim.url, **sections(OLD)) as gate:
        await ask(gate, REQUESTS)
        before = await charged(gate)
        await export(gate)
        records = await everything(gate)
        desk = Desk(tmp_path / "then" / "gateway.yaml")
        planned = await desk.ask("prices", "plan", new_config(tmp_path, NEW, other=OWN))
        assert await everything(gate) == records
    async with running_gate(
        tmp_path / "now", valkey_socket, sim.url, **sections(NEW, other=OWN)
    ) as gate:
        await ask(gate, REQUESTS)
        after = await charged(gate)
    customers = {line["customer_id"]: line for line in planned["customers"]}
    assert {name: nano(line["charged"]) for name, line in customers.items()} == before.net
    assert {name: nano(line["would_be"]) for name, line in customers.items()} == after.net
    assert before.net != after.net
    lines = {(line["customer_id"], tier_of(line)): line for line in planned["lines"]}
    assert {line: nano(said["charged"]) for line, said in lines.items()} == before.lines
    steps = after.net["acme"] - sum(n for (name, _), n in after.lines.items() if name == "acme")
    assert steps < 0  # the volume step of `dear`
    would = {line: nano(said["would_be"]) for line, said in lines.items()}
    assert would == {**after.lines, ("acme", "dear"): after.lines["acme", "dear"] + steps}
    assert planned["total"]["events"] == len(REQUESTS)
    assert nano(planned["total"]["would_be"]) == sum(after.net.values())
    assert planned["unpriced"] == []
    assert planned["untold"] == {}


async def everything(gate: Gate) -> dict[bytes, bytes]:
    client: Any = gate.store._client
    return {key: await client.dump(key) async for key in client.scan_iter()}


async def test_uses_from_before_the_period_count_towards_its_tiers(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    prices = {"small": {"input": {"price": "10.00", "included": 100}, "output": "0"}}
    async with running_gate(tmp_path, valkey_socket, sim.url, **sections(OLD)) as gate:
        await ask(gate, [("small", KEY, "tokens=1 input=90")])
        await ask(gate, [("small", KEY, "tokens=1 input=30")])
        await export(gate)
    first, second = stored_moments(gate)
    desk, new = Desk(tmp_path / "gateway.yaml"), new_config(tmp_path, prices)
    later = await desk.ask("prices", "plan", new, "--since", second)
    assert (later["total"]["events"], later["total"]["would_be"]) == (1, "0.0002")
    earlier = await desk.ask("prices", "plan", new, "--since", first, "--until", second)
    assert (earlier["total"]["events"], earlier["total"]["would_be"]) == (1, "0")
    both = await desk.ask("prices", "plan", new, "--customer", "acme")
    assert (both["total"]["events"], both["total"]["would_be"]) == (2, "0.0002")
    assert (await desk.run("prices", "plan", new, "--customer", "other")).code == 2


def stored_moments(gate: Gate) -> list[str]:
    """When the requests came, by their ids, as `--since` takes it."""
    with closing(sqlite3.connect(events_path(gate.settings))) as store:
        ids = store.execute("SELECT request_id FROM events WHERE kind = 'settle' ORDER BY 1")
        moments = [int(request_id[:12], 16) for (request_id,) in ids]
    return [
        dt.datetime.fromtimestamp(moment / 1000, dt.UTC).isoformat(timespec="milliseconds")
        for moment in moments
    ]


@pytest.fixture
async def used(tmp_path: Path, valkey_socket: Path, sim: Sim) -> Desk:
    """A store with `acme` at 0.005 credits of `small` (1000 output), `other` at 0.1 of `dear`."""
    free_input = {**OLD, "small": {**OLD["small"], "input": "0"}}
    async with running_gate(tmp_path, valkey_socket, sim.url, **sections(free_input)) as gate:
        requests = [
            ("small", KEY, "tokens=50"),
            ("small", KEY, "tokens=50"),
            ("dear", OTHER_KEY, "tokens=20 input=20"),
        ]
        await ask(gate, requests)
        await export(gate)
    return Desk(tmp_path / "gateway.yaml")


def prices(output: str, dear: str = "4000") -> dict[str, Any]:
    return {
        "small": {"input": "0", "output": output},
        "dear": {"input": "1000", "output": dear},
    }


@pytest.mark.parametrize(
    ("new", "bounds", "code", "beyond"),
    [
        (prices("4"), ["--max-increase", "0", "--max-decrease", "0"], 0, []),
        (prices("5"), ["--max-increase", "25"], 0, []),
        (prices("5"), ["--max-increase", "24.9"], 1, ["acme"]),
        (prices("5"), [], 0, []),
        (prices("3"), ["--max-increase", "0"], 0, []),
        (prices("3"), ["--max-decrease", "24"], 1, ["acme"]),
        (prices("4", "6000"), ["--max-increase", "30"], 1, ["other", None]),
    ],
)
async def test_changes_beyond_the_bounds_exit_with_1(
    used: Desk, tmp_path: Path, new: dict[str, Any], bounds: list[str], code: int, beyond: list[str]
) -> None:
    said = await used.run("prices", "plan", new_config(tmp_path, new), *bounds, "--json")
    assert said.code == code, said
    assert json.loads(said.out)["beyond"] == beyond


async def test_what_would_be_sold_below_cost_exits_with_1_unless_allowed(
    used: Desk, tmp_path: Path
) -> None:
    costs = {"small": {"input": "0", "output": "4.50"}}
    new = new_config(tmp_path, prices("4"), costs=costs)
    said = await used.run("prices", "plan", new)
    assert said.code == 1
    assert "Below cost: acme small" in said.out
    allowed = await used.ask("prices", "plan", new, "--allow-below-cost")
    (line,) = [line for line in allowed["lines"] if line["model"] == "small"]
    assert (line["cost"], line["margin"]) == ("0.00045", "-0.00005")
    assert allowed["below_cost"] == [["acme", "small"]]
    (dear,) = [line for line in allowed["lines"] if line["model"] == "dear"]
    assert (dear["cost"], dear["margin"]) == (None, None)
    assert allowed["total"]["cost"] is None


async def test_a_model_without_a_price_is_told_and_left_out_of_the_sums(
    used: Desk, tmp_path: Path
) -> None:
    new = new_config(tmp_path, {"small": prices("8")["small"]})
    planned = await used.ask("prices", "plan", new)
    assert planned["unpriced"] == ["dear"]
    assert (planned["total"]["charged"], planned["total"]["would_be"]) == ("0.0004", "0.0008")
    (dear,) = [line for line in planned["lines"] if line["model"] == "dear"]
    assert (dear["charged"], dear["would_be"], dear["percent"]) == ("0.1", None, None)
    said = await used.run("prices", "plan", new)
    assert said.code == 0
    assert "no price" in said.out
    assert "left out of all sums: dear" in said.out


async def test_a_service_tier_without_a_price_is_told_and_left_out(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url, **sections(OLD)) as gate:
        await ask(gate, [("small", KEY, "tokens=5"), ("small flex", KEY, "tokens=5")])
        await export(gate)
    planned = await Desk(tmp_path / "gateway.yaml").ask(
        "prices", "plan", new_config(tmp_path, prices("4"))
    )
    assert planned["unpriced"] == ["small flex"]
    assert planned["total"]["events"] == 1


async def test_classes_that_the_old_prices_did_not_tell_apart_are_told(
    used: Desk, tmp_path: Path
) -> None:
    new = prices("4")
    new["dear"]["cache_read"] = "1"
    new["dear"]["per_request"] = "0.5"
    planned = await used.ask("prices", "plan", new_config(tmp_path, new))
    assert planned["untold"] == {"dear": ["cache_read"]}
    assert planned["total"]["change"] == "0.5"  # a request is one, told or not


async def test_prices_edited_in_place_are_planned_without_a_file(used: Desk) -> None:
    config = yaml.safe_load(used.config.read_text())
    config["models"]["small"]["prices"]["output"] = "6.00"
    used.config.write_text(yaml.safe_dump(config))
    planned = await used.ask("prices", "plan")
    assert planned["customers"][0]["percent"] == "+50.00"
    said = await used.run("prices", "plan")
    assert "+50.00" in said.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--since", "2026-01-02T00:00:00Z", "--until", "2026-01-02T00:00:00Z"], "--until"),
        (["--max-increase", "-5"], "percentage"),
        (["--max-decrease", "1e9"], "percentage"),
        (["--until", "2020-01-01T00:00:00Z"], "nothing to compare"),
        (["--since", "yesterday"], "yesterday"),
        (["not-there.yaml"], "not-there.yaml"),
    ],
)
async def test_what_cannot_be_planned_exits_with_2(used: Desk, words: list[str], says: str) -> None:
    said: Said = await used.run("prices", "plan", *words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


async def test_a_ledger_that_is_not_there_exits_with_2(used: Desk) -> None:
    config = yaml.safe_load(used.config.read_text())
    config["redis"]["url"] = "redis://127.0.0.1:9"
    used.config.write_text(yaml.safe_dump(config))
    assert (await used.run("prices", "plan")).code == 2


async def test_an_expiry_and_its_late_settle_are_one_use(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    async with running_gate(tmp_path, valkey_socket, sim.url, **sections(OLD)) as gate:
        table = gate.settings.models["small"].price_table("small")
        await expire(gate, table, "late", late={"input": 100, "output": 50})
        await expire(gate, table, "gone", late=None)
        await export(gate)
        before = await charged(gate)
    planned = await Desk(tmp_path / "gateway.yaml").ask(
        "prices",
        "plan",
        new_config(tmp_path, {**prices("40"), "small": {"input": "1", "output": "40"}}),
    )
    (line,) = planned["lines"]
    assert line["events"] == 2
    assert nano(line["charged"]) == before.net["acme"] == 100_000 + 200_000 + 10_000
    assert nano(line["would_be"]) == 100_000 + 2_000_000 + 10_000


async def expire(gate: Gate, table: PriceTable, rid: str, late: Mapping[str, int] | None) -> None:
    """A hold that expires at 10 input tokens, and what its late settle says."""
    account = Account("acme", "k_acme", shard_of("acme", SHARDS), 1)
    event = {"customer_id": "acme", "model": "small", "price_version": table.price_version}
    vector = table.vector({"input": 10})
    hold = await gate.ledger.reserve(
        account, rid, table, vector, vector, packb(event), tokens=10, ttl_ms=1_000
    )
    assert isinstance(hold, Hold), hold
    ledger = gate.ledger_at(hold.deadline_ms)
    expired = await ledger.expire(DueReservation(account.shard, rid, account))
    assert expired is not None
    if late is not None:
        settled = await ledger.settle(
            account, rid, table, table.vector(late), packb(event), tokens=1,
            reserved_at_ms=hold.reserved_at_ms,
        )  # fmt: skip
        assert settled.outcome == "settled_late"


async def test_the_plan_on_the_page_is_what_is_printed(used: Desk, tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "prices.md").read_text()
    _, _, block = page.partition("```console\n$ creditgate prices plan ")
    words, _, shown = block.partition("```")[0].partition("\n")
    new = new_config(tmp_path, prices("5", "6000"), costs={"small": prices("3")["small"]})
    said = await used.run("prices", "plan", new, *words.split()[1:])
    assert (said.code, said.out) == (1, " ".join(shown.split()))


async def test_it_plans_on_an_embedded_ledger_that_nobody_runs(used: Desk, tmp_path: Path) -> None:
    config = yaml.safe_load(used.config.read_text())
    del config["redis"]["url"]
    used.config.write_text(yaml.safe_dump(config))
    command = [
        "prices",
        "plan",
        new_config(tmp_path, prices("5")),
        "--json",
        "-c",
        str(used.config),
    ]
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway.cli", *command],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert json.loads(ran.stdout)["total"]["change"] == "0.0001"
