"""Reports from a real store, against sums that are made of the raw events."""

import asyncio
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.events import Event
from gateway.domain.stores import EventStore
from gateway.operations.errors import OperationError
from gateway.operations.report import Report, ReportRequest, margin_sheet, report, usage_sheet
from gateway.operations.sheets import sheet_document
from tests.support.stores import sqlite_access
from tests.unit.exporter.sinks.contract import make_event

from .sold import DAY_MS, FIRST, labels, some_events, store_events

DIMENSIONS = ("customer", "project", "key", "model", "route", "upstream", "day", "hour", "kind")
OTHER_KINDS = ("grant", "release")
Figures = dict[str, int]


@contextmanager
def a_store(events: list[Event]) -> Iterator[EventStore]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.db"
        asyncio.run(store_events(path, events))
        with sqlite_access(path).open() as store:
            yield store


def label(event: Event, by: str, known: dict[str, Event]) -> str:
    corrected = known.get(str(event.facts.get("corrects")), event)
    moment = datetime.fromtimestamp(event.occurred_at_ms / 1000, UTC)
    facts = corrected.facts
    return {
        "customer": event.customer_id,
        "kind": event.kind,
        "day": f"{moment:%Y-%m-%d}",
        "hour": f"{moment:%Y-%m-%dT%H}:00Z",
        **{name: facts.get(name) or "" for name in ("model", "route", "upstream")},
        **{name: facts.get(f"{name}_id") or "" for name in ("project", "key")},
    }[by]


def expected(events: list[Event], request: ReportRequest) -> dict[tuple[str, ...], Figures]:
    """The figures of each line that is not empty, from the events alone."""
    known = {event.event_id: event for event in events}
    lines: dict[tuple[str, ...], Figures] = defaultdict(lambda: defaultdict(int))
    for event in events:
        if not (request.since_ms or 0) <= event.occurred_at_ms < (request.until_ms or 1 << 60):
            continue
        if request.customer_id not in (None, event.customer_id) or event.kind in OTHER_KINDS:
            continue
        line = lines[tuple(label(event, by, known) for by in request.by)]
        if event.kind == "adjust":
            line["corrected"] -= event.amount_nano
            continue
        line["requests"] += event.kind != "settle_late"
        line["charged"] += event.amount_nano
        line["cost"] += event.cost_nano or 0
        line["uncosted"] += event.amount_nano if event.cost_nano is None else 0
        for unit, quantity in event.usage.items():
            line[unit] += quantity
        if event.kind == "settle_late":
            before = known[event.event_id.replace(":settled_late", ":expired")]
            for unit, quantity in before.usage.items():
                line[unit] -= quantity
    return {key: without_zeros(line) for key, line in lines.items()}


def without_zeros(figures: Figures) -> Figures:
    return {name: number for name, number in figures.items() if number}


def figures(made: Report) -> dict[tuple[str, ...], Figures]:
    return {
        key: without_zeros(
            {
                "requests": line.requests,
                "charged": line.charged_nano,
                "corrected": line.corrected_nano,
                "cost": line.cost_nano,
                "uncosted": line.uncosted_nano,
                **line.usage,
            }
        )
        for key, line in made.lines.items()
    }


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.integers(0, 60),
    st.lists(st.sampled_from(DIMENSIONS), min_size=1, max_size=4, unique=True),
    st.tuples(st.integers(0, 4 * DAY_MS), st.integers(1, 5 * DAY_MS)),
    st.sampled_from([None, "acme", "zeta", "nobody"]),
)
def test_any_grouping_gives_the_sums_of_the_raw_events(
    seed: int, count: int, by: list[str], period: tuple[int, int], customer: str | None
) -> None:
    events = some_events(random.Random(seed), count)
    since = FIRST + period[0]
    with a_store(events) as store:
        for request in (
            ReportRequest(tuple(by), customer_id=customer),
            ReportRequest(tuple(by), since, since + period[1], customer),
        ):
            made = report(store, request)
            assert figures(made) == expected(events, request)
            summed: Figures = defaultdict(int)
            for line in figures(made).values():
                for name, number in line.items():
                    summed[name] += number
            assert figures(Report((), {(): made.total}, made.total, 0))[()] == without_zeros(summed)


def test_all_pairs_of_dimensions_have_one_sum() -> None:
    events = some_events(random.Random(3), 80)
    with a_store(events) as store:
        totals = [report(store, ReportRequest(by)).total for by in combinations(DIMENSIONS, 2)]
    assert len(totals) == 36
    for total in totals:
        other = without_zeros(total.usage), total.charged_nano, total.corrected_nano
        assert other == (
            without_zeros(totals[0].usage),
            totals[0].charged_nano,
            totals[0].corrected_nano,
        )


def test_a_late_settlement_counts_its_difference_on_its_own_day() -> None:
    chance = random.Random(1)
    facts = labels(chance, model="m")
    expiry = make_event(
        0, kind="expire", event_id="r:expired", amount_nano=100, usage={"output": 10},
        occurred_at_ms=FIRST + DAY_MS - 1, facts=facts, cost_nano=40,
    )  # fmt: skip
    late = make_event(
        1, kind="settle_late", event_id="r:settled_late", amount_nano=-30, usage={"output": 7},
        occurred_at_ms=FIRST + DAY_MS, facts=facts, cost_nano=-12,
    )  # fmt: skip
    with a_store([expiry, late]) as store:
        made = report(store, ReportRequest(("day",)))
        assert sheet_document(usage_sheet(made)) == {
            "lines": [
                {"day": "2024-10-04", "requests": 1, "output": 10, "charged": "0.0000001",
                 "corrected": "0", "cost": "0.00000004"},
                {"day": "2024-10-05", "requests": 0, "output": -3, "charged": "-0.00000003",
                 "corrected": "0", "cost": "-0.000000012"},
            ],
            "total": {"requests": 1, "output": 7, "charged": "0.00000007", "corrected": "0",
                      "cost": "0.000000028"},
        }  # fmt: skip
        only_late = report(store, ReportRequest(("day",), FIRST + DAY_MS))
        assert only_late.total.usage == {"output": -3}, "the expiry is before the period"


def test_a_refund_belongs_to_what_it_gives_back_and_lowers_the_margin() -> None:
    sold = make_event(0, amount_nano=1000, cost_nano=600, facts={"model": "m"})
    refund = make_event(
        1, kind="adjust", event_id="refund:x", amount_nano=100, usage={},
        facts={"corrects": sold.event_id},
    )  # fmt: skip
    with a_store([sold, refund]) as store:
        made = report(store, ReportRequest(("model",)))
    (line,) = made.lines.values()
    assert (line.charged_nano, line.corrected_nano, line.margin_nano) == (1000, -100, 300)
    assert line.margin_percent == Fraction(100, 3)
    ((shown),) = sheet_document(margin_sheet(made))["lines"]
    assert (shown["margin"], shown["margin_percent"]) == ("0.0000003", "33.33")


def test_charges_without_a_known_cost_are_no_margin() -> None:
    events = [make_event(0, amount_nano=1000, cost_nano=None), make_event(1, cost_nano=1)]
    with a_store(events) as store:
        total = report(store, ReportRequest(("customer",))).total
    assert (total.charged_nano, total.uncosted_nano) == (1701, 1000)
    assert total.margin_nano == 700
    with a_store(events[:1]) as store:
        assert report(store, ReportRequest(("day",))).total.margin_percent is None


def test_an_unknown_dimension_is_named_with_those_that_exist() -> None:
    with a_store([]) as store, pytest.raises(OperationError, match=r"'modell'.*customer, project"):
        report(store, ReportRequest(("modell",)))
