"""The steps of the day, in order. Each one checks its figures and then that everything agrees."""

import csv
import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.domain.money import format_amount, parse_amount
from loadtest.day.business import MODEL, Business, DayFailed, equal
from loadtest.day.customers import NANO, Customer, write_file
from loadtest.day.payment import TOP_UP_CENTS, report_payment

PRICES: Final = {"input": "0.50", "output": "2.00"}
WRONG_PRICES: Final = {"input": "5.00", "output": "20.00"}

_MADE: Final = {
    "customer.import": 1,
    "grant.create": 0,
    "mode.set": 3,
    "prices.apply": 2,
    "key.rotate": 1,
    "refund.create": 1,
}
"""Changes that the day makes, and how many; 0 for as many as the file has."""


class Day:
    """One business day. `imported_nano` and what follows are counted here, not read back."""

    def __init__(self, business: Business, folder: Path, load: int) -> None:
        """load: requests of each step that sends some"""
        self._b = business
        self._file = folder / "customers.csv"
        self._invoices = folder / "invoices.csv"
        self._load = load
        self._expected_nano = 0
        self._leaked: Customer | None = None
        self._topped_up = ""
        self.steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("Import the customers and their balances", self.import_customers),
            ("Shadow: decide everything, refuse nothing", self.shadow),
            ("Compare shadow charges with the invoices", self.compare),
            ("Enforce", self.enforce),
            ("A wrong price, noticed and re-rated", self.wrong_price),
            ("A leaked key", self.leaked_key),
            ("A refund", self.refund),
            ("A top-up at Stripe, reported twice", self.top_up),
            ("A statement", self.statement),
            ("Back to bypass", self.bypass),
            ("The audit log", self.audit),
        )

    def import_customers(self) -> str:
        """A file of another billing system: tried first, then applied, then applied again."""
        b = self._b
        write_file(self._file, b.customers)
        total_nano = sum(each.balance_nano for each in b.customers)
        b.run("import", str(self._file), "--dry-run")
        began = time.monotonic()
        b.run("import", str(self._file), "--apply")
        took_s = time.monotonic() - began
        equal("credit imported", b.live_nano(), total_nano)
        b.run("import", str(self._file), "--apply")
        equal("credit after a second import", b.live_nano(), total_nano)
        self._expected_nano = total_nano
        return (
            f"{len(b.customers):,} customers, {format_amount(total_nano)} credits, {took_s:.1f} s"
        )

    def shadow(self) -> str:
        """Live wallets stay as they are, and nobody is refused."""
        b = self._b
        b.run("mode", "set", "shadow", "--reason", "first day: look, refuse nothing")
        time.sleep(1)
        statuses = b.load(self._load)
        equal("statuses in shadow mode", dict(statuses), {200: self._load})
        b.verify()
        equal("live balances", b.live_nano(), self._expected_nano)
        report = b.ask("report", "shadow", "--since", "1d")
        [requests, charged, would_refuse] = _totals(report, "requests", "charged", "would_refuse")
        equal("requests in the shadow report", requests, self._load)
        if not would_refuse:
            raise DayFailed("one customer in twenty has no credit, but none would be refused")
        return f"{requests:,} requests, {charged} credits, {would_refuse:,} would be refused"

    def compare(self) -> str:
        """Invoices for the same usage agree, except the one that was written wrong."""
        b = self._b
        report = b.ask("report", "shadow", "--since", "1d")
        month = f"{dt.datetime.now(dt.UTC):%Y-%m}"
        wrong = report["lines"][0]["customer"]
        with self._invoices.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("customer_id", "period", "amount"))
            for row in report["lines"]:
                nano = parse_amount(row["charged"]) + (NANO if row["customer"] == wrong else 0)
                rows.writerow((row["customer"], month, format_amount(nano)))
        compared = b.ask("compare", "--invoices", str(self._invoices))
        differing = [
            row for row in compared["lines"] if parse_amount(row["difference"], signed=True)
        ]
        equal("invoices that differ", [row["customer"] for row in differing], [wrong])
        return f"{len(compared['lines']):,} invoices, 1 differs by {differing[0]['difference']}"

    def enforce(self) -> str:
        """Who has no credit is refused; what is charged leaves the wallets to the unit."""
        b = self._b
        b.run("mode", "set", "enforce", "--reason", "the figures agree")
        time.sleep(1)
        statuses = b.load(self._load)
        if set(statuses) != {200, 402}:
            raise DayFailed(f"expected 200 and 402 alone, got {dict(statuses)}")
        self._settle_up()
        return f"{statuses[200]:,} served, {statuses[402]:,} refused"

    def wrong_price(self) -> str:
        """Ten times too much for a while; re-rating leaves what the right price would have charged."""
        b = self._b
        version = b.ask("prices", "show")["models"][MODEL]["price_version"]
        self._apply_price(WRONG_PRICES, "new prices")
        since, before_nano = _now(), b.live_nano()
        served = b.load(self._load // 4, self._with_credit())[200]
        b.verify()
        high_nano = before_nano - b.live_nano()
        self._apply_price(PRICES, "the point was in the wrong place")
        until = _now()
        rerated = b.ask(
            "rerate", "--model", MODEL, "--from", since, "--to", until, "--price-version", version,
            "--apply",
        )  # fmt: skip
        b.verify()
        right_nano = before_nano - b.live_nano()
        given_back = parse_amount(rerated["change"], signed=True)
        equal("given back", given_back, high_nano - right_nano)
        # Each charge is rounded up, so that ten times the right one may be less than the high one.
        if not 0 <= 10 * right_nano - high_nano < 10 * served:
            raise DayFailed(f"charged {high_nano}, of which {right_nano} are left")
        self._settle_up()
        return f"{served:,} requests, {format_amount(given_back)} credits given back"

    def leaked_key(self) -> str:
        """Rotated without grace: the leaked key ends within a second, the new one works."""
        b = self._b
        customer = self._leaked = self._with_credit()[0]
        [leaked] = b.ask("key", "list", customer.customer_id)
        new = b.ask(
            "key", "rotate", leaked["key_id"], "--grace", "0", "--reason", "posted in a forum"
        )
        took_s = b.until(
            lambda: b.chat(customer.key).status_code == 401, "the leaked key is refused"
        )
        equal("status with the new key", b.chat(new["key"]).status_code, 200)
        self._settle_up()
        return f"{customer.customer_id}: the leaked key was refused after {took_s:.2f} s"

    def refund(self) -> str:
        """One request's charge, in full; a second time with the same key changes nothing."""
        b = self._b
        customer = self._with_credit()[1]
        request_id = b.chat(customer.key).headers["x-request-id"]
        b.verify()
        event_id = f"{request_id}:settled"
        before = b.balances_nano()[customer.customer_id]
        words = ("refund", event_id, "--reason", "the answer was cut", "--key", "case-17")
        refunded = parse_amount(b.ask(*words)["amount"])
        b.ask(*words)
        b.verify()
        equal(
            "the balance after the refund",
            b.balances_nano()[customer.customer_id],
            before + refunded,
        )
        self._expected_nano = b.live_nano()
        return f"{customer.customer_id}: {format_amount(refunded)} credits"

    def top_up(self) -> str:
        """A signed report, delivered twice, credits once."""
        b = self._b
        customer = next(each for each in b.customers if not each.balance_nano)
        self._topped_up = customer.customer_id
        equal("status before", b.chat(customer.key).status_code, 402)
        for _ in range(2):
            report_payment(b.console_url, customer)
        balance = b.balances_nano()[customer.customer_id]
        equal("the balance after the top-up", balance, TOP_UP_CENTS * NANO // 100)
        self._expected_nano += balance
        equal("status after", b.chat(customer.key).status_code, 200)
        self._settle_up()
        return f"{customer.customer_id}: {format_amount(balance)} credits, then served"

    def statement(self) -> str:
        """Equal to the ledger, or the command fails."""
        customer = self._with_credit()[1]
        month = f"{dt.datetime.now(dt.UTC):%Y-%m}"
        shown = self._b.run(
            "statement", "show", customer.customer_id, "--period", month, "--format", "json"
        )
        document = orjson.loads(shown)
        return f"{customer.customer_id}: {len(document)} parts"

    def bypass(self) -> str:
        """Everything passes, nothing is charged."""
        b = self._b
        b.run("mode", "set", "bypass", "--reason", "the ledger's server is replaced tonight")
        time.sleep(1)
        statuses = b.load(self._load // 4, [each for each in b.customers if each != self._leaked])
        equal("statuses in bypass mode", dict(statuses), {200: self._load // 4})
        b.verify()
        equal("live balances", b.live_nano(), self._expected_nano)
        return f"{statuses[200]:,} served, 0 charged"

    def audit(self) -> str:
        """Every change of the day is there, as often as it was made, with who and why."""
        counts = {action: self._b.count_changes(action) for action in _MADE}
        with_credit = sum(each.balance_nano > 0 for each in self._b.customers)
        equal("grants in the audit log", counts["grant.create"], with_credit + 1)
        equal(
            "changes in the audit log",
            {a: counts[a] for a in _MADE if _MADE[a]},
            {action: count for action, count in _MADE.items() if count},
        )
        return ", ".join(f"{action} {count:,}" for action, count in counts.items())

    def pages(self) -> dict[str, str]:
        """Pages of the console that show this day, by name."""
        return {
            "day-customer": f"/console/customers/{self._topped_up}",
            "day-usage": "/console/usage",
            "day-audit": "/console/audit",
        }

    # What several steps do

    def _settle_up(self) -> None:
        """Everything agrees, and live wallets went down by exactly what the report says."""
        b = self._b
        b.verify()
        charged_nano = b.charged_nano()
        self._expected_nano = b.live_nano()
        granted = sum(each.balance_nano for each in b.customers) + self._topped_up_nano()
        equal("balances and charges together", self._expected_nano + charged_nano, granted)

    def _topped_up_nano(self) -> int:
        payments: list[Any] = self._b.ask("audit", "--since", "1d", "--actor", "webhook:stripe")[
            "entries"
        ]
        return (
            TOP_UP_CENTS
            * NANO
            // 100
            * any(entry["action"] == "grant.create" for entry in payments)
        )

    def _with_credit(self) -> list[Customer]:
        balances = self._b.balances_nano()
        return [each for each in self._b.customers if balances[each.customer_id] > NANO]

    def _apply_price(self, prices: dict[str, str], reason: str) -> None:
        def change(document: dict[str, Any]) -> None:
            document["models"][MODEL]["prices"] = prices

        self._b.edit(change)
        self._b.run("prices", "apply", "--reason", reason)
        time.sleep(3)  # every gate has the book then


def _totals(report: Any, *columns: str) -> list[Any]:
    return [report["total"][column] for column in columns]


def _now() -> str:
    time.sleep(0.01)
    return f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
