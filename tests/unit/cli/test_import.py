"""`creditgate import`, next to a gate that serves the customers at once."""

import csv
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.wallets import Wallets
from tests.support.delivering import delivered, exporting
from tests.support.gate import BROKE_KEY, Gate, digest, running_gate
from tests.support.upstreams import Sim

from .desk import Desk

HEADER = "id,plan,balance,category,expiry,key_hash,key_algorithm,name,email,external.stripe\n"
PLANS: dict[str, Any] = {
    "starter": {"limits": []},
    "gift": {"grants": [{"name": "welcome", "amount": "5.00"}], "credit_limit": "2.00"},
}


@pytest.fixture
async def gate(tmp_path: Path, valkey_socket: Path, sim: Sim) -> AsyncIterator[Gate]:
    async with running_gate(tmp_path, valkey_socket, sim.url, plans=PLANS) as running:
        yield running


def line(customer: str, balance: str = "12.50", key: str = "", **more: str) -> str:
    """A line of a file; key: the API key itself."""
    cells = {
        "id": customer,
        "plan": "starter",
        "balance": balance,
        "key_hash": digest(key) if key else "",
        "key_algorithm": "sha256" if key else "",
        **more,
    }
    return ",".join(cells.get(column, "") for column in HEADER.strip().split(",")) + "\n"


def write(tmp_path: Path, *lines: str, header: str = HEADER) -> str:
    file = tmp_path / "customers.csv"
    file.write_text(header + "".join(lines))
    return str(file)


