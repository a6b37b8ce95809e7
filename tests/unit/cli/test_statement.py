"""`creditgate statement`, `roll-forward` and `rerate`, as a user types them, next to a running gate."""

import csv
import datetime as dt
import io
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.billing_periods import billing_period
from gateway.exporter.main import Exporter
from tests.support.gate import Gate
from tests.support.stores import events_path, sqlite_sink

from .desk import Desk


@pytest.fixture
async def month(gate: Gate) -> str:
    """acme has used 10 input and 20 output tokens of `small` this month, and the store knows."""
    answer = await gate.chat("hi\nsim: input=10 tokens=20", max_tokens=20)
    assert answer.status_code == 200
    await gate.settle_all()
    exporter = Exporter(gate.outbox, gate.ledger, sqlite_sink(events_path(gate.settings)))
    exporter.begin()
    await exporter.drain(10)
    return f"{dt.datetime.now(dt.UTC):%Y-%m}"


def window(month: str) -> tuple[str, ...]:
    """The month as `--from` and `--to`."""
    period = billing_period(month)
    ends = (period.start_ms, period.end_ms)
    first, last = (dt.datetime.fromtimestamp(ms // 1000, dt.UTC).isoformat() for ms in ends)
    return "--from", first, "--to", last


async def test_a_statement_is_shown_in_every_form(desk: Desk, month: str, tmp_path: Path) -> None:
    asked = ("statement", "show", "acme", "--period", month)
    said = await desk.run(*asked)
    assert said.code == 0, said
    for words in (
        f"acme, {month} (",
        "open: figures may still change",
        "small output p_",
        "20 4 /M 0.00008",
        "1 requests 0.00009",
        "start paid never 0 10 -0.00009 9.99991",
        "Credit granted 10 Usage -0.00009 Closing balance 9.99991",
    ):
        assert words in said.out, words
    document = json.loads((await desk.run(*asked, "--format", "json")).out)
    assert (document["statement_version"], document["sha256"]) == (1, None)
    assert document["balance"]["closing"] == "9.99991"
    page = await desk.run(*asked, "--format", "html")
    assert page.out.startswith("<!doctype html> <html")
    assert "9.99991" in page.out
    file = tmp_path / "s.csv"
    said = await desk.run(*asked, "--format", "csv", "-o", str(file))
    assert (said.code, said.out) == (0, "")
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert [row["amount"] for row in rows if row["item"] == "closing"] == ["9.99991"]
    text = tmp_path / "s.txt"
    await desk.run(*asked, "-o", str(text))
    assert "Closing balance" in text.read_text()


async def test_a_customer_without_a_fee_has_no_subscription_and_one_with_has(
    gate: Gate, desk: Desk, month: str
) -> None:
    said = await desk.run("statement", "show", "acme", "--period", month)
    assert "Subscription" not in said.out
    config = desk.config.read_text()
    plan = "plans: {pro: {fee: '49.00', fee_unit: EUR}}\n"
    desk.config.write_text(plan + config.replace("  acme:\n", "  acme:\n    plan: pro\n"))
    said = await desk.run("statement", "show", "acme", "--period", month)
    assert "Plan pro, monthly fee 49 EUR" in said.out


async def test_a_statement_of_nobody_or_no_month_is_refused(desk: Desk, month: str) -> None:
    err = await desk.refused("statement", "show", "acmee", "--period", month)
    assert "there is no customer acmee" in err
    said = await desk.run("statement", "show", "acme", "--period", "2027-13")
    assert said.code == 2
    assert "is not a month" in said.err.replace("│ ", "")


async def test_a_month_that_runs_is_not_closed_and_one_before_is(desk: Desk, month: str) -> None:
    said = await desk.run("statement", "close", month, "--customer", "acme")
    assert said.code == 1
    assert f"acme: {month} of acme ends at " in said.err
    before = await desk.ask("statement", "close", "2020-01")
    assert {each["customer_id"]: each["closed"] for each in before} == {"acme": True, "broke": True}
    again = await desk.run("statement", "close", "2020-01")
    assert again.out.count("(before)") == 2, again
    shown = await desk.run("statement", "show", "acme", "--period", "2020-01")
    assert f"SHA-256 {before[0]['sha256']}" in shown.out


async def test_the_roll_forward_is_printed_in_every_form(desk: Desk, month: str) -> None:
    said = await desk.run("roll-forward", "--period", month)
    assert said.code == 0, said
    assert f"{month}, 2 customers" in said.out
    assert "paid promotional allowance adjustment overdraft total" in said.out
    assert "granted 10 0 0 0 0 10 used -0.00009 0 0 0 0 -0.00009 closing 9.99991" in said.out
    said = await desk.run("roll-forward", "--period", month, "--format", "json")
    assert json.loads(said.out)["total"]["closing"] == "9.99991"
    said = await desk.run("roll-forward", "--period", month, "--format", "csv")
    assert f"{month},paid,0,10,0,-0.00009,0,0,0,0,9.99991" in said.out


async def test_a_rerate_is_shown_then_made_once(desk: Desk, month: str, tmp_path: Path) -> None:
    async def version(model: str) -> Any:
        books = json.loads((await desk.run("prices", "show", "--json")).out)
        return books["models"][model]["price_version"]

    file = tmp_path / "changes.csv"
    asked = ("rerate", "--model", "small", *window(month), "--price-version", await version("dear"))
    shown = await desk.run(*asked, "-o", str(file))
    assert shown.code == 0, shown
    assert "acme 1 0.00009 0.09 -0.08991 1 planned" in shown.out
    assert "Nothing was changed." in shown.out
    (line,) = csv.DictReader(io.StringIO(file.read_text()))
    assert (line["paid"], line["would_be"], line["change"]) == ("0.00009", "0.09", "-0.08991")
    assert line["operation_id"] == f"rerate:{line['event_id']}:{line['new_price_version']}"
    made = await desk.ask(*asked, "--apply")
    assert made["customers"][0]["requests"] == {"applied": 1}
    assert (await desk.ask("wallet", "show", "acme"))["balance"] == "9.91"
    again = await desk.ask(*asked, "--apply")
    assert again["customers"][0]["requests"] == {"done": 1}
    assert (await desk.ask("wallet", "show", "acme"))["balance"] == "9.91"
    nothing = await desk.run(*asked[:2], "other", *asked[3:])
    assert "No request of this model came in this time." in nothing.out
    reverse = ("--from", asked[6], "--to", asked[4])
    said = await desk.run(*asked[:3], *reverse, *asked[7:])
    assert said.code == 2
