"""What every store must sum up of one customer's usage: the same as the report, which reads every row.

A store's test file derives from `UsageContract` and supplies `sink` and `access`, as for `reading.py`.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.admin.index.index import Index
from gateway.admin.index.usage import UsageAsked
from gateway.domain.delivery import Place
from gateway.domain.event_rows import row_of
from gateway.domain.events import Event
from gateway.domain.stores import EventStore, StoreAccess
from gateway.domain.usage_sums import USAGE_GROUPS, UsageQuestion, UsageSum
from gateway.exporter.sink import Batch, Store
from gateway.operations.report import ReportRequest, report
from tests.unit.exporter.sinks.contract import make_event

MIDNIGHT: Final = 1_700_006_400_000
"""2023-11-15, UTC."""
BIG: Final = 9_007_199_254_740_993
"""What a float cannot hold."""


def used(seq: int, request: str, outcome: str = "settled", **changed: Any) -> Event:
    """A usage event of `small` by key_1 in `web`; model, key and project can be others, or None."""
    labels = {
        name: changed.pop(at, default)
        for name, at, default in (
            ("model", "model", "small"),
            ("key_id", "key", "key_1"),
            ("project_id", "project", "web"),
        )
    }
    fields = {"event_id": f"{request}:{outcome}", "occurred_at_ms": MIDNIGHT + seq, **changed}
    return make_event(seq, facts={"request_id": request, "livemode": True, **labels}, **fields)


def corrected(seq: int, nano: int, **facts: Any) -> Event:
    """A correction."""
    at = MIDNIGHT + seq
    fields: dict[str, Any] = {"usage": {}, "price_version": None, "occurred_at_ms": at}
    return make_event(
        seq, kind="adjust", event_id=f"fix-{seq}", amount_nano=nano, facts=facts, **fields
    )


EVENTS: Final = (
    used(0, "before", occurred_at_ms=MIDNIGHT - 1, amount_nano=40, usage={"input": 3}),
    used(1, "first", amount_nano=BIG, usage={"input": 1000, "output": 2, "cache_write_1h": 4}),
    used(2, "second", model="large", key="key_2", project=None, amount_nano=7, usage={"second": 9}),
    used(3, "gone", "released", kind="release", amount_nano=0, usage={"input": 5}),
    used(4, "slow", "expired", kind="expire", amount_nano=30, usage={"input": 10, "output": 1}),
    used(5, "slow", "settled_late", kind="settle_late", amount_nano=-8, usage={"input": 10}),
    used(6, "lone", "settled_late", kind="settle_late", amount_nano=2, usage={"image": 1}),
    corrected(7, 5, corrects="second:settled", reason='a "bad" answer'),
    corrected(8, -3, corrects="nothing:settled"),
    corrected(9, 1, reason="goodwill"),
    used(10, "free", amount_nano=0, usage={}),
    used(11, "theirs", customer_id="other", amount_nano=1, usage={"input": 1}),
    make_event(12, kind="grant", event_id="g", usage={}, occurred_at_ms=MIDNIGHT + 12),
    used(13, "nameless", model=None, key=None, amount_nano=11, usage={"request": 1}),
    used(14, "quote", model='o\'clock \\ "x"', amount_nano=4, usage={"input": 2}),
    used(15, "next day", occurred_at_ms=MIDNIGHT + 86_400_000, amount_nano=6, usage={"output": 3}),
)
"""Traps: the edges of a day, a late settlement with and without its expiry, corrections of an event,
of one that is not there, and of none, another customer, labels that are missing or need quotes."""

PERIODS: Final = (
    (0, 1 << 48),
    (MIDNIGHT, MIDNIGHT + 86_400_000),
    (MIDNIGHT + 5, MIDNIGHT + 10),
    (MIDNIGHT + 20, MIDNIGHT + 30),
)


def in_report(store: EventStore, question: UsageQuestion) -> list[UsageSum]:
    """The same from every row."""
    asked = ReportRequest(
        (question.by,), question.since_ms, question.until_ms, question.customer_id
    )
    return [
        UsageSum(
            label,
            line.requests,
            line.charged_nano,
            line.corrected_nano,
            {unit: quantity for unit, quantity in line.usage.items() if quantity},
        )
        for (label,), line in report(store, asked).lines.items()
    ]


class UsageContract:
    """Sums of a store that a sink has filled."""

    @pytest.fixture
    async def used_store(self, sink: Store, access: StoreAccess) -> AsyncIterator[EventStore]:
        await sink.open()
        await sink.write(Batch([row_of(event) for event in EVENTS[:9]]))
        await sink.write(Batch([row_of(event) for event in EVENTS[9:]]))
        with access.open() as store:
            yield store

    def test_one_customer_s_usage_is_summed_up_as_the_report_does(
        self, used_store: EventStore
    ) -> None:
        wrong = {}
        for by in USAGE_GROUPS:
            for since_ms, until_ms in PERIODS:
                question = UsageQuestion("acme", since_ms, until_ms, by)
                found, expected = used_store.usage_by(question), in_report(used_store, question)
                if found != expected:
                    wrong[question] = (found, expected)
        assert wrong == {}

    def test_the_sums_of_a_day_by_model(self, used_store: EventStore) -> None:
        question = UsageQuestion("acme", MIDNIGHT, MIDNIGHT + 86_400_000, "model")
        assert used_store.usage_by(question) == [
            UsageSum("", 1, 11, 2, {"request": 1}),
            UsageSum("large", 1, 7, -5, {"second": 9}),
            UsageSum("o'clock \\ \"x\"", 1, 4, 0, {"input": 2}),
            UsageSum(
                "small", 3, BIG + 24, 0,
                {"input": 1010, "output": 2, "cache_write_1h": 4, "image": 1},
            ),
        ]  # fmt: skip

    def test_days_are_named_by_their_date(self, used_store: EventStore) -> None:
        found = used_store.usage_by(UsageQuestion("acme", 0, 1 << 48, "day"))
        assert [each.label for each in found] == ["2023-11-14", "2023-11-15", "2023-11-16"]

    def test_another_customer_s_usage_is_not_in_it(self, used_store: EventStore) -> None:
        found = used_store.usage_by(UsageQuestion("other", 0, 1 << 48, "key"))
        assert found == [UsageSum("key_1", 1, 1, 0, {"input": 1})]
        assert used_store.usage_by(UsageQuestion("acme' OR 1 = 1 --", 0, 1 << 48, "key")) == []

    async def test_the_console_s_index_of_the_store_sums_up_as_the_report_does(
        self, sink: Store, used_store: EventStore, tmp_path: Path
    ) -> None:
        await sink.write(Batch((), {0: Place(1, EVENTS[-1].seq)}))
        index = Index(tmp_path / "index.db", used_store)
        try:
            assert index.step()
            made = await index.usage(UsageAsked(("customer", "model"), MIDNIGHT))
        finally:
            index.close()
        expected = report(used_store, ReportRequest(("customer", "model"), MIDNIGHT))
        amounts = {key: line.charged_nano for key, line in made.lines.items()}
        assert amounts == {key: line.charged_nano for key, line in expected.lines.items()}
        assert made.total.requests == expected.total.requests == 8
