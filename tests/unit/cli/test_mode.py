"""`creditgate mode`, `report shadow` and `compare`, next to a gate that serves."""

from pathlib import Path

from gateway.domain.customers import Mode
from gateway.domain.money import format_amount
from gateway.operations.invoices import billing_days, read_invoices
from tests.support.delivering import delivered, exporting
from tests.support.gate import BROKE_KEY, Gate
from tests.support.until import until

from .desk import Desk

QUICK = "hi\nsim: tokens=5"


async def in_force(gate: Gate, mode: Mode, customer_id: str = "acme") -> None:
    flow = gate.service.flow
    await until(lambda: flow.catalog.modes.of(customer_id)[0] == mode, within_s=2)


async def test_a_mode_is_that_of_a_customer_not_of_a_wallet(gate: Gate, desk: Desk) -> None:
    mode = ("mode", "set", "bypass", "--reason", "a drill", "--customer", "acme~test")
    assert "set the mode of acme" in (await desk.run(*mode)).err
    assert (await desk.ask("mode", "show"))["customers"] == {}


async def test_a_switch_is_followed_shown_and_reset(gate: Gate, desk: Desk) -> None:
    shown = await desk.ask("mode", "show")
    assert shown == {"everything": {"mode": "enforce", "source": "configuration"}, "customers": {}}
    said = await desk.run("mode", "set", "bypass", "--reason", "a drill")
    assert "Everything is in mode bypass." in said.out
    await in_force(gate, "bypass")
    assert (await gate.chat(QUICK)).status_code == 200
    await desk.run("mode", "set", "enforce", "--customer", "acme", "--reason", "first")
    await in_force(gate, "enforce")
    await in_force(gate, "bypass", "broke")
    shown = await desk.ask("mode", "show")
    assert (shown["everything"]["mode"], shown["everything"]["reason"]) == ("bypass", "a drill")
    assert shown["everything"]["actor"].startswith("command:")
    assert shown["customers"]["acme"]["mode"] == "enforce"
    again = await desk.ask("mode", "set", "bypass", "--reason", "again")
    assert (again["changed"], again["customers_with_their_own"]) == (False, 1)
    await desk.run("mode", "reset", "--reason", "over")
    await desk.run("mode", "reset", "--customer", "acme", "--reason", "over")
    await in_force(gate, "enforce", "broke")
    assert (await desk.ask("mode", "show"))["customers"] == {}


async def test_each_change_is_in_the_audit_log(gate: Gate, desk: Desk) -> None:
    async with exporting(gate):
        await desk.run("mode", "set", "shadow", "--customer", "acme", "--reason", "trial")
        await desk.run("mode", "reset", "--customer", "acme", "--reason", "over")
        await delivered(gate)
    reset, made = (await desk.ask("audit", "--action", "mode"))["entries"]
    assert (made["action"], made["subject"], made["reason"]) == ("mode.set", "acme", "trial")
    assert (made["before"], made["after"]) == ({"mode": None}, {"mode": "shadow"})
    assert made["actor"].startswith("command:")
    assert (reset["action"], reset["after"]) == ("mode.reset", {"mode": None})
    opened = (await desk.ask("audit", "--action", "shadow"))["entries"]
    assert {each["customer_id"] for each in opened} == {"acme~shadow"}
    assert {each["actor"] for each in opened} == {"gate:shadow"}


async def test_what_cannot_be_set_changes_nothing(desk: Desk) -> None:
    unknown = await desk.run("mode", "set", "shadow", "--customer", "acmee", "--reason", "typo")
    assert unknown.code == 1
    assert "there is no customer acmee" in unknown.err
    assert (await desk.run("mode", "set", "observe", "--reason", "x")).code == 2
    assert (await desk.run("mode", "set", "shadow")).code == 2, "a reason is needed"
    assert (await desk.ask("mode", "show"))["customers"] == {}


async def test_a_customer_who_enters_shadow_mode_has_a_wallet_at_once(
    gate: Gate, desk: Desk
) -> None:
    await desk.run("mode", "set", "shadow", "--customer", "acme", "--reason", "trial")
    assert (await desk.ask("wallet", "show", "acme~shadow"))["balance"] == "10"
    await in_force(gate, "shadow")
    assert (await gate.chat(QUICK)).status_code == 200
    await gate.settle_all()
    assert (await desk.ask("verify"))["clean"]
    assert (await desk.ask("wallet", "show", "acme"))["balance"] == "10"


async def test_months_of_invoices_begin_on_the_billing_day_of_customers_in_the_ledger_too(
    gate: Gate, desk: Desk
) -> None:
    await desk.run("customer", "create", "new", "--billing-day", "15")
    lines = [
        "customer_id,period,amount",
        "new,2027-01,1.00",
        "acme,2027-01,1.00",
        "nobody,2027-01,1",
    ]
    days = await billing_days(gate.store.wallets, read_invoices(lines))
    assert days == {"new": 15, "acme": 1}


async def test_shadow_charges_are_reported_and_compared(
    gate: Gate, desk: Desk, tmp_path: Path
) -> None:
    async with exporting(gate):
        await desk.run("mode", "set", "shadow", "--reason", "trial")
        await in_force(gate, "shadow")
        gate.headers["authorization"] = f"Bearer {BROKE_KEY}"
        answer = await gate.chat(QUICK)
        assert answer.status_code == 200
        await delivered(gate)
    charged = format_amount(await gate.settled_nano("broke~shadow"))
    [line] = (await desk.ask("report", "shadow"))["lines"]
    assert (line["customer"], line["requests"], line["would_refuse"]) == ("broke", 1, 1)
    assert line["charged"] == line["charged_of_these"] == line["needed"] == charged
    assert (await desk.ask("report", "usage"))["lines"] == []
    assert (await desk.run("report", "shadow", "--by", "reason", "--format", "csv")).out.startswith(
        "customer,reason,would_refuse,estimated"
    )
    invoices = tmp_path / "invoices.csv"
    invoices.write_text("customer_id,period,amount\nbroke,2027-01,1.00\n")
    compared = await desk.ask("compare", "--invoices", str(invoices))
    assert compared["unmatched"] == 1
    assert compared["lines"][0]["status"] == "not_charged"
    request_id = answer.headers["x-request-id"]

    async def noted() -> bool:
        """Refusals are written behind the answer."""
        return (await desk.ask("why", request_id))["refusal"] is not None

    await until(noted, within_s=5)
    story = await desk.ask("why", request_id)
    assert (story["decision"], story["refusal"]["mode"]) == ("allowed", "shadow")
    told = await desk.run("why", answer.headers["x-request-id"])
    assert "ran in shadow mode; refused otherwise with 402: insufficient_credits" in told.out
    wrong = await desk.run("compare", "--invoices", str(tmp_path / "none.csv"))
    assert wrong.code == 2
    assert "cannot read" in wrong.err