async def chat(gate: Gate, key: str) -> httpx.Response:
    body = {"model": "small", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
    return await gate.post("/v1/chat/completions", body, {"authorization": f"Bearer {key}"})


async def balance(desk: Desk, customer_id: str) -> str:
    shown: str = (await desk.ask("wallet", "show", customer_id))["balance"]
    return shown


async def test_imported_customers_are_served_with_their_old_keys(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    more = {"name": "Zoë", "email": "zoe@example.com", "external.stripe": "cus_1"}
    file = write(tmp_path, line("ada", key="sk-old-ada"), line("zoe", "0.000000001", **more))
    said = await desk.ask("import", file, "--apply")
    assert (said["customers"], said["keys"], said["rejected"]) == (2, 1, 0)
    assert said["balances"] == said["credited"] == "12.500000001"
    assert said["matched"]
    assert await balance(desk, "ada") == "12.5"
    assert (await chat(gate, "sk-old-ada")).status_code == 200
    found = await gate.store.customers.find_external("stripe", "cus_1")
    assert found is not None
    assert (found.customer_id, found.name, found.plan) == ("zoe", "Zoë", "starter")
    assert found.terms_digest != ""
    page = await gate.store.customers.page()
    assert [record.customer_id for record in page.records] == ["ada", "zoe"]
    await gate.settle_all()
    assert (await desk.ask("verify"))["clean"]


async def test_a_dry_run_changes_nothing(desk: Desk, gate: Gate, tmp_path: Path) -> None:
    file = write(tmp_path, line("ada", key="sk-old-ada"), line("bad", "ten"))
    said = await desk.run("import", file, "--dry-run", "--json")
    assert said.code == 1, "a line was rejected"
    assert '"applied":false,"customers":1' in said.out
    assert await gate.store.customers.count() == 0
    assert (await chat(gate, "sk-old-ada")).status_code == 401


async def test_importing_again_changes_nothing(desk: Desk, gate: Gate, tmp_path: Path) -> None:
    file = write(tmp_path, line("ada", key="sk-old-ada"), line("bob", "0"))
    await desk.ask("import", file, "--apply")
    before = await gate.store.wallets.read(["ada", "bob"])
    said = await desk.ask("import", file, "--apply")
    assert (said["customers"], said["present"], said["credited"]) == (0, 2, "12.5")
    assert await gate.store.wallets.read(["ada", "bob"]) == before


async def test_an_interrupted_import_is_completed_by_repeating_it(
    desk: Desk, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"c{number}" for number in range(20)]
    file = write(tmp_path, *(line(name, "3", key=f"sk-old-{name}") for name in names))
    calls = 0
    grant = Wallets.grant

    async def failing(self: Wallets, *args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 2:
            raise LedgerUnavailable("the connection was lost")
        made = await grant(self, *args, **more)
        if calls % 3 == 0:
            raise LedgerUnavailable("the answer was lost", unknown=True)
        return made

    with monkeypatch.context() as patched:
        patched.setattr(Wallets, "grant", failing)
        said = await desk.refused("import", file, "--apply")
    assert "Run the import again" in said
    assert (await chat(gate, "sk-old-c1")).status_code == 401, "its wallet is not filled"
    done = await desk.ask("import", file, "--apply")
    assert (done["credited"], done["matched"]) == ("60", True)
    assert {await balance(desk, name) for name in names} == {"3"}
    # Not that of c1: a worker remembers for two seconds that it is unknown.
    assert (await chat(gate, "sk-old-c2")).status_code == 200
    await gate.settle_all()
    assert (await desk.ask("verify"))["clean"]


async def test_rejects_are_written_with_line_and_reason_and_can_be_corrected(
    desk: Desk, tmp_path: Path
) -> None:
    file = write(
        tmp_path,
        line("ada", name='"Ada, first"'),
        line("ann", name='"Ann\nAnn"'),
        line("bob", "1.0000000001"),
        line("ada"),
        line("cyd", plan="gold"),
        line("acme"),
        line("dan", category="gift"),
        line("eve", expiry="2020-01-01"),
        line("fay", "-2"),
        line("gus", "1", key_hash="sk-pasted"),
        line("hal", "1", key_hash="0" * 64, key_algorithm="bcrypt"),
        line("ivy", "1", key=BROKE_KEY),
        "jan,starter\n",
    )
    said = await desk.run("import", file, "--apply", "--json")
    assert said.code == 1
    rejects = tmp_path / "customers.rejects.csv"
    with rejects.open(newline="") as lines:
        read = list(csv.DictReader(lines))
    reasons = {row["id"]: (int(row["line"]), row["reason"]) for row in read}
    expected = {
        "ann": (3, "printable characters"),
        "bob": (5, "nine decimals"),
        "ada": (6, "line 2 has the id ada already"),
        "cyd": (7, "there is no plan gold in the configuration"),
        "acme": (8, "in the configuration already"),
        "dan": (9, "'gift' is none of paid, promotional"),
        "eve": (10, "has passed"),
        "fay": (11, "creditgate adjust"),
        "gus": (12, "64 hexadecimal digits"),
        "hal": (13, "'bcrypt' cannot be checked by a gate"),
        "ivy": (14, "belongs to broke already"),
        "jan": (15, "it has 2 values; the first line has 10"),
    }
    assert reasons.keys() == expected.keys()
    for name, (number, part) in expected.items():
        assert reasons[name][0] == number
        assert part in reasons[name][1]
    assert "sk-pasted" not in said.out + "".join(reason for _, reason in reasons.values())
    assert '"balances":"12.5","credited":"12.5"' in said.out

    corrected = "".join(
        text
        for text in rejects.read_text().splitlines(keepends=True)
        if ",bob," in text or "line" in text[:4]
    )
    rejects.write_text(corrected.replace("1.0000000001", "1"))
    again = await desk.ask("import", str(rejects), "--apply")
    assert (again["customers"], again["credited"]) == (1, "1")


async def test_a_changed_line_is_not_imported_a_second_time(desk: Desk, tmp_path: Path) -> None:
    await desk.ask("import", write(tmp_path, line("ada", "5"), line("bob", "5")), "--apply")
    said = await desk.run(
        "import", write(tmp_path, line("ada", "6"), line("bob", "5", name="Bob")), "--apply"
    )
    assert said.code == 1
    assert "line 2: a balance of ada was imported already, with another amount" in said.err
    assert "line 3: there is a customer bob already, with another name" in said.err
    assert (await balance(desk, "ada"), await balance(desk, "bob")) == ("5", "5")


async def test_what_plans_give_comes_on_top_and_is_said(desk: Desk, tmp_path: Path) -> None:
    said = await desk.run("import", write(tmp_path, line("ada", "3", plan="gift")), "--apply")
    assert said.code == 0
    assert "In addition, plans gave new customers 5 credits." in said.out
    assert await balance(desk, "ada") == "8"


async def test_category_and_expiry_are_those_of_the_file(
    desk: Desk, gate: Gate, tmp_path: Path
) -> None:
    more = {"category": "promotional", "expiry": "2130-01-01"}
    await desk.ask("import", write(tmp_path, line("ada", "3", **more)), "--apply")
    [grant] = (await gate.store.wallets.read(["ada"]))["ada"].grants
    assert (grant.category, grant.expires_at_ms) == ("promotional", 5_049_129_600_000)


async def test_an_import_is_one_entry_of_the_audit_log(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    file = write(tmp_path, line("ada", "3"), line("bob", "4"))
    async with exporting(gate):
        await desk.ask("import", file, "--apply", "--reason", "moving in")
        await delivered(gate)
    [entry] = (await desk.ask("audit", "--action", "customer"))["entries"]
    assert (entry["action"], entry["subject"], entry["reason"]) == (
        *("customer.import", "customers.csv", "moving in"),
    )
    sha256 = digest(HEADER + line("ada", "3") + line("bob", "4"))
    assert entry["after"] == {"customers": 2, "balances": "7", "rejected": 0, "sha256": sha256}
    grants = (await desk.ask("audit", "--action", "grant.create"))["entries"]
    assert {(each["customer_id"], each["reason"]) for each in grants} >= {
        *(("ada", "moving in"), ("bob", "moving in")),
    }


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("id,balanc\n", "'balanc' is not a column of an import. Did you mean 'balance'?"),
        ("plan,balance\n", "`id` among them"),
        ("id,id\n", "the column id is there twice"),
        ("", "`id` among them"),
    ],
)
async def test_a_file_with_other_columns_is_refused(
    desk: Desk, tmp_path: Path, header: str, said: str
) -> None:
    assert said in await desk.refused("import", write(tmp_path, header=header), "--dry-run")


async def test_one_of_the_two_ways_must_be_named(desk: Desk, tmp_path: Path) -> None:
    file = write(tmp_path, line("ada"))
    assert (await desk.run("import", file)).code == 2
    assert (await desk.run("import", file, "--dry-run", "--apply")).code == 2


async def test_with_a_pepper_keys_are_those_that_were_hashed_with_it(
    tmp_path: Path, valkey_socket: Path, sim: Sim
) -> None:
    auth = {"key_pepper": "salt and pepper"}
    keyed = hmac.new(b"salt and pepper", b"sk-old-ada", hashlib.sha256).hexdigest()
    more = {"key_hash": keyed, "key_algorithm": "hmac-sha256"}
    async with running_gate(tmp_path, valkey_socket, sim.url, auth=auth, plans=PLANS) as gate:
        desk = Desk(tmp_path / "gateway.yaml")
        file = write(tmp_path, line("ada", **more), line("bob", key="sk-old-bob"))
        said = await desk.run("import", file, "--apply")
        assert "gates hash keys with hmac-sha256, since `auth.key_pepper` is set" in said.err
        assert (await chat(gate, "sk-old-ada")).status_code == 200
        assert await gate.store.customers.read("bob") is None
