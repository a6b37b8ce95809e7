"""Rates of all gates, from one report of a gate to the next."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.admin.console.feed import Feed
from gateway.domain.gates import GONE_AFTER_MS, GateFigures, GateReport
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.operations.backend import Backend
from tests.support.until import until


class Ledger:
    """Gates that report what a test says."""

    def __init__(self) -> None:
        self.now_ms = 1000
        self.reports: Sequence[GateReport] = ()
        self.away = False

    async def ledger_time_ms(self) -> int:
        if self.away:
            raise LedgerUnavailable("the ledger is away")
        return self.now_ms

    async def list_gates(self, now_ms: int) -> Sequence[GateReport]:
        return self.reports

    def report(self, name: str = "a", **figures: Any) -> GateReport:
        return GateReport(name, "1", "h:1", "h:2", 1, self.now_ms, figures=GateFigures(**figures))


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def feed_of(ledger: Ledger, every_s: float = 60.0) -> Feed:
    backend = SimpleNamespace(ledger_time_ms=ledger.ledger_time_ms, list_gates=ledger.list_gates)
    return Feed(cast(Backend, backend), asyncio.Event(), every_s=every_s)


async def test_the_first_report_of_a_gate_gives_no_rates(ledger: Ledger) -> None:
    ledger.reports = [ledger.report(allowed=500, holds_open=2, held_nano=7)]
    sample = await feed_of(ledger).latest()
    assert (sample.measured, sample.rates.allowed_per_s) == (False, 0)
    assert (sample.holds_open, sample.held_nano) == (2, 7)


async def test_without_gates_nothing_happens_and_that_is_known(ledger: Ledger) -> None:
    assert (await feed_of(ledger).latest()).measured


async def test_rates_of_several_gates_are_added(ledger: Ledger) -> None:
    feed = feed_of(ledger, 0.01)
    ledger.reports = [ledger.report("a", allowed=0), ledger.report("b", allowed=0)]
    await feed.latest()
    ledger.now_ms += 2000
    ledger.reports = [ledger.report("a", allowed=20), ledger.report("b", allowed=10)]
    await until(lambda: feed.samples[-1].measured)
    assert feed.samples[-1].rates.allowed_per_s == 15


async def test_a_report_that_is_seen_twice_keeps_its_rates(ledger: Ledger) -> None:
    feed = feed_of(ledger, 0.01)
    ledger.reports = [ledger.report(allowed=0)]
    await feed.latest()
    ledger.now_ms += 2000
    ledger.reports = [ledger.report(allowed=20)]
    await until(lambda: feed.samples[-1].measured)
    before = len(feed.samples)
    await until(lambda: len(feed.samples) > before + 2)
    assert feed.samples[-1].rates.allowed_per_s == 10
    assert feed.smoothed().rates.allowed_per_s == 10


async def test_a_gate_that_is_silent_counts_no_more(ledger: Ledger) -> None:
    ledger.reports = [ledger.report(holds_open=3, in_flight=3, lag_events=9)]
    ledger.now_ms += GONE_AFTER_MS + 1
    sample = await feed_of(ledger).latest()
    assert len(sample.gates) == 1
    assert (sample.present, sample.holds_open, sample.in_flight, sample.lag_events) == ([], 0, 0, 0)


async def test_refusals_are_counted_by_reason_the_most_frequent_first(ledger: Ledger) -> None:
    feed = feed_of(ledger, 0.01)
    ledger.reports = [ledger.report(denied={})]
    await feed.latest()
    ledger.now_ms += 1000
    ledger.reports = [ledger.report(denied={"bad_key": 1, "rate_limit": 5})]
    await until(lambda: feed.samples[-1].measured)
    assert list(feed.refused()) == ["rate_limit", "bad_key"]


async def test_a_ledger_that_is_away_is_said_and_followed_again(ledger: Ledger) -> None:
    feed = feed_of(ledger, 0.01)
    ledger.away = True
    assert (await feed.latest()).problem == "the ledger is away"
    ledger.away = False
    await until(lambda: not feed.samples[-1].problem)


async def test_everybody_who_follows_gets_the_same_samples(ledger: Ledger) -> None:
    feed = feed_of(ledger, 0.01)
    one, two = feed.follow(), feed.follow()
    first, second = await asyncio.gather(anext(one), anext(two))
    assert first is second
