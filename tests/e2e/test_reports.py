"""What was sold and what was refused, from a request to the metrics and the reports."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gateway.app.exporting import ExportService
from gateway.operations.refused_report import refusals_sheet
from gateway.operations.report import ReportRequest, report
from gateway.operations.sheets import sheet_document
from gateway.telemetry.exposition import render
from tests.support.delivering import delivered, exporting
from tests.support.gate import BROKE_KEY, Gate
from tests.support.stores import events_path, sqlite_access
from tests.support.until import until


def samples(service: ExportService) -> dict[tuple[str, str], float]:
    """Metric and its name's label → value, of what carries a customer or model."""
    families = text_string_to_metric_families(render(service.snapshot()).decode())
    return {
        (sample.name.removeprefix("creditgate_"), name): sample.value
        for family in families
        for sample in family.samples
        for label, name in sample.labels.items()
        if label in ("customer", "model")
    }


async def test_a_charge_is_a_metric_within_two_seconds_of_the_settle(gate: Gate) -> None:
    async with exporting(gate) as service:
        await delivered(gate)
        assert samples(service) == {}
        assert (await gate.chat("hi\nsim: tokens=5", max_tokens=8)).status_code == 200
        event = await gate.one_event()
        await until(lambda: samples(service), within_s=2)
        charged = event.amount_nano / 1e9
        assert samples(service) == {
            ("customer_requests", "acme"): 1,
            ("customer_charged_credits", "acme"): charged,
            ("customer_cost_credits", "acme"): 0,
            ("customer_margin_credits", "acme"): 0,
            ("customer_balance_credits", "acme"): event.balance_nano / 1e9,
            ("model_requests", "small"): 1,
            ("model_charged_credits", "small"): charged,
            ("model_cost_credits", "small"): 0,
            ("model_margin_credits", "small"): 0,
        }


async def test_a_refused_request_is_in_the_report_of_what_was_turned_away(gate: Gate) -> None:
    async with exporting(gate):
        broke = {"authorization": f"Bearer {BROKE_KEY}"}
        body = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
        refused = await gate.post("/v1/chat/completions", body, broke)
        assert refused.status_code == 402
        unknown = await gate.chat(model="gpt-9")
        assert unknown.status_code == 404
        path = events_path(gate.settings)
        await until(lambda: counted(path) == 2)
    with sqlite_access(path).open() as store:
        by_reason = ReportRequest(("customer", "reason", "model"))
        lines = sheet_document(refusals_sheet(store, by_reason))["lines"]
        assert report(store, ReportRequest(("customer",))).total.requests == 0
    said = re.search(r"can cost up to ([0-9.]+) credits", refused.text)
    assert said is not None
    assert lines == [
        {
            "customer": "acme",
            "reason": "unknown_model",
            "model": "gpt-9",
            "refused": 1,
            "estimated": "0",
        },
        {
            "customer": "broke",
            "reason": "insufficient_credits",
            "model": "small",
            "refused": 1,
            "estimated": said[1],
        },
    ]


def counted(path: Path) -> int:
    """Refusals that the store has."""
    with sqlite_access(path).open_or_empty() as store:
        return sum(hour.count for hour in store.refusals(None, None))
